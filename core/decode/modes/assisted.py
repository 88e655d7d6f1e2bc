"""Assisted generation: tokens are drafted cheaply, the model checks all of them in one pass.

Greedy: a drafted token is accepted where it is the one the model would take. Sampling from a draft model's
distribution q: accepted with probability min(1, p / q), else drawn from max(0, p - q), which leaves the model's own
distribution p unchanged (Leviathan et al. 2023, Chen et al. 2023). Copied tokens have no q: the model draws as ever,
with the same number as without drafts, and the draft was right or not.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from core.contract.detail import AssistedDetail
from core.decode.kv import RunCache, crop_cache
from core.decode.modes.drafts import Draft, Drafted
from core.decode.modes.mode import Choice, Mode
from core.decode.pipeline import run_pipeline
from core.decode.random import Purpose, inverse_cdf, uniform

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session


class Assisted(Mode):
    """One step is one pass of the model; it yields the accepted tokens and one of the model's own."""

    name = "assisted_generation"
    one_row = True
    fixed = frozenset({"num_return_sequences", "assistant_early_exit"})

    def __init__(self, draft: Draft, generator: torch.Generator | None) -> None:
        self.draft = draft
        self.generator = generator  # torch's draws instead of the counter's
        self.drafted = Drafted()
        self.passes = 0
        self.most: float = 0  # num_assistant_tokens as the schedule has it
        self._asked = self._before = 0

    def continue_from(self, other: Mode, slots: int) -> None:
        """The draft model has read the beginning already."""
        if isinstance(other, Assisted):
            self.draft.continue_from(other.draft, slots)

    @property
    def own_cache(self) -> RunCache | None:
        """The draft model's."""
        return self.draft.cache

    def attached(self) -> AbstractContextManager[None]:
        """The draft's hooks."""
        return self.draft.attached()

    def feed(self, run: Session) -> torch.Tensor:
        """Logits (n + 1, 1, V) after the newest token and after each of the n drafted ones."""
        self.passes += 1
        if run.pending_logits is not None:
            self.drafted = Drafted()
            return run.feed_newest()[None]
        self.drafted = self.draft.propose(run, self._most(run), _Picker(self, run))
        ids = torch.cat([run.ids[:, -1:], run.ids.new_tensor([self.drafted.token_ids])], dim=1)  # (1, n + 1)
        logits = run.forward.positions(ids.long(), run.cache, run.trace, ids.shape[1])  # (1, n + 1, V)
        return logits.transpose(0, 1)

    def _most(self, run: Session) -> int:
        """How many tokens to draft: as the schedule has it, and no more than can still be said."""
        params, lane = run.params, run.lanes[0]
        if params.num_assistant_tokens != self._asked:
            self._asked = self.most = params.num_assistant_tokens
        asked = self.most if params.prompt_lookup_num_tokens is None else params.prompt_lookup_num_tokens
        left = run.length_of(lane) - lane.position - 1  # the model adds one of its own
        return max(0, min(int(asked), left, run.loaded.info.max_positions - lane.position))

    def choose(self, run: Session, processed: Processed, place: int) -> Choice:
        """The token at this position: the drafted one if it is accepted, else the model's own."""
        scores, lane = processed.final, run.lanes[0]
        drafted = self.drafted.token_ids[place] if place < len(self.drafted.token_ids) else None
        q = self.drafted.distributions[place] if place < len(self.drafted.distributions) else None
        u: float | None = None
        if not run.params.samples:
            token = int(scores[0].argmax())
        elif drafted is not None and q is not None:
            token, u = self._speculate(run, torch.softmax(scores[0].double(), -1), q, drafted)
        else:
            u = self.uniform(run, lane.position, Purpose.TOKEN)
            token = inverse_cdf(scores[0], u)
        accepted = token == drafted
        detail = AssistedDetail(
            source=self.draft.source,
            passes=self.passes,
            place=place,
            drafted=self.drafted.token_ids,
            pieces=tuple(map(run.loaded.text.piece, self.drafted.token_ids)),
            draft_probability=None if drafted is None or q is None else float(q[drafted]),
            probability=None if drafted is None else float(torch.softmax(scores[0], -1)[drafted]),
            accepted=accepted,
            match=self.drafted.match,
            matched=self.drafted.matched,
        )
        return Choice([token], [u], details=[detail], over=not accepted)

    def _speculate(self, run: Session, p: torch.Tensor, q: torch.Tensor, drafted: int) -> tuple[int, float]:
        """The drafted token or one from what q left over of p, and the draw that decided."""
        position, q = run.lanes[0].position, q.to(p)
        u = self.uniform(run, position, Purpose.ACCEPT)
        if u * float(q[drafted]) < float(p[drafted]):
            return drafted, u
        rest = (p - q).clamp(min=0.0)
        if not bool(rest.any()):
            rest = p  # the same to the last bit but for the drafted token: rounding
        return inverse_cdf(rest.log(), self.uniform(run, position, Purpose.TOKEN)), u

    def uniform(self, run: Session, position: int, purpose: Purpose) -> float:
        """A number in [0, 1) from the run's source of draws."""
        if self.generator is not None:
            return float(torch.rand((), generator=self.generator, dtype=torch.float64, device=self.generator.device))
        return uniform(run.spec.seed, run.first_row, position, purpose, reroll=run.spec.reroll)

    def settle(self, run: Session) -> None:
        """What was fed in vain is forgotten, and the schedule learns."""
        fed = run.ids.shape[1] - 1
        crop_cache(run.cache, fed)
        if run.trace is not None:
            run.trace.crop(fed)
        if self.drafted.token_ids and run.params.num_assistant_tokens_schedule != "constant":
            accepted = len(run.lanes[0].token_ids) - self._before
            all_right = accepted > len(self.drafted.token_ids)
            self.most = self.most + 2 if all_right else max(1, self.most - 1)
        self._before = len(run.lanes[0].token_ids)


class _Picker:
    """Chooses drafted tokens as the run chooses its own, from processed scores."""

    def __init__(self, mode: Assisted, run: Session) -> None:
        self.mode, self.run = mode, run
        self.ids = run.ids

    def __call__(self, logits: torch.Tensor, place: int) -> tuple[int, torch.Tensor] | None:
        run = self.run
        try:
            scores = run_pipeline(
                run.stages, replace(run.pipeline_rows(), ids=self.ids[:, run.unseen :]), logits
            )  # (1, V)
        except ValueError:
            return None  # some of transformers' classes fail where no token is left
        if not math.isfinite(float(scores.max())):
            return None
        distribution = torch.softmax(scores[0].double(), dim=-1)
        if run.params.samples:
            position = run.lanes[0].position + place
            token = inverse_cdf(scores[0], self.mode.uniform(run, position, Purpose.DRAFT))
        else:
            token = int(scores[0].argmax())
        self.ids = torch.cat([self.ids, self.ids.new_tensor([[token]])], dim=1)
        return token, distribution
