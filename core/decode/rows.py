"""The sequences of a run: a row for each that is asked for, a lane for each that is in the batch right now.

In greedy search and sampling every row is a lane until it ends. With beams the lanes are hypotheses that are
continued, dropped and forked, and the rows are what remains of them at the end.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from time import perf_counter

from core.contract.events import FinishReason, PromptRow
from core.contract.params import GenerationParams
from core.decode.stopping import RowStop
from core.domains.domain import TokenStream
from core.trace.path import Path
from core.trace.recording import Strand


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A generated token and the link before it: what two beams have in common is kept once."""

    token_id: int
    before: Link | None

    def token_ids(self) -> list[int]:
        """All tokens up to this one."""
        ids, link = [self.token_id], self.before
        while link is not None:
            ids.append(link.token_id)
            link = link.before
        return ids[::-1]


@dataclass
class Row:
    """One sequence: its prompt, what it has said, where its records are.

    index: of the row it belongs to, in the order of the prompts. path: the batch row of each slot, see `Path`.
    ends: after each of its tokens, the characters of `text` so far.
    score: of beams, the sum of its log-probabilities; of a hypothesis that sum divided by length ** length_penalty.
    """

    index: int
    prompt: PromptRow
    padding: int
    stop: RowStop
    stream: TokenStream
    path: Path
    beam: int = 0
    group: int = 0
    token_ids: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    link: Link | None = None
    text: str = ""
    score: float | None = None
    finish_reason: FinishReason | None = None
    ended_at: int | None = None  # of a hypothesis: the step whose lane it was
    fed: int | None = None  # slots fed of it, once it is in the batch no more

    @property
    def position(self) -> int:
        """Of the token to be chosen next."""
        return len(self.prompt.token_ids) + len(self.token_ids)

    def push(self, token_id: int) -> str:
        """Add a token; returns the text it completed."""
        self.token_ids.append(token_id)
        self.link = Link(token_id, self.link)
        text = self.stream.push(token_id)
        self.text += text
        self.ends.append(len(self.text))
        return text

    def reason_to_end(self, token_id: int, params: GenerationParams) -> FinishReason | None:
        """Why the sequence would end if it went on with this token; None if it would not."""
        token_ids = [*self.token_ids, token_id]
        if not params.stop_strings:
            return self.stop.check(token_ids, "", params)
        # Only the text tells, and what watches it remembers it.
        return copy.copy(self.stop).check(token_ids, self.stream.fork().push(token_id), params)

    def end(self, reason: FinishReason) -> str:
        """No more tokens; returns the text that was held back."""
        self.finish_reason = reason
        text = self.stream.flush()
        self.text += text
        return text

    def fork(self) -> Row:
        """A second sequence with the same past."""
        return replace(
            self,
            token_ids=list(self.token_ids),
            ends=list(self.ends),
            stop=copy.copy(self.stop),
            stream=self.stream.fork(),
        )

    def strand(self) -> Strand:
        """This sequence, for views."""
        return Strand(
            self.index, self.path, self.padding, (*self.prompt.token_ids, *self.token_ids), self.fed, self.group
        )


@dataclass(frozen=True, slots=True)
class PastLane:
    """A lane as it was after some step; kept where lanes move, so that a beam that died can still be looked at."""

    row: int
    beam: int
    prompt: PromptRow
    padding: int
    path: Path
    link: Link | None
    fed: int  # slots
    group: int = 0  # of beams
    stopped: bool = False  # its newest token ended it

    @staticmethod
    def of(lane: Row, fed: int) -> PastLane:
        """The lane as it is now, with so many slots fed, unless it says otherwise."""
        stopped, fed = lane.finish_reason is FinishReason.STOP, fed if lane.fed is None else lane.fed
        return PastLane(
            lane.index, lane.beam, lane.prompt, lane.padding, lane.path, lane.link, fed, lane.group, stopped
        )

    def strand(self) -> Strand:
        """The sequence, for views."""
        own = [] if self.link is None else self.link.token_ids()
        return Strand(self.row, self.path, self.padding, (*self.prompt.token_ids, *own), self.fed, self.group)


@dataclass
class Clock:
    """When things happened, in seconds of `perf_counter`."""

    started: float = field(default_factory=perf_counter)
    prefill_s: float = 0.0
    first_token: float | None = None
    last_token: float | None = None
    paused_s: float = 0.0  # between the first and the last token
    pause_s: float = 0.0  # since the last token

    def token(self) -> None:
        """A step has its tokens."""
        self.last_token = perf_counter()
        if self.first_token is None:
            self.first_token = self.last_token
        else:
            self.paused_s += self.pause_s
        self.pause_s = 0.0

    def take_prefill_s(self) -> float:
        """Seconds that the prompt took, once."""
        spent, self.prefill_s = self.prefill_s, 0.0
        return spent

    @property
    def decode_s(self) -> float | None:
        """From the first to the last token, pauses left out."""
        if self.first_token is None or self.last_token is None:
            return None
        return self.last_token - self.first_token - self.paused_s
