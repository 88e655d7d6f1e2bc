"""Grammar constraints: which tokens may follow, by regular expression, JSON schema or choice.

llguidance parses the grammar and walks the vocabulary; this file hides it. What may follow is a pure function of the
ids generated so far: beams that are re-ordered, forks and rewinds need nothing from anybody. That is kept cheap by
remembering the parser's state for the newest prefixes, from which the next one is a copy and one token away.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from numpy.typing import NDArray

from core.contract.errors import GrammarError
from core.contract.specs import Grammar
from core.decode.pipeline import Rows, Stage
from core.domains.domain import Domain

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_KEPT = 512  # prefixes whose parser state is remembered; a step of 64 beams needs 128
LONGEST_REASON = 160  # characters of the library's own words
# Without a bound a small model fills a schema's optional whitespace until the length ends it.
WHITESPACE = r"(\n {0,16}| {1,2})"
_END_MARK = b"<|end of grammar|>"
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Allowed:
    """What may follow a text: `count` tokens, one bit each, and, where the text may `end` here, an EOS token."""

    bits: bytes
    vocab_size: int
    end: bool
    count: int

    @property
    def tokens(self) -> NDArray[np.bool_]:
        """(V,), EOS not among them."""
        return _unpacked(self.bits, self.vocab_size)


def _unpacked(bits: bytes, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little", count=count).astype(np.bool_)


class Constraint:
    """One grammar over one vocabulary. Raises `GrammarError` if it cannot be used. Not for several threads."""

    def __init__(self, text: Domain, vocab_size: int, grammar: Grammar) -> None:
        self.grammar = grammar
        self._vocab_size = vocab_size
        self._start = _matcher(_vocabulary(text, vocab_size), grammar)
        self._states: OrderedDict[tuple[int, ...], LLMatcher | None] = OrderedDict()
        self._allowed: OrderedDict[tuple[int, ...], Allowed | None] = OrderedDict()
        first = self.after(())
        if first is None or (first.count == 0 and not first.end):
            raise GrammarError(
                f"{_NAMES[grammar.kind]} allows no first token: no text fits it, or this model's tokens cannot spell "
                "one that does."
            )

    def after(self, generated: Sequence[int]) -> Allowed | None:
        """What may follow these ids; None when they have left the grammar (they were forced, or ended before)."""
        prefix = tuple(generated)
        if prefix not in self._allowed:
            state = self._state(prefix)
            _keep(self._allowed, prefix, None if state is None else self._read(state))
        return self._allowed[prefix]

    def finished(self, generated: Sequence[int]) -> bool:
        """Whether the text is complete and nothing but an end can follow."""
        allowed = self.after(generated)
        return allowed is not None and allowed.end and allowed.count == 0

    def allowed_tokens(self, generated: Sequence[int], eos_ids: Sequence[int]) -> int | None:
        """How many tokens may follow, EOS included; None where nothing is constrained any more."""
        allowed = None if set(eos_ids) & set(generated) else self.after(generated)
        return None if allowed is None else allowed.count + (len(eos_ids) if allowed.end else 0)

    def stage(self, eos_ids: Sequence[int], prompt_slots: int) -> Stage:
        """The stage that kills what the grammar forbids.

        EOS is allowed where the text may end, and forced where nothing else can follow. Rows that have ended, or were
        led out of the grammar by a forced token, stay as they are. Raises `GrammarError` where nothing can follow.
        """
        ends = frozenset(eos_ids)

        def fn(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
            forbidden = torch.zeros_like(scores, dtype=torch.bool)
            for row, generated in enumerate(rows.ids[:, prompt_slots:].tolist()):
                allowed = None if ends.intersection(generated) else self.after(generated)
                if allowed is None or (allowed.end and not allowed.count and not ends):
                    continue
                if not allowed.count and not allowed.end:
                    raise GrammarError(
                        f"{_NAMES[self.grammar.kind]} allows no token at token {len(generated)}: this model's tokens "
                        "cannot spell what must follow."
                    )
                forbidden[row] = self._forbidden(allowed, ends, scores.shape[-1]).to(scores.device)
            return scores.masked_fill(forbidden, -torch.inf)

        return Stage("grammar", {self.grammar.kind: self.grammar.text}, fn)

    def _forbidden(self, allowed: Allowed, ends: frozenset[int], width: int) -> torch.Tensor:
        mask = np.ones(width, dtype=np.bool_)
        known = min(width, self._vocab_size)
        np.logical_not(allowed.tokens[:known], out=mask[:known])
        if allowed.end:
            mask[[i for i in ends if i < width]] = False
        return torch.from_numpy(mask)

    def _state(self, prefix: tuple[int, ...]) -> LLMatcher | None:
        """The parser after this prefix, from its parent's state if that is remembered, else from the beginning."""
        if prefix in self._states:
            self._states.move_to_end(prefix)
            return self._states[prefix]
        known = prefix[:-1] in self._states
        before = self._states[prefix[:-1]] if known else self._start
        state = None
        if before is not None:
            state = before.deep_copy()
            missing = list(prefix[-1:] if known else prefix)
            if any(not 0 <= i < self._vocab_size for i in missing) or not state.consume_tokens(missing):
                state = None
        _keep(self._states, prefix, state)
        return state

    def _read(self, state: LLMatcher) -> Allowed:
        bits = state.compute_bitmask()
        if state.is_error():
            problem = state.get_error()
            if problem.startswith("NoExtension"):
                return Allowed(bytes(len(bits)), self._vocab_size, False, 0)
            raise GrammarError(
                f"{_NAMES[self.grammar.kind]} is too complex to follow: {_reason(problem)}.", detail=problem
            )
        may = _unpacked(bits, self._vocab_size + 1)
        return Allowed(bits, self._vocab_size, bool(may[-1]), int(np.count_nonzero(may[:-1])))


