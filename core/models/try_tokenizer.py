"""Loads and uses a tokenizer: `python -m core.models.try_tokenizer`, in a sandbox.

What transformers does in the worker later is done here first, on the same files, without torch (a second less). Then
texts that make bad regular expressions and normalisers misbehave are encoded, and ids decoded.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.domains.sandboxed import Refusal, serve

MOST_TOKEN_CHARACTERS = 8192
MOST_ENTRIES = 1_500_000  # of a vocabulary; the largest honest ones have a million
MOST_SHARED_IDS = 1_000  # entries that have the id of another one
MOST_ADDED = 50_000
MOST_MERGES_AN_ENTRY = 8  # merges for each entry; the honest ones have two or three
MOST_GROWTH = 64  # of a text, by replacements
_REPEATED = ("a", " ", "0", "\n", "!", "aA", "a ", "'s", "ab1", "é", "你", "_-", "\u0301")
_PROBES = (
    "",
    " ",
    "Hello, world! The year 2024 isn't over.\n\tif (x): y = {'a': [1, 2]}",
    string.printable,
    "".join(chr(n) for n in range(0x20, 0x2FF)),
    "é e\u0301 你好 한국어 العربية \u202eabc\u202c 👨‍👩‍👧‍👦 \U0010ffff \x00",
    *(unit * (1500 // len(unit)) for unit in _REPEATED),
    "a" * 1500 + "!",
    "1" * 1500 + "x",
)


def main() -> None:
    """Serve a request with a `folder`, which is loaded, then one with `use`; its answer is the `largest_id`."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers then does without
    from transformers import AutoTokenizer

    loaded: list[Any] = []

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if "use" in request:
            return {"largest_id": _use(loaded[0])}
        folder = Path(request["folder"])
        _check_file(folder / "tokenizer.json")
        _check_added(folder)
        loaded[:] = [AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)]
        return {}

    serve(handle)


def _check_file(file: Path) -> None:
    """What can be told from the file alone. Raises `Refusal`."""
    if not file.exists():
        return
    content = json.loads(file.read_text("utf-8"))
    if isinstance(content, dict):
        _check_counts(content)
        _check_steps(content)


def _check_added(folder: Path) -> None:
    """Tokens added by other files than the tokenizer's own. Raises `Refusal`."""
    for name, key in (("added_tokens.json", None), ("tokenizer_config.json", "added_tokens_decoder")):
        file = folder / name
        content = json.loads(file.read_text("utf-8")) if file.exists() else {}
        count = len(content if key is None else content.get(key) or ())
        if count > MOST_ADDED:
            raise Refusal(f"{name} adds {count:,} tokens to its vocabulary, more than {MOST_ADDED:,}.")


def _check_counts(content: dict[str, Any]) -> None:
    """Entries that an honest tokenizer has no use for: each costs microseconds, here, in the window and in a run."""
    model = content.get("model")
    parts = {key: model.get(key) or () for key in ("vocab", "merges")} if isinstance(model, dict) else {}
    vocab, merges, added = parts.get("vocab", ()), parts.get("merges", ()), content.get("added_tokens") or ()
    if len(vocab) > MOST_ENTRIES:
        raise Refusal(f"its vocabulary has {len(vocab):,} entries, more than {MOST_ENTRIES:,}.")
    if len(added) > MOST_ADDED:
        raise Refusal(f"it adds {len(added):,} tokens to its vocabulary, more than {MOST_ADDED:,}.")
    if len(merges) > MOST_MERGES_AN_ENTRY * len(vocab) + 1_000:
        raise Refusal(f"it has {len(merges):,} merges for {len(vocab):,} entries, more than can be of use.")
    known = vocab if isinstance(vocab, dict) else {}
    ids = [str(value) for value in known.values()]
    ids += [str(token.get("id")) for token in added if isinstance(token, dict) and token.get("content") not in known]
    shared = len(ids) - len(set(ids))
    if shared > MOST_SHARED_IDS:
        raise Refusal(f"{shared:,} entries of its vocabulary share an id with another one.")


def _check_steps(content: dict[str, Any]) -> None:
    """Replacements multiply: a text of a few characters must not become gigabytes. Raises `Refusal`.

    And decoders work where nothing can stop them: their patterns must not repeat anything, which takes time without
    end on the right text.
    """
    for part in ("normalizer", "decoder"):
        grown = _growth(content.get(part))
        if grown > MOST_GROWTH:
            raise Refusal(f"its {part} makes texts {grown:,} times as long.")
    pattern = next((p for p in _patterns(content.get("decoder")) if any(c in p for c in "*+{")), None)
    if pattern is not None:
        raise Refusal(f"its decoder searches for the repeating pattern {pattern[:60]!r}, which may never end.")


def _patterns(step: object) -> Iterator[str]:
    """The regular expressions of a decoder."""
    if isinstance(step, dict):
        for inner in step.get("decoders") or ():
            yield from _patterns(inner)
        pattern = step.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            yield pattern["Regex"]


def _growth(step: object) -> int:
    """How many characters one character may become, by `Replace` steps."""
    if not isinstance(step, dict):
        return 1
    factor = 1
    for key in ("normalizers", "decoders"):
        for inner in step.get(key) or ():
            factor *= _growth(inner)
    content, pattern = step.get("content"), step.get("pattern")
    if step.get("type") == "Replace" and isinstance(content, str):
        replaced = pattern.get("String") if isinstance(pattern, dict) else None
        # an empty pattern, or one that may match nothing, also matches between the characters
        factor *= max(1, -(-len(content) // len(replaced)) if replaced else len(content) + 1)
    return factor


def _use(tokenizer: Any) -> int:
    """Everything the engine does with a tokenizer; returns the largest id. Raises what the tokenizer raises."""
    vocabulary = tokenizer.get_vocab()
    longest = max(map(len, vocabulary), default=0)
    if longest > MOST_TOKEN_CHARACTERS:
        raise Refusal(f"it has a token of {longest:,} characters, more than {MOST_TOKEN_CHARACTERS:,}.")
    largest_id = max(vocabulary.values(), default=0)
    for text in _PROBES:
        ids = tokenizer.encode(text, add_special_tokens=True, verbose=False)
        largest_id = max(largest_id, *ids, 0)  # a post-processor adds ids that no vocabulary has
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    last = max(vocabulary.values(), default=0)
    ends = {*range(min(256, last + 1)), *range(max(0, last - 256), last + 1)}
    tokenizer.decode(sorted(ends), clean_up_tokenization_spaces=False)
    for token_id in (0, largest_id, largest_id + 1):
        tokenizer.convert_ids_to_tokens(token_id)
    return largest_id


if __name__ == "__main__":
    main()
