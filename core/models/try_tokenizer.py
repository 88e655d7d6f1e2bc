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

from core.contract.errors import ModelLoadError
from core.domains.sandboxed import serve

MOST_TOKEN_CHARACTERS = 8192
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
    """Serve requests with a `folder`; the answer is the `largest_id`."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers then does without
    from transformers import AutoTokenizer

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        folder = Path(request["folder"])
        _check_steps(folder / "tokenizer.json")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return {"largest_id": _use(tokenizer)}

    serve(handle)


def _check_steps(file: Path) -> None:
    """Replacements multiply: a text of a few characters must not become gigabytes. Raises `ModelLoadError`.

    And decoders work where nothing can stop them: their patterns must not repeat anything, which takes time without
    end on the right text.
    """
    if not file.exists():
        return
    content = json.loads(file.read_text("utf-8"))
    if not isinstance(content, dict):
        return
    for part in ("normalizer", "decoder"):
        grown = _growth(content.get(part))
        if grown > MOST_GROWTH:
            raise ModelLoadError(f"its {part} makes texts {grown:,} times as long.")
    pattern = next((p for p in _patterns(content.get("decoder")) if any(c in p for c in "*+{")), None)
    if pattern is not None:
        raise ModelLoadError(f"its decoder searches for the repeating pattern {pattern[:60]!r}, which may never end.")


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
        raise ModelLoadError(f"it has a token of {longest:,} characters, more than {MOST_TOKEN_CHARACTERS:,}.")
    largest_id = max(vocabulary.values(), default=0)
    for text in _PROBES:
        ids = tokenizer.encode(text, add_special_tokens=True, verbose=False)
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ends = {*range(min(256, largest_id + 1)), *range(max(0, largest_id - 256), largest_id + 1)}
    tokenizer.decode(sorted(ends), clean_up_tokenization_spaces=False)
    for token_id in (0, largest_id, largest_id + 1):
        tokenizer.convert_ids_to_tokens(token_id)
    return largest_id


if __name__ == "__main__":
    main()
