"""A run that begins with embeddings in the place of tokens, or of the model's own embeddings of its tokens.

P prompts, B rows (each prompt as often as it is continued), T slots, E the width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.contract.errors import ParameterError, PromptError
from core.contract.events import PromptRow
from core.contract.params import GenerationParams
from core.contract.specs import RunSpec
from core.decode import prepare
from core.domains.domain import Cancelled
from core.models.anatomy import find_anatomy
from core.models.loaded import LoadedModel

if TYPE_CHECKING:
    from core.decode.extras import Extras
    from core.decode.session import Session

EMBEDDING = "⟨embedding⟩"  # shown where a position has no token


@dataclass(frozen=True)
class Embeds:
    """values: (P, T, E) on the model's device, in its precision, 0 in the padding. padding: slots before each prompt.

    copies: rows of the run for each prompt.
    """

    values: torch.Tensor
    padding: tuple[int, ...]
    copies: int

    @property
    def slots(self) -> int:
        """T, padding included."""
        return self.values.shape[1]

    def prompts(self) -> list[PromptRow]:
        """The rows of the run: negative ids, no two alike, because no position is known to be another's token."""
        counts = [self.slots - padding for padding in self.padding]
        rows = [PromptRow(tuple(range(-1, -count - 1, -1)), (EMBEDDING,) * count, "") for count in counts]
        return [row for row in rows for _ in range(self.copies)]

    def check_tokens(self, rows: Sequence[PromptRow]) -> None:
        """Raises `PromptError` where tokens that were given, too, are not one a position."""
        if len(rows) != len(self.padding) * self.copies:
            raise PromptError(
                f"inputs_embeds is for a batch of {len(self.padding):,}, but the prompts are one of "
                f"{len(rows) // self.copies:,}; give as many, or no prompt."
            )
        for number, (row, padding) in enumerate(zip(rows[:: self.copies], self.padding, strict=True), start=1):
            count, there = len(row.token_ids), self.slots - padding
            if count != there:
                raise PromptError(
                    f"Prompt {number:,} of {len(self.padding):,} has {count:,} tokens, but inputs_embeds {there:,} "
                    "positions for it; give a token for each, or no prompt."
                )

    def fed(self, rows: Sequence[int], start: int, stop: int) -> torch.Tensor:
        """(B, stop - start, E): what some rows of the run are fed at these slots."""
        return self.values[[row // self.copies for row in rows], start:stop]

    def of_row(self, row: int) -> torch.Tensor:
        """(1, positions, E): all of one row, without padding."""
        prompt = row // self.copies
        return self.values[prompt : prompt + 1, self.padding[prompt] :]


def to_embeds(loaded: LoadedModel, extras: Extras, copies: int) -> Embeds | None:
    """What a run begins with instead of tokens, if it does. Raises `PromptError` or `ParameterError`."""
    given, info = extras.inputs_embeds, loaded.info
    if given is None:
        if extras.attention_mask is not None:
            raise PromptError("attention_mask goes with inputs_embeds alone; prompts of tokens are padded here.")
        return None
    if "inputs_embeds" not in find_anatomy(loaded.module).accepts:
        raise ParameterError(f"{info.title} takes no inputs_embeds; give it token ids.")
    if info.image is not None:
        raise ParameterError(
            f"{info.title} paints pictures from the first pixel on; give it an image, no inputs_embeds."
        )
    values = _to_tensor(given)
    width = loaded.module.get_input_embeddings().weight.shape[-1]
    if values.ndim != 3 or 0 in values.shape or values.shape[2] != width:
        shape = " × ".join(map(str, values.shape))
        raise PromptError(f"inputs_embeds has the shape {shape}, but {info.title} takes B × T × {width}.")
    seen = _to_mask(extras.attention_mask, values)  # (P, T)
    fed, seen = values.to(loaded.device, loaded.module.dtype), seen.to(loaded.device)
    if not bool(fed[seen].isfinite().all()):
        raise PromptError(f"inputs_embeds holds values that are not finite in {info.dtype}; give numbers within it.")
    padding = tuple((~seen).sum(dim=1).tolist())
    longest = values.shape[1] - min(padding)
    if longest > info.max_positions:
        raise PromptError(
            f"inputs_embeds has {longest:,} positions, but {info.title} has only {info.max_positions:,}; shorten it."
        )
    return Embeds(fed.masked_fill(~seen[:, :, None], 0.0), padding, copies)


def _to_tensor(given: object) -> torch.Tensor:
    """A tensor or an array of floats, in whatever layout, as a tensor. Raises `PromptError` for anything else."""
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        # torch takes no reversed axes or bytes and no long doubles, and warns of arrays that cannot be written.
        wide = np.float32 if given.dtype.itemsize <= 4 else np.float64
        given = torch.from_numpy(np.array(given, wide, order="C"))
    dense = isinstance(given, torch.Tensor) and given.layout == torch.strided and not given.is_meta
    if not isinstance(given, torch.Tensor) or not dense or not given.is_floating_point():
        numbers = given.dtype if isinstance(given, np.ndarray | torch.Tensor) else ""
        what = f"{type(given).__name__} {numbers}".strip()
        raise PromptError(
            f"inputs_embeds is a dense tensor or a numpy array (B, T, E) of floats, not one of the type {what}."
        )
    return given.detach()


def first_rows(
    loaded: LoadedModel, spec: RunSpec, embeds: Embeds | None, copies: int, cancelled: Cancelled
) -> list[PromptRow]:
    """The prompts of a run, each `copies` times, with their tokens if these are known. Raises `PromptError`."""
    if embeds is not None and not spec.prompts:
        return embeds.prompts()
    rows = prepare.prompt_rows(loaded, spec.prompts, copies, cancelled)
    if embeds is not None:
        embeds.check_tokens(rows)
    return rows


def _to_mask(given: object, values: torch.Tensor) -> torch.Tensor:
    """(P, T), false for padding, which is on the left of each prompt. Raises `PromptError`."""
    if given is None:
        return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    shape = " × ".join(map(str, values.shape[:2]))
    try:
        mask = torch.as_tensor(np.asarray(given) if isinstance(given, list | tuple) else given).to(values.device)
        fits = mask.shape == values.shape[:2] and bool(((mask == 0) | (mask == 1)).all())
    except (TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise PromptError(f"attention_mask has to be {shape} numbers, 1 for each position of inputs_embeds and else 0.")
    seen = mask == 1
    for row, its in enumerate(seen.tolist()):
        if not any(its):
            raise PromptError(f"attention_mask leaves nothing of row {row} of inputs_embeds.")
        if not all(its[its.index(True) :]):
            raise PromptError(f"attention_mask leaves positions out after the first one of row {row}; pad on the left.")
    return seen


def check_unseen(run: Session, params: GenerationParams) -> None:
    """Raises `ParameterError` for what needs the tokens of the prompt, where nobody knows them."""
    if not run.unseen:
        return
    if run.assistant is not None:
        raise ParameterError(
            "A draft model reads tokens, and inputs_embeds has none; draft by assistant_early_exit or "
            "prompt_lookup_num_tokens, or give token ids."
        )
    if params.guidance_scale != 1 and run.spec.steers_from is None:
        raise ParameterError(
            "Guidance without a negative prompt steers away from the prompt's last token, and inputs_embeds has none; "
            "give a negative_prompt."
        )