def _keep(kept: OrderedDict[tuple[int, ...], Kept], key: tuple[int, ...], value: Kept) -> None:
    kept[key] = value
    while len(kept) > MOST_KEPT:
        kept.popitem(last=False)


_NAMES = {"regex": "The regular expression", "json_schema": "The JSON schema", "choice": "The choice"}


def choices(text: str) -> tuple[str, ...]:
    """The texts of a choice: a JSON array of them, or one a line. Raises `GrammarError`."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        values = text.replace("\r\n", "\n").split("\n")  # other separators are part of a text
    found = tuple(dict.fromkeys(v for v in values if v))
    if not found:
        raise GrammarError("The choice is empty; write one text a line.")
    return found


def _matcher(vocabulary: LLTokenizer, grammar: Grammar) -> LLMatcher:
    from llguidance import LLMatcher

    name = _NAMES[grammar.kind]
    if not grammar.text.strip():
        raise GrammarError(f"{name} is empty; write one, or take the constraint away.")
    try:
        matcher = LLMatcher(vocabulary, _source(grammar), log_level=0)
    except ValueError as problem:  # a schema that is no JSON
        raise GrammarError(f"{name} cannot be read: {_reason(str(problem))}.", detail=str(problem)) from problem
    if matcher.is_error():
        raise GrammarError(f"{name} cannot be used: {_reason(matcher.get_error())}.", detail=matcher.get_error())
    return matcher


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own notation."""
    from llguidance import LLMatcher

    if grammar.kind == "regex":
        return str(LLMatcher.grammar_from_regex(grammar.text))
    if grammar.kind == "choice":
        quoted = " | ".join(json.dumps(text, ensure_ascii=False) for text in choices(grammar.text))
        return str(LLMatcher.grammar_from_lark(f"start: {quoted}"))
    try:
        schema = json.loads(grammar.text)  # whose own message names line and column of the user's text
    except RecursionError:
        raise GrammarError("The JSON schema cannot be used: it is nested too deeply.") from None
    if not isinstance(schema, dict):
        raise GrammarError('The JSON schema cannot be used: it is no JSON object such as {"type": "object"}.')
    return str(LLMatcher.grammar_from_json_schema(grammar.text, defaults={"whitespace_pattern": WHITESPACE}))


def _reason(words: str) -> str:
    """The library's reason as part of one sentence: the line that names it, without its picture of the source."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    named = next(
        (line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0] if lines else ""
    )
    return named[:LONGEST_REASON].rstrip(".")


_vocabularies: WeakKeyDictionary[Domain, LLTokenizer] = WeakKeyDictionary()


def _vocabulary(text: Domain, vocab_size: int) -> LLTokenizer:
    """The exact bytes of every token, once a model (0.2 s for 49,152 tokens)."""
    found = _vocabularies.get(text)
    if found is not None:
        return found
    if text.tokenizer is None:
        raise GrammarError("This model has no tokenizer, so its tokens have no text that a constraint could follow.")
    try:
        from llguidance import LLTokenizer, TokenizerWrapper
    except ImportError as problem:
        raise GrammarError(
            "Constraints need a package that is not installed; run: pip install llguidance."
        ) from problem
    made = LLTokenizer(TokenizerWrapper(_Words(text, vocab_size)))
    _vocabularies[text] = made
    return made


class _Words:
    """What llguidance wants to know of a tokenizer. One id more than the model has stands for the end of the grammar.

    So neither the parser nor its masks depend on which tokens end a run.
    """

    def __init__(self, text: Domain, vocab_size: int) -> None:
        self.eos_token_id = vocab_size
        self.bos_token_id = None
        self.tokens = [*(text.token_bytes(i) for i in range(vocab_size)), _END_MARK]
        added = text.tokenizer.added_tokens_decoder.items()
        special = {i for i, token in added if token.special and i < vocab_size} | {vocab_size}
        self.special_token_ids = sorted(special)
        self._longest = max(map(len, self.tokens))
        self._ids = {token: n for n, token in enumerate(self.tokens) if token and n not in special}
        self._text = ref(text)  # the cache of vocabularies must not keep the model's tokens alive

    def __call__(self, words: str | bytes) -> list[int]:
        """The ids in which a forced text is written; the longest tokens where the tokenizer would add to it."""
        wanted = words if isinstance(words, bytes) else words.encode()
        text = self._text()
        ids = [] if text is None else text.encode(wanted.decode(), add_special_tokens=False)
        known = all(i < self.eos_token_id for i in ids)
        same = known and b"".join(self.tokens[i] for i in ids) == wanted
        return ids if same else self._longest_tokens(wanted)

    def _longest_tokens(self, wanted: bytes) -> list[int]:
        """Up to the first byte that no token spells."""
        ids: list[int] = []
        start = 0
        while start < len(wanted):
            ends = range(min(len(wanted), start + self._longest), start, -1)
            end = next((end for end in ends if wanted[start:end] in self._ids), None)
            if end is None:
                break
            ids.append(self._ids[wanted[start:end]])
            start = end
        return ids
