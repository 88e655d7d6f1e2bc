"""What all beam searches share: lanes are continued, forked and dropped; the best of those that ended are the result.

Every prompt has a search of its own, which ends as it would alone; its lanes then leave the batch. A mode decides
with which tokens the lanes go on, and which of them end a hypothesis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from core.contract.detail import BeamDetail, Hypothesis
from core.contract.events import FinishReason
from core.decode.kv import cache_length
from core.decode.modes.constraints import Progress
from core.decode.modes.hypotheses import Pool, best_first, length_score
from core.decode.modes.mode import Choice, Ended, Mode
from core.decode.rows import Row
from core.decode.stopping import asked_to_stop

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session

OUT_OF_REACH = -1e9  # what transformers takes off the score of a beam that shall not be continued


@dataclass(frozen=True, slots=True)
class Candidate:
    """Lane number `lane` of the batch goes on with a token.

    beam: what it then is in its row; -1 before that is known, and where it ends without having been one.
    score: sum of the log-probabilities after the pipeline, this token's included. reason: why the sequence ends with
    it, None where it goes on. u: the draw that chose it. penalty: what other groups took from its score.
    progress: of the constraints, after this token.
    """

    lane: int
    token_id: int
    score: float
    reason: FinishReason | None = None
    beam: int = -1
    u: float | None = None
    penalty: float = 0.0
    progress: Progress | None = None


@dataclass
class Search:
    """The search for one prompt.

    pools: its hypotheses, group by group. improvable: whether running beams could still beat them, so far.
    lanes: where its beams are in the batch at this step, group by group, in the order of the beams.
    """

    prompt: Row
    pools: list[Pool]
    over: bool = False
    improvable: bool = True
    lanes: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Kept:
    """What a search was before a step."""

    over: bool
    improvable: bool
    pools: list[tuple[list[Row], bool]]

    @staticmethod
    def of(search: Search) -> _Kept:
        return _Kept(search.over, search.improvable, [(list(pool.rows), pool.done) for pool in search.pools])

    def give_back(self, search: Search) -> None:
        search.over, search.improvable = self.over, self.improvable
        for pool, (rows, done) in zip(search.pools, self.pools, strict=True):
            pool.rows, pool.done = rows, done


class Beams(Mode):
    """The common part; the modes say in `follow` how the lanes go on."""

    fixed = frozenset({"num_return_sequences", "num_beams", "num_beam_groups", "force_words_ids"})
    on_logprobs = True
    moves_lanes = True
    has_beams = True
    judges_ends = True

    def begin(self, run: Session) -> None:
        """One search a prompt."""
        self.width, self.groups = run.params.num_beams, run.params.num_beam_groups
        self.size = self.width // self.groups  # beams of a group
        self.searches = [Search(row, [Pool(self.size) for _ in range(self.groups)]) for row in run.rows]
        self.followed: list[Candidate] = []  # by which each lane of the batch came about; none before the first step
        self._expanded = False
        self._ended: list[tuple[Ended, Hypothesis]] = []  # at this step
        self._before: list[_Kept] = []  # of the searches, while a step is not yet told

    def feed(self, run: Session) -> torch.Tensor:
        """Logits (1, B, V). A prompt is fed once; from then on a row has as many lanes as beams."""
        if not self._expanded:
            self._expand(run)
        return super().feed(run)

    def _expand(self, run: Session) -> None:
        self._expanded = True
        sources = [row for row in range(len(run.lanes)) for _ in range(self.width)]
        run.regroup(sources, [run.lanes[row].fork() for row in sources])
        for number, lane in enumerate(run.lanes):
            lane.beam = number % self.width
            lane.group = lane.beam // self.size
            # The beams of a group are still the same, and would all say the same.
            lane.score = 0.0 if lane.beam % self.size == 0 else OUT_OF_REACH

    # -- a step

    def choose(self, run: Session, processed: Processed, place: int) -> Choice:
        """The tokens of the next lanes, and the present lanes that they continue."""
        self._ended = []
        self._before = [_Kept.of(search) for search in self.searches]
        open_searches = self._place_lanes(run)
        processed, followed = self.follow(run, processed, open_searches)
        followed = _in_place(run, followed)
        details = [self._detail(run, c) for c in followed]
        self.followed = followed
        reasons = {(e.row.index, e.row.beam): e.row.finish_reason for e, _ in self._ended}
        lanes = _continued(run, followed)
        for lane in lanes:
            lane.finish_reason = reasons.get((lane.index, lane.beam))
        return Choice(
            token_ids=[c.token_id for c in followed],
            draws=[c.u for c in followed],
            parents=[c.lane for c in followed],
            lanes=lanes,
            details=details,
            ended=[ended for ended, _ in self._ended if ended.row.beam >= self.width],
            hypotheses=[hypothesis for _, hypothesis in self._ended],
            processed=processed,
        )

    def follow(self, run: Session, processed: Processed, searches: list[Search]) -> tuple[Processed, list[Candidate]]:
        """How the searches go on; `end` is called for those candidates that complete a hypothesis."""
        raise NotImplementedError

    def cache_rows(self, run: Session) -> int:
        """One a beam."""
        return len(self.searches) * self.width

    def lost(self, run: Session, dead: list[int]) -> list[int]:
        """A search goes on with the beams that are left; without any it ends with what it has found, if anything."""
        alive = {lane.index for number, lane in enumerate(run.lanes) if number not in dead and _score(lane) > -math.inf}
        found = {search.prompt.index for search in self.searches if any(pool.rows for pool in search.pools)}
        return [number for number in dead if run.lanes[number].index not in alive | found]

    def _place_lanes(self, run: Session) -> list[Search]:
        for search in self.searches:
            search.lanes = [[] for _ in range(self.groups)]
        for number, lane in sorted(enumerate(run.lanes), key=lambda item: item[1].beam):
            self.searches[lane.index].lanes[lane.beam // self.size].append(number)
        return [search for search in self.searches if any(search.lanes)]

    def _detail(self, run: Session, candidate: Candidate) -> BeamDetail:
        progress = candidate.progress
        return BeamDetail(
            parent=run.lanes[candidate.lane].beam,
            score=candidate.score,
            group=run.lanes[candidate.lane].beam // self.size,
            penalty=candidate.penalty,
            fulfilled=() if progress is None else progress.fulfilled,
            needed=() if progress is None else progress.needed,
            bank=None if progress is None else progress.bank,
        )

    def reason_to_end(self, run: Session, lane: int, token_id: int, final: torch.Tensor) -> FinishReason | None:
        """Why lane number `lane` would end with this token, chosen from the scores (B, V); None if it would not."""
        reason = run.lanes[lane].reason_to_end(token_id, run.params)
        if run.extras.criteria:
            said = run.ids[lane, max(run.lanes[lane].padding, run.unseen) :]
            ids = torch.cat([said, run.ids.new_tensor([token_id])])[None]
            if asked_to_stop(run.extras.criteria, ids, final[lane : lane + 1]):
                return reason or FinishReason.STOP
        return reason

    def end(self, run: Session, pool: Pool, candidate: Candidate) -> None:
        """The candidate, which has a reason to end, completes a hypothesis."""
        if candidate.score == -math.inf:
            return  # the pipeline rules it out
        parent = run.lanes[candidate.lane]
        assert candidate.reason is not None
        row = parent.fork()
        text = row.push(candidate.token_id) + row.end(candidate.reason)
        row.beam, row.fed, row.ended_at = candidate.beam, cache_length(run.cache), len(row.token_ids) - 1
        if row.beam < 0:
            row.beam = self.width + sum(other.row.index == row.index for other, _ in self._ended)
        row.score = length_score(candidate.score, len(row.token_ids), run.params.length_penalty)
        kept = pool.add(row)
        hypothesis = Hypothesis(row.index, row.beam, row.ended_at, row.score, tuple(row.token_ids), row.text, kept)
        ended = Ended(row, candidate.lane, text, candidate.u, self._detail(run, replace(candidate, beam=row.beam)))
        self._ended.append((ended, hypothesis))

    def push(self, run: Session, lane: Row, token_id: int) -> str:
        """Add a token to a beam; whether it was its end was decided before."""
        text = lane.push(token_id)
        lane.stop.check(lane.token_ids, text, run.params)  # it remembers the text
        return text

    def settle(self, run: Session) -> None:
        """Lanes whose search is over leave the batch."""
        self._before = []
        going = [number for number, lane in enumerate(run.lanes) if self._goes_on(lane)]
        if 0 < len(going) < len(run.lanes):
            self.followed = [self.followed[number] for number in going]
            run.regroup(going, [run.lanes[number] for number in going])

    def _goes_on(self, lane: Row) -> bool:
        search = self.searches[lane.index]
        return not search.over and not search.pools[lane.beam // self.size].done

    # -- the end

    def is_over(self, run: Session) -> bool:
        """Whether every search has ended."""
        return all(search.over for search in self.searches)

    def conclude(self, run: Session, reason: FinishReason) -> list[Row]:
        """The best hypotheses of each prompt. Where a search is cut short, running beams count as if they had ended."""
        for search, kept in zip(self.searches, self._before, strict=False):
            kept.give_back(search)  # the step failed: nobody was told what it completed
        rows: list[Row] = []
        for search in self.searches:
            if not search.over:
                self._cut_short(run, search)
            best = best_first(search.pools)[: run.params.num_return_sequences]
            # Of a search that finds too few, the rest is the prompt alone, as in `generate()`.
            lacking = [search.prompt.fork() for _ in range(run.params.num_return_sequences - len(best))]
            for row in lacking:
                row.score = OUT_OF_REACH if best else None
            for row in lacking if search.over else [*best, *lacking]:
                row.end(FinishReason.STOP if search.over else reason)
            rows += [*best, *lacking]
        return rows

    def _cut_short(self, run: Session, search: Search) -> None:
        for lane in run.lanes:
            possible = lane.token_ids and _score(lane) > -math.inf
            if self.searches[lane.index] is search and possible and self._goes_on(lane):
                row = lane.fork()
                row.ended_at, row.fed = len(row.token_ids) - 1, cache_length(run.cache)
                row.score = length_score(_score(lane), len(row.token_ids), run.params.length_penalty)
                search.pools[lane.beam // self.size].add(row)


def _in_place(run: Session, followed: list[Candidate]) -> list[Candidate]:
    """The candidates in the order of the batch: where it can be, a lane stays where it is, and nothing is copied."""
    followed.sort(key=lambda c: (run.lanes[c.lane].index, c.beam))
    if len(followed) != len(run.lanes):
        return followed
    placed: dict[int, Candidate] = {}
    moving = []
    for candidate in followed:
        if candidate.lane in placed:
            moving.append(candidate)
        else:
            placed[candidate.lane] = candidate
    free = [number for number in range(len(followed)) if number not in placed]
    placed |= zip(free, moving, strict=True)
    return [placed[number] for number in range(len(followed))]


def _continued(run: Session, followed: list[Candidate]) -> list[Row]:
    """A sequence a candidate: the first one of a lane takes it over, the others fork it."""
    taken: set[int] = set()
    lanes = []
    for candidate in followed:
        lane = run.lanes[candidate.lane]
        lanes.append(lane.fork() if candidate.lane in taken else lane)
        taken.add(candidate.lane)
    for lane, candidate in zip(lanes, followed, strict=True):
        lane.beam, lane.score = candidate.beam, candidate.score
    return lanes


def _score(lane: Row) -> float:
    assert lane.score is not None
    return lane.score
