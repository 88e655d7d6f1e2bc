"""Interventions of a run: made ready for its model, and the history of what was in force.

`acts.py` has the hooks. B lanes, L layers, E hidden size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn

from core.contract.errors import ParameterError, PromptCancelledError, PromptError
from core.contract.interventions import (
    DeletePositions,
    Hides,
    Intervention,
    ScaleHeads,
    SkipPart,
    Steer,
    check_interventions,
    deleted_positions,
    of_row,
    with_deletions,
    without_deletions,
)
from core.contract.specs import Prompt
from core.decode import prepare
from core.decode.acts import NO_ACTS, Acts
from core.decode.forward import Forward, ForwardCancelled
from core.decode.kv import new_cache
from core.models.anatomy import Anatomy
from core.models.attention import asks_for_masks
from core.models.block import find_parts
from core.trace.recording import Strand

if TYPE_CHECKING:
    from core.decode.session import Session


MOST_KEPT = 32  # steering prompts a model whose residuals are remembered: plans and previews ask for them often
_known: WeakKeyDictionary[nn.Module, dict[str | tuple[int, ...], torch.Tensor]] = WeakKeyDictionary()


def make_acts(run: Session, asked: tuple[Intervention, ...]) -> Acts:
    """Interventions made ready.

    Raises `ParameterError` for what this model or run has not, `PromptError` for a prompt that cannot be steered by.
    """
    if not asked:
        return NO_ACTS
    info, anatomy = run.loaded.info, run.forward.anatomy
    check_interventions(asked, info.title, info.layers, info.heads, info.hidden_size, len(run.prompts))
    muted: dict[int, set[int]] = {}
    for one in asked:
        if isinstance(one, Hides):
            muted.setdefault(one.row, set()).update(one.positions)
    if muted and _counts_the_mask(run):
        raise ParameterError(f"{info.title} counts positions by its mask (ALiBi), so none can be muted by it.")
    if any(isinstance(one, DeletePositions) for one in asked):
        _check_deletion(run)
    return Acts(
        asked,
        _heads(anatomy, info.title, info.heads, asked),
        tuple(dict.fromkeys(_part(anatomy, info.title, one) for one in asked if isinstance(one, SkipPart))),
        _steered(run, asked),
        {row: tuple(sorted(positions)) for row, positions in muted.items()},
        {row: deleted for row in muted if (deleted := deleted_positions(asked, row))},
    )


_NEVER_DELETED = {
    "off": "Without a cache nothing is kept that could be deleted",
    "static": "A static cache has its whole storage from the beginning, so that nothing would be given back",
    "dynamic": "The cache of transformers knows no positions besides the places of its keys",
    "heavy_hitters": "Of heavy hitters each head keeps positions of its own",
}


def _check_deletion(run: Session) -> None:
    """Raises `ParameterError` where positions cannot leave the cache one by one."""
    kind, title = run.spec.cache.kind, run.loaded.info.title
    if kind not in ("growing", "fp8", "int8"):
        why = _NEVER_DELETED.get(kind, "A cache with a window drops positions by its own rule")
        raise ParameterError(f"{why}; mute the positions, or take the growing, fp8 or int8 cache.")
    if not asks_for_masks(run.loaded.module):
        raise ParameterError(f"{title} attends to its cache in its own way, as a whole; mute the positions instead.")


def _counts_the_mask(run: Session) -> bool:
    config = run.loaded.module.config
    return bool(config.model_type == "bloom" or getattr(config, "alibi", False))


def _heads(
    anatomy: Anatomy, title: str, heads: int, asked: tuple[Intervention, ...]
) -> tuple[tuple[nn.Module, torch.Tensor], ...]:
    """Factors of the same head multiply."""
    found: dict[int, list[float]] = {}
    for one in asked:
        if isinstance(one, ScaleHeads):
            factors = found.setdefault(one.layer, [1.0] * heads)
            for head in one.heads:
                factors[head] *= one.factor
    made = []
    for layer, factors in found.items():
        projection = find_parts(anatomy.layers[layer]).projection
        width = 0 if projection is None else _input_width(projection)
        if projection is None or not width or width % heads:
            raise ParameterError(f"Layer {layer} of {title} has no output projection whose heads could be scaled.")
        device = next(projection.parameters()).device
        made.append((projection, torch.tensor(factors, device=device).repeat_interleave(width // heads)))
    return tuple(made)


def _input_width(projection: nn.Module) -> int:
    """Of a Linear or a Conv1D; 0 for anything else."""
    weight = getattr(projection, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return 0
    return int(weight.shape[1] if isinstance(projection, nn.Linear) else weight.shape[0])


def _part(anatomy: Anatomy, title: str, one: SkipPart) -> nn.Module:
    parts = find_parts(anatomy.layers[one.layer])
    found = parts.attention if one.part == "attention" else parts.mlp
    if found is None:
        raise ParameterError(f"Layer {one.layer} of {title} has no {one.part} that Tokenglass can find.")
    return found


def _steered(run: Session, asked: tuple[Intervention, ...]) -> tuple[tuple[nn.Module, torch.Tensor], ...]:
    sums: dict[int, torch.Tensor] = {}
    for one in asked:
        if isinstance(one, Steer):
            vector = one.scale * steering_vector(run, one)
            sums[one.layer] = vector if one.layer not in sums else sums[one.layer] + vector
    return tuple((run.forward.anatomy.layers[layer], vector) for layer, vector in sums.items())


def steering_vector(run: Session, steer: Steer) -> torch.Tensor:
    """(E,) float32, before `scale`: the difference of the residuals entering the layer, each at its last token."""
    if steer.vector is not None:
        return torch.tensor(steer.vector, dtype=torch.float32, device=run.loaded.device)
    toward = _residuals(run, steer.toward)[steer.layer]
    if steer.away in ("", ()):
        return toward
    return toward - _residuals(run, steer.away)[steer.layer]


@torch.inference_mode()
def _residuals(run: Session, prompt: str | tuple[int, ...]) -> torch.Tensor:
    """What enters each layer at the last token of a prompt, (L + 1, E) float32; no intervention acts on it."""
    known = _known.setdefault(run.loaded.module, {})
    if prompt in known:
        return known[prompt]
    given = Prompt(text=prompt) if isinstance(prompt, str) else Prompt(ids=prompt)
    try:
        [row] = prepare.prompt_rows(run.loaded, (given,), 1, run.cancelled)
        forward = Forward(run.loaded, [0], run.cancelled)
        forward.keeps_residuals = True
        with forward.attached():
            forward(torch.tensor([row.token_ids], device=run.loaded.device), new_cache(run.loaded.info.layers), None)
    except ForwardCancelled:
        raise PromptCancelledError(
            "The steering prompt was not read to its end, because something else came."
        ) from None
    except PromptCancelledError:
        raise
    except PromptError as problem:
        raise PromptError(f"A steering prompt cannot be used. {problem.message}") from problem
    found = torch.stack([residual[0, -1].float() for residual in forward.take_residuals()])
    while len(known) >= MOST_KEPT:
        del known[next(iter(known))]
    known[prompt] = found
    return found


class History:
    """What was in force for which slots of a run."""

    def __init__(self) -> None:
        self._since: list[tuple[int, Acts]] = [(0, NO_ACTS)]

    @property
    def now(self) -> Acts:
        """In force for the next slot that is fed."""
        return self._since[-1][1]

    @property
    def asked(self) -> tuple[tuple[int, tuple[Intervention, ...]], ...]:
        """From which slot on what was asked for."""
        return tuple((slot, acts.asked) for slot, acts in self._since)

    def put(self, slot: int, acts: Acts) -> None:
        """In force from this slot on, which was not fed yet."""
        self._since = [entry for entry in self._since if entry[0] < slot]
        self._since.append((slot, acts))

    def parted(self, slot: int, asked: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
        """`asked` for a branch whose first own pass feeds this slot: deleted is what was deleted before."""
        made = self.at(max(0, slot - 1)).asked
        return with_deletions(without_deletions(asked, self.now.asked), made)

    def take(self, before: History, slot: int, row: int = 0) -> None:
        """Slots before this one are a row of another run's; from it on holds what holds already."""
        now = self.now
        self._since = [(since, _of_row(acts, row)) for since, acts in before._since if since < slot]
        self.put(slot, now)

    def upto(self, start: int, stop: int) -> int:
        """How far the same is in force from `start` on, `stop` at most."""
        return self.marks(start, stop)[1]

    def at(self, slot: int) -> Acts:
        """In force when this slot was fed."""
        return next(acts for since, acts in reversed(self._since) if since <= slot)

    def marks(self, start: int, stop: int) -> list[int]:
        """The slots between which something changed, both ends included."""
        return [start, *(since for since, _ in self._since if start < since < stop), stop]

    def differs(self, before: History, start: int, stop: int, row: int) -> bool:
        """Whether something else is in force for a slot of [start, stop) than in `row` of another run."""
        slots = {start, *(since for since, _ in (*self._since, *before._since) if start < since < stop)}
        return start < stop and any(self.at(s).asked != _of_row(before.at(s), row).asked for s in slots)

    def same_until(self, other: History) -> int | None:
        """The slot before which both are alike; None if all of it is."""
        slots = sorted({slot for slot, _ in (*self._since, *other._since)})
        return next((slot for slot in slots if self.at(slot).asked != other.at(slot).asked), None)

    def hidden(self, row: int, padding: int, start: int, stop: int) -> torch.Tensor | None:
        """Keys that the queries at positions [start, stop) of a row did not see, (stop - start, stop); None: none."""
        muted = [self.at(padding + position).muted.get(row, ()) for position in range(start, stop)]
        if not any(muted):
            return None
        hidden = torch.zeros(stop - start, stop, dtype=torch.bool)
        for query, positions in enumerate(muted):
            hidden[query, [p for p in positions if p < stop]] = True
        return hidden


def _of_row(acts: Acts, row: int) -> Acts:
    if not acts.muted:
        return acts
    muted = {0: acts.muted[row]} if row in acts.muted else {}
    deleted = {0: acts.deleted[row]} if row in acts.deleted else {}
    return replace(acts, asked=of_row(acts.asked, row), muted=muted, deleted=deleted)


def hidden_keys(run: Session, strand: Strand, start: int, stop: int) -> torch.Tensor | None:
    """`History.hidden` of a sequence, by its positions."""
    padding = run.prompt_slots - len(run.prompts[strand.row].token_ids)
    return run.acts.hidden(strand.row, padding, start, stop)


def preview_logits(run: Session, strand: Strand, position: int, asked: tuple[Intervention, ...]) -> torch.Tensor:
    """Logits (V,) float32 after `position`, fed once more under these interventions. Raises as `make_acts` does."""
    acts = make_acts(run, asked)
    _, trace, again = run.feed_again(strand, position, position + 1, acts)
    slot = again.padding + position
    residual = trace.residuals(run.loaded.info.layers, slot, slot + 1, again.path)[0]  # (E,)
    return run.forward.anatomy.read_out(residual)
