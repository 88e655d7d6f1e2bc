"""Contrastive search: of the likeliest tokens the one that is least like what was said (Su et al., 2022).

The arithmetic is `_contrastive_search` and `_ranking_fast` of transformers 4.51.3. Two differences: a token that a
stage killed is never chosen, and hidden states are compared in float32 whatever the model's precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from core.contract.detail import ContrastiveDetail
from core.contract.errors import ParameterError
from core.contract.events import FinishReason
from core.contract.params import GenerationParams
from core.decode.kv import cache_length, crop_cache, take_rows
from core.decode.modes.mode import Choice, Mode
from core.decode.rows import Row

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session

SMALLEST_CAPACITY = 64


class Contrastive(Mode):
    """Feeds the k candidates of every lane as one batch on k rows of the cache, then makes the rows alike again.

    So a step copies one slot of the cache. The record gets the chosen rows alone. The chosen token is fed with its
    candidates: the scores after it are there when the next step begins. The last token of a sequence that fills all
    positions has none where candidates could be tried: it is the likeliest one, and has no detail.
    """

    name = "contrastive_search"
    moves_lanes = True
    feeds_ahead = True

    def __init__(self) -> None:
        self._said: torch.Tensor | None = None  # (B, capacity, E) final hidden states of length 1, float32
        self._length = 0  # slots of it in use
        self._width = 1  # rows of the cache a lane, all alike between steps

    def begin(self, run: Session) -> None:
        """Raises `ParameterError` for a model whose final hidden states cannot be seen."""
        if run.forward.anatomy.final_norm is None:
            title = run.loaded.info.title
            raise ParameterError(
                f"Contrastive search needs the model's final norm, which {title} hides; choose another mode."
            )
        run.forward.keeps_residuals = True

    def cache_rows(self, run: Session) -> int:
        """One a candidate of each lane."""
        return len(run.lanes) * self.tried(run, run.params)

    def tried(self, run: Session, params: GenerationParams) -> int:
        """One a candidate."""
        return min(params.top_k, run.loaded.info.output_size)

    def prefilled(self, run: Session) -> None:
        """The hidden states of the prompt are what the first candidates are compared with."""
        self._remember(_hidden(run))

    def feed(self, run: Session) -> torch.Tensor:
        """The logits are there since the candidates were tried, except after a token that was put there."""
        fed = run.pending_logits is None
        logits = run.feed_newest()
        if fed:
            self._remember(_hidden(run))
        return logits[None]

    def feed_put(self, run: Session) -> torch.Tensor:
        """As ever."""
        return self.feed(run)

    def choose(self, run: Session, processed: Processed, place: int) -> Choice:
        """The candidate with the highest score of each lane; its logits become the pending ones."""
        k = min(run.params.top_k, processed.final.shape[-1])
        lanes = len(run.lanes)
        full = [lane.position >= run.loaded.info.max_positions for lane in run.lanes]  # no candidate can be fed
        if all(full):
            return Choice(processed.final.argmax(dim=-1).tolist(), [None] * lanes)
        probability, token_ids = torch.softmax(processed.final, dim=-1).topk(k, dim=-1)  # (B, k)
        start = cache_length(run.cache)
        logits, hidden = self._try(run, token_ids)  # (B, k, V), (B, k, E)
        try:
            penalty = self._penalty(run, hidden)  # (B, k)
            alpha = run.params.penalty_alpha
            score = (1.0 - alpha) * probability - alpha * penalty
            score = score.masked_fill(processed.final.gather(1, token_ids).isneginf(), -torch.inf)
            best = score.argmax(dim=-1).masked_fill(torch.tensor(full, device=score.device), 0)  # (B,)
            rows = [lane * k + chosen for lane, chosen in enumerate(best.tolist())]
            take_rows(run.cache, [row for row in rows for _ in range(k)], since=start)
            run.forward.commit(run.cache, run.trace, start, rows)
        except BaseException:  # the pass was complete, but nothing may remain of it
            crop_cache(run.cache, start)
            if run.trace is not None:
                run.trace.rollback()
            raise
        every = torch.arange(lanes, device=best.device)
        self._remember(hidden[every, best][:, None])
        run.pending_logits = logits[every, best]
        for lane, over in zip(run.lanes, full, strict=True):
            lane.fed = start if over else None  # what stood in its place was tried for nothing
        columns = zip(full, token_ids, probability, penalty, score, strict=True)
        details = [None if over else _detail(run.loaded.text.piece, *row) for over, *row in columns]
        return Choice(token_ids[every, best].tolist(), [None] * lanes, details=details)

    def _try(self, run: Session, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed candidates (B, k): the logits after each (B, k, V) and its hidden state (B, k, E), of length 1."""
        lanes, k = token_ids.shape
        self._widen(run, k)
        tried = [lane for lane in run.lanes for _ in range(k)]
        with run.forward.rows_placed([lane.padding for lane in tried], [lane.index for lane in tried]):
            logits = run.forward.positions(token_ids.reshape(-1, 1), run.cache, run.trace, 1, commit=False)
        return logits.reshape(lanes, k, -1), _hidden(run).reshape(lanes, k, -1)

    def _penalty(self, run: Session, hidden: torch.Tensor) -> torch.Tensor:
        """The largest cosine similarity (B, k) of hidden states (B, k, E) with those of the lane's own past."""
        assert self._said is not None  # the prompt comes first
        said = self._said[:, : self._length]  # (B, T, E)
        likeness = hidden @ said.transpose(1, 2)  # (B, k, T)
        if any(run.padding):
            slots = torch.arange(self._length, device=said.device)
            padding = torch.tensor(run.padding, device=said.device)
            likeness = likeness.masked_fill((slots < padding[:, None])[:, None], -torch.inf)
        return likeness.amax(dim=-1)

    def _widen(self, run: Session, width: int) -> None:
        """So many rows of the cache a lane from now on."""
        if width != self._width:
            take_rows(run.cache, [lane * self._width for lane in range(len(run.lanes)) for _ in range(width)])
            self._width = width

    def _remember(self, hidden: torch.Tensor) -> None:
        """Add hidden states (B, n, E), each of length 1."""
        begin, self._length = self._length, self._length + hidden.shape[1]
        said = self._said
        if said is None or self._length > said.shape[1]:
            capacity = max(SMALLEST_CAPACITY, 1 << (self._length - 1).bit_length())
            self._said = hidden.new_empty(hidden.shape[0], capacity, hidden.shape[2])
            if said is not None:
                self._said[:, :begin] = said[:, :begin]
            said = self._said
        said[:, begin : self._length] = hidden

    def settle(self, run: Session) -> None:
        """Lanes that ended leave, with their rows of the cache."""
        alive = [index for index, lane in enumerate(run.lanes) if lane.finish_reason is None]
        if alive and len(alive) < len(run.lanes) and self._said is not None:
            self._widen(run, 1)
            self._said = self._said[torch.tensor(alive, device=self._said.device)]
        super().settle(run)

    def conclude(self, run: Session, reason: FinishReason) -> list[Row]:
        """The cache gives back what the candidates took."""
        self._widen(run, 1)
        return super().conclude(run, reason)


def _hidden(run: Session) -> torch.Tensor:
    """The final hidden states (B, n, E) of the last pass, of length 1: what transformers calls hidden_states[-1]."""
    norm = run.forward.anatomy.final_norm
    assert norm is not None  # `begin` refuses
    states: torch.Tensor = norm(run.forward.take_residuals()[-1])
    return normalize(states.float(), dim=-1)


def _detail(
    piece: Callable[[int], str],
    token_ids: torch.Tensor,
    probability: torch.Tensor,
    penalty: torch.Tensor,
    score: torch.Tensor,
) -> ContrastiveDetail:
    ids: list[int] = token_ids.tolist()
    columns = (_host(column) for column in (probability, penalty, score))
    return ContrastiveDetail(_host(token_ids), tuple(map(piece, ids)), *columns)


def _host(column: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = column.cpu().numpy()
    array.flags.writeable = False
    return array
