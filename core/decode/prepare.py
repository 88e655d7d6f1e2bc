"""Before the first forward pass: the prompt as tokens, the parameters, the constraint."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index

import torch

from core.contract.errors import PromptCancelledError, PromptError
from core.contract.events import PromptRow
from core.contract.params import GenerationParams
from core.contract.specs import Prompt, RunSpec
from core.contract.together import check_together, in_mode
from core.decode.grammar import Constraint
from core.domains.domain import Cancelled, never
from core.models.loaded import LoadedModel


def tokenize(loaded: LoadedModel, prompt: Prompt, cancelled: Cancelled = never) -> PromptRow:
    """One prompt as tokens; no limits are checked. Raises `PromptError`."""
    text, info = loaded.text, loaded.info
    if prompt.ids is not None:
        unknown = next((i for i in prompt.ids if not 0 <= i < info.vocab_size), None)
        if unknown is not None:
            raise PromptError(f"Token id {unknown} does not exist; {info.title} knows ids 0 to {info.vocab_size - 1}.")
        ids, rendered = list(prompt.ids), text.decode(prompt.ids)
    elif prompt.messages is not None:
        rendered = text.render_chat(prompt.messages, cancelled)
        ids = text.encode(rendered, add_special_tokens=False, cancelled=cancelled)
    elif prompt.image is not None:
        ids = text.encode_picture(prompt.image)[: 1 + _kept_pixels(loaded, prompt)]
        rendered = text.decode(ids)
    else:
        rendered = prompt.text or ""
        ids = text.encode(rendered, cancelled=cancelled) if rendered else []
    return PromptRow(tuple(ids), tuple(text.piece(i) for i in ids), rendered)


def _kept_pixels(loaded: LoadedModel, prompt: Prompt) -> int:
    """How many pixels of the picture are given. Raises `PromptError`."""
    image = loaded.info.image
    if image is None or (prompt.keep_rows is None and prompt.keep_pixels is None):
        return 0 if image is None else image.pixels
    if prompt.keep_rows is not None and prompt.keep_pixels is not None:
        raise PromptError("Give either keep_rows or keep_pixels, not both.")
    kept, most, what = (
        (prompt.keep_rows, image.height, "rows") if prompt.keep_rows is not None
        else (prompt.keep_pixels or 0, image.pixels, "pixels")
    )  # fmt: skip
    try:
        if isinstance(kept, bool):
            raise TypeError
        kept = index(kept)
    except TypeError:
        raise PromptError(f"keep_{what} is a whole number of {what}, not {kept!r}.") from None
    if not 0 <= kept <= most:
        raise PromptError(f"{kept:,} {what} cannot be kept; pictures of {loaded.info.title} have {most:,}.")
    return kept * image.width if what == "rows" else kept


def prompt_rows(
    loaded: LoadedModel, prompts: tuple[Prompt, ...], copies: int, cancelled: Cancelled = never
) -> list[PromptRow]:
    """The rows of a run: every prompt `copies` times, an empty one begun with BOS. Raises `PromptError`."""
    rows = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            rows.append(runnable(loaded, tokenize(loaded, prompt, cancelled)))
        except PromptError as error:
            if len(prompts) == 1 or isinstance(error, PromptCancelledError):
                raise
            raise PromptError(f"Prompt {number:,} of {len(prompts):,}: {error.message}", detail=error.detail) from error
    if not rows:
        raise PromptError("There is no prompt to run.")
    return [row for row in rows for _ in range(copies)]


def runnable(loaded: LoadedModel, row: PromptRow) -> PromptRow:
    """The row, an empty one begun with BOS. Raises `PromptError` for one that does not fit."""
    info = loaded.info
    if not row.token_ids:
        bos = info.bos_token_id
        if bos is None:
            raise PromptError(f"The prompt is empty and {info.title} has no BOS token to begin with; type something.")
        row = PromptRow((bos,), (loaded.text.piece(bos),), "")
    if info.image is not None and len(row.token_ids) > info.image.pixels:
        raise PromptError(
            f"{len(row.token_ids) - 1:,} pixels are given, and a picture has {info.image.pixels:,}, so none is left to "
            "paint; keep fewer, with keep_rows or --keep-rows."
        )
    if len(row.token_ids) > info.max_positions:
        raise PromptError(
            f"The prompt has {len(row.token_ids):,} tokens, but {info.title} has only {info.max_positions:,} "
            "positions; shorten it."
        )
    return row


def _phrase_ids(loaded: LoadedModel, texts: tuple[str, ...]) -> tuple[object, ...]:
    """A phrase as token ids, or its alternatives as a tuple of them."""
    ids = tuple(tuple(loaded.text.encode(text, add_special_tokens=False)) for text in texts)
    return ids[0] if len(ids) == 1 else ids


def resolve_params(loaded: LoadedModel, spec: RunSpec) -> GenerationParams:
    """The user's values over the model's, over the defaults; `spec.mode` decides do_sample. Raises `ParameterError`."""
    params = loaded.info.defaults.replace({**spec.host_defaults, **spec.params})
    if spec.force_words:
        phrases = (*params.force_words_ids, *(_phrase_ids(loaded, texts) for texts in spec.force_words))
        params = params.replace({"force_words_ids": phrases})
    if spec.mode is not None:
        params = in_mode(params, spec.mode, spec.assistant is not None)
    check_together(params, spec.assistant is not None)
    return params


def constraint(loaded: LoadedModel, spec: RunSpec) -> Constraint | None:
    """The grammar over this model's tokens, if there is one. Raises `GrammarError`."""
    return None if spec.grammar is None else Constraint(loaded.text, loaded.info.vocab_size, spec.grammar)


@dataclass(frozen=True)
class Slots:
    """The prompts as one batch, shorter rows padded on the left."""

    ids: torch.Tensor  # (B, T)
    padding: torch.Tensor  # (B,)


def pad_left(rows: list[PromptRow], pad_id: int, device: torch.device, least: int = 0) -> Slots:
    """Rows of token ids as one tensor, with at least so many slots of padding in front of each."""
    width = max(len(row.token_ids) for row in rows) + least
    padding = [width - len(row.token_ids) for row in rows]
    ids = [[pad_id] * pad + list(row.token_ids) for pad, row in zip(padding, rows, strict=True)]
    return Slots(torch.tensor(ids, device=device), torch.tensor(padding, device=device))
