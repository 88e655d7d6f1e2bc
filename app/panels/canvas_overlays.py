"""What can lie over the picture: quantities of each pixel's step, attention, and the bits of the whole. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from app.panels import output_attention
from app.state import select
from app.state.run import RunView
from app.state.state import AppState, ColourBy
from app.theme.colormaps import indices
from app.widgets import numbers
from core.contract import ImageFacts, KeyNormsAnswer, KeyNormsQuery, Picture, PictureAnswer, PictureQuery, ViewAnswer

Overlay = Literal[
    "none", "probability", "entropy", "surprisal", "rank", "attention", "column", "rollout", "keys", "bits"
]
QUANTITIES: tuple[Overlay, ...] = ("probability", "entropy", "surprisal", "rank")
ATTENTION: tuple[Overlay, ...] = ("attention", "column", "rollout")
TITLES: dict[Overlay, str] = {
    "none": "none",
    "probability": "probability",
    "entropy": "entropy",
    "surprisal": "surprisal",
    "rank": "rank",
    "attention": "attention row",
    "column": "attention column",
    "rollout": "attention rollout",
    "keys": "key norms",
    "bits": "bits per pixel",
}
MEANINGS: dict[Overlay, str] = {
    "probability": "Probability of each pixel's colour, before the pipeline",
    "entropy": "Entropy of each pixel's distribution",
    "surprisal": "Surprisal of each pixel's colour",
    "rank": "Rank of each pixel's colour",
    "attention": "Attention of the shown pixel to earlier ones, square-root scale",
    "column": "Attention of later pixels to the shown one, square-root scale",
    "rollout": "Attention rollout of the shown pixel, square-root scale",
    "keys": "Length of each pixel's key in the cache, mean over the heads looked at",
    "bits": "Bits that each pixel costs after those before it",
}
OVERLAY_SLOT, BITS_SLOT = "canvas.attention", "canvas.bits"
Levels = NDArray[np.int16]  # (H · W,), of the map; -1 where there is nothing to say


@dataclass(frozen=True)
class Keys:
    """Levels of key norms, the norms at the dark and the bright end, and how many pixels' keys the cache let go."""

    levels: Levels
    low: float
    high: float
    gone: int = 0


def ends(overlay: Overlay, keys: Keys | None = None) -> tuple[str, str]:
    """The values at the dark and the bright end of the scale, with their unit; key norms have none."""
    if overlay in ATTENTION:
        return "0 %", "100 %"
    if overlay == "keys":
        return ("", "") if keys is None else (numbers.significant(keys.low), numbers.significant(keys.high))
    return select.colour_ends("surprisal" if overlay == "bits" else cast(ColourBy, overlay))


def of_steps(run: RunView, overlay: Overlay, pixels: int) -> Levels:
    """A quantity of the pixels that were painted; of those given nothing is known."""
    found = np.full(pixels, -1, np.int16)
    first = run.prompt_tokens - 1
    values = indices(select.colour_values(run, cast(ColourBy, overlay))).astype(np.int16)
    found[first : first + len(values)] = values[: pixels - first]
    return found


def of_attention(answer: ViewAnswer | PictureAnswer | None, pixels: int) -> tuple[Levels, float] | None:
    """Weights on pixels, and the one on the start of the picture: the first position is no pixel."""
    levels = output_attention.levels_of(answer)
    if levels is None or not len(levels):
        return None
    found = np.full(pixels, -1, np.int16)
    found[: len(levels) - 1] = levels[1 : pixels + 1]
    return found, float((levels[0] / 255.0) ** 2)


def of_bits(bits: NDArray[np.float32]) -> Levels:
    """Surprisals as the surprisal of a step is coloured: bright is what the model expected."""
    share = 1.0 - np.clip(bits.reshape(-1) / select.SURPRISAL_TOP_BITS, 0.0, 1.0)
    return indices(share).astype(np.int16)


def of_keys(answer: ViewAnswer | PictureAnswer | None, heads: tuple[int, ...] | None, pixels: int) -> Keys | None:
    """Norms of the pixels' keys, mean over the heads that hold one; the key of the last pixel is never made."""
    if not isinstance(answer, KeyNormsAnswer):
        return None
    norms = answer.norms if heads is None else answer.norms[list(heads)]
    norms = norms[:, 1 : pixels + 1]
    there = ~np.isnan(norms)
    held = there.any(axis=0)
    if not held.any():
        return None
    values = np.where(there, norms, 0.0).sum(axis=0)[held] / there.sum(axis=0)[held]
    low, high = float(values.min()), float(values.max())
    found = np.full(pixels, -1, np.int16)
    found[np.flatnonzero(held)] = indices((values - low) / max(high - low, 1e-9)).astype(np.int16)
    return Keys(found, low, high, int((~held).sum()))


def keys_query(run: RunView, state: AppState) -> KeyNormsQuery | None:
    """What to ask for the norms of the cached keys, in the layer that the attention views look at."""
    if not select.fed_positions(run):
        return None
    return KeyNormsQuery(run.run_id, state.focus.layer, **run.place.named)


def key_heads(run: RunView, state: AppState) -> tuple[int, ...] | None:
    """The key-value heads that the attention views look at; None: all."""
    heads, share = select.heads_of(state.focus)[0], run.model.heads // max(1, run.model.kv_heads)
    return None if heads is None else tuple(sorted({head // share for head in heads}))


def attention_query(run: RunView, state: AppState, overlay: Overlay) -> output_attention.Query | None:
    """What to ask for an overlay of attention, if the model's attention is known."""
    status = select.view_status(state, "attention")
    if overlay not in ATTENTION or (status is not None and not status.available):
        return None
    return output_attention.query_of(run, state, cast(output_attention.Source, overlay))


def bits_query(state: AppState, picture: Picture | None) -> PictureQuery | None:
    """What to ask for the bits of a picture; None where it was asked already."""
    if picture is None or state.model is None:
        return None
    query, asked = PictureQuery(state.model.model_id, picture), state.asked.get(BITS_SLOT)
    return None if asked is not None and asked.query == query else query


def bits_of(state: AppState, picture: Picture | None) -> PictureAnswer | None:
    """The bits of this picture, once they are known."""
    got = select.answer(state, BITS_SLOT)
    answer = got.answer if got is not None else None
    if picture is None or not isinstance(answer, PictureAnswer) or answer.query.picture != picture:
        return None
    return answer


def picture_of(token_ids: NDArray[np.int64], image: ImageFacts) -> Picture | None:
    """A whole painting as a picture; None while pixels are missing."""
    if (token_ids < 0).any():
        return None
    return Picture.of(image.palette[token_ids].reshape(image.height, image.width, 3))
