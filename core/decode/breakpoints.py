"""Breakpoints at work: what is looked at between two tokens. The session asks after each step, nobody else decides.

In modes with beams the best beam is looked at. A breakpoint that cannot be looked at is told once, with the reason,
and left out from then on: a regular expression that takes too long, attention that cannot be derived.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from core.contract.breakpoints import (
    AttentionAbove,
    Breakpoint,
    CacheAbove,
    EntropyAbove,
    EveryTokens,
    ProbabilityBelow,
    RankAbove,
    TextMatches,
    TokenIn,
    check_breakpoint,
)
from core.contract.errors import ParameterError, TokenglassError
from core.contract.events import BreakpointHit, BreakpointProblem
from core.contract.snapshot import StepSnapshot
from core.patterns import PATIENCE_S, SEARCHED, compile_pattern, match_ending_after
from core.trace.attention import attention_weights

if TYPE_CHECKING:
    from regex import Pattern

    from core.decode.session import Session

_TOO_SLOW = (
    f"The regular expression took longer than {PATIENCE_S:g} s at token {{}}, so it is not looked at any more; write a "
    "simpler one."
)
Value = float | int | str
Look = Callable[[StepSnapshot], Value | None]  # what was compared, where the condition holds


class Breaks:
    """The breakpoints of a run. Those that make no sense here are among the `problems`, and the others act.

    Tokens that were put there instead of being chosen meet none.
    """

    def __init__(self, run: Session, breakpoints: Sequence[Breakpoint]) -> None:
        self._run = run
        self.asked = tuple(breakpoints)
        self.problems: list[BreakpointProblem] = []
        self._looks: dict[Breakpoint, Look] = {}
        self._said = {row.index: row.text[-SEARCHED:] for row in run.rows}
        self._full: set[Breakpoint] = set()  # caches that are above already
        for one in breakpoints:
            try:
                check_breakpoint(one, run.loaded.info.layers, run.loaded.info.heads)
                self._looks[one] = self._look(one)
            except ParameterError as problem:
                self._leave_out(one, problem.message)

    def take_problems(self) -> list[BreakpointProblem]:
        """Those not told yet."""
        told, self.problems = self.problems, []
        return told

    def after(self, steps: Sequence[StepSnapshot]) -> list[BreakpointHit]:
        """The conditions that hold after these steps, token by token."""
        hits: list[BreakpointHit] = []
        for step in steps if self._looks else ():
            if step.id.beam:
                continue
            for one, look in () if step.put else tuple(self._looks.items()):
                try:
                    value = look(step)
                except TimeoutError:
                    self._leave_out(one, _TOO_SLOW.format(step.id.index))
                except TokenglassError as problem:
                    self._leave_out(one, problem.message)
                else:
                    if value is not None:
                        at = step.id
                        hits.append(BreakpointHit(at.run_id, at.index, one, value, at.row, at.beam, at.branch_id))
            self._hear(step)
        return hits

    def _leave_out(self, one: Breakpoint, reason: str) -> None:
        self._looks.pop(one, None)
        self.problems.append(BreakpointProblem(self._run.run_id, one, reason, self._run.branch_id))

    def _hear(self, step: StepSnapshot) -> None:
        self._said[step.id.row] = (self._said.get(step.id.row, "") + step.text)[-SEARCHED:]

    def _look(self, one: Breakpoint) -> Look:
        match one:
            case EntropyAbove(bits):
                return lambda step: step.entropy_bits if step.entropy_bits > bits else None
            case ProbabilityBelow(least):
                return lambda step: math.exp(step.logprob) if math.exp(step.logprob) < least else None
            case RankAbove(rank):
                return lambda step: step.rank if step.rank > rank else None
            case TokenIn(token_ids):
                return lambda step: step.piece if step.token_id in token_ids else None
            case EveryTokens(count):
                return lambda step: step.id.index + 1 if (step.id.index + 1) % count == 0 else None
            case CacheAbove():
                return lambda step: self._cache(one, step)
            case TextMatches(pattern):
                compiled = compile_pattern(pattern)
                return lambda step: self._text(compiled, step)
            case AttentionAbove():
                return lambda step: self._attention(one, step)

    def _cache(self, one: CacheAbove, step: StepSnapshot) -> int | None:
        """Once each time it comes to hold more."""
        used = step.cache.used_bytes
        if used <= one.nbytes:
            self._full.discard(one)
            return None
        if one in self._full:
            return None
        self._full.add(one)
        return used

    def _text(self, pattern: Pattern[str], step: StepSnapshot) -> str | None:
        before = self._said.get(step.id.row, "")
        if self._run.mode.moves_lanes:  # the best beam's text may be another one than before
            whole = next((r.text for r in self._run.lanes if (r.index, r.beam) == (step.id.row, 0)), before + step.text)
            before = whole[: len(whole) - len(step.text)][-SEARCHED:]
        return match_ending_after(pattern, before + step.text, len(before)) if step.text else None

    def _attention(self, one: AttentionAbove, step: StepSnapshot) -> float | None:
        """One row of one head, derived from the record of the query that chose the token."""
        query = step.id.position - 1
        if one.position > query:
            return None
        recording = self._run.recording()
        recording.require("attention")
        strand = recording.strand(_At(step.id.row, step.id.beam))
        row = attention_weights(recording, recording.recorded(), one.layer, strand, query, query + 1, [one.head])
        weight = float(row[0, 0, one.position])
        return weight if weight > one.weight else None


class _At:
    """The newest of a sequence, as views name it."""

    index = None

    def __init__(self, row: int, beam: int) -> None:
        self.row, self.beam = row, beam
