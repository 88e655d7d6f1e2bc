"""DoLa: the last layer's distribution contrasted with that of an earlier layer (Chuang et al., 2023).

The arithmetic is that of transformers 4.51.3 (`_dola_decoding`, `_dola_select_contrast`, `_relative_top_filter`): an
earlier layer is read out by the head alone, without the final norm. Two differences: each row chooses its own layer,
where `generate()` chose one for the whole batch, so that no row depends on its neighbours; and earlier layers are
compared in float32 whatever the model's precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import kl_div

from core.contract.detail import DolaDetail
from core.contract.errors import ParameterError
from core.contract.params import GenerationParams
from core.decode.modes.greedy import Greedy
from core.decode.modes.mode import Choice, Mode, Past
from core.decode.pipeline import Rows, Stage

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session

RELATIVE_TOP = 0.1  # tokens below this part of the largest probability are ruled out


@dataclass(frozen=True)
class Contrast:
    """What the scores of a step are held against, row by row: log-probabilities (B, V) of each row's chosen layer."""

    base: torch.Tensor
    details: tuple[DolaDetail, ...]

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V): the logarithm of the two probabilities' ratio, -inf for what the last layer finds unlikely."""
        final = torch.log_softmax(scores, dim=-1)
        threshold = final.amax(dim=-1, keepdim=True) + math.log(RELATIVE_TOP)
        return (final - self.base).masked_fill(final < threshold, -torch.inf)


class Dola(Mode):
    """Chooses as greedy search or as sampling does, from contrasted scores; the contrast is the pipeline's first stage.

    So the snapshot's raw probabilities are the model's own.
    """

    name = "dola_generation"
    copies = True

    def __init__(self, sampler: Mode) -> None:
        self._greedy, self._sampler = Greedy(), sampler
        self._entering: list[torch.Tensor] = []  # (L + 1) × (B, E), of the newest position
        self._contrast: Contrast | None = None

    def begin(self, run: Session) -> None:
        """The residual stream is looked into at every step."""
        run.forward.keeps_residuals = True

    def prefilled(self, run: Session) -> None:
        """Keep what entered each layer at the newest position."""
        self._entering = [residual[:, -1] for residual in run.forward.take_residuals()]

    def feed(self, run: Session) -> torch.Tensor:
        """The model's own logits; each lane's layer is chosen by them."""
        if run.pending_logits is None:
            logits = run.feed_newest()
            self.prefilled(run)
        else:
            logits = run.feed_newest()
        layers = candidate_layers(run, run.params)
        self._contrast = contrast_with(run, layers, [self._entering[layer] for layer in layers], logits)
        return logits[None]

    def feed_put(self, run: Session) -> torch.Tensor:
        """The contrast is told also where it decides nothing."""
        return self.feed(run)

    def opening(self, run: Session, params: GenerationParams, past: Past | None = None) -> tuple[Stage, ...]:
        """The contrast. Raises as `Mode.opening`."""
        layers = candidate_layers(run, params)
        entering = [] if past is None else [_recorded(run, layer, past) for layer in layers]

        def live(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
            assert self._contrast is not None  # made by `feed`
            return self._contrast(scores)

        def replayed(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
            return contrast_with(run, layers, entering, scores)(scores)

        keeps = "dola_layers keeps only tokens at least a tenth as likely as the likeliest"
        fn = live if past is None else replayed
        return (Stage("dola_layers", {"dola_layers": params.dola_layers}, fn, keeps=keeps),)

    def choose(self, run: Session, processed: Processed, place: int) -> Choice:
        """One token a lane, the likeliest or drawn."""
        mode = self._sampler if run.params.samples else self._greedy
        assert self._contrast is not None
        return replace(mode.choose(run, processed, place), details=self._contrast.details)


def _recorded(run: Session, layer: int, past: Past) -> torch.Tensor:
    """What entered a layer at a past step, (1, E)."""
    return run.recording().residuals(layer, past.strand, past.position, past.position + 1)


def candidate_layers(run: Session, params: GenerationParams) -> list[int]:
    """The layers to choose from; number i is what enters layer i. Raises `ParameterError` where none is left.

    With tied word embeddings `low` begins at layer 2, since the head on the embeddings would only say the token again.
    """
    count, asked = run.loaded.info.layers, params.dola_layers
    if isinstance(asked, tuple):
        layers = [layer for layer in asked if layer < count]
    elif asked == "high":
        layers = list(range(count // 2 if count <= 40 else count - 20, count, 2))
    else:
        tied = bool(getattr(run.loaded.module.config, "tie_word_embeddings", False))
        first = min(2, count - 1) if tied else 0
        layers = [first] if first == count // 2 else list(range(first, count // 2 if count <= 40 else 20, 2))
    if not layers:
        raise ParameterError(
            f"dola_layers leaves no layer to contrast; name some of the layers 0 to {count - 1} of this model."
        )
    return layers


def contrast_with(
    run: Session, layers: Sequence[int], entering: Sequence[torch.Tensor], logits: torch.Tensor
) -> Contrast:
    """Choose for each row of logits (B, V) the layer that differs most, from what entered each layer, n × (B, E)."""
    head = run.forward.anatomy.head
    early = torch.log_softmax(torch.stack([head(residual).float() for residual in entering]), dim=-1)  # (n, B, V)
    final = torch.log_softmax(logits, dim=-1)[None]  # (1, B, V)
    mean = 0.5 * (final.exp() + early.exp())
    # The mean over the vocabulary, as in transformers; n × V / V keeps the order and makes it a divergence.
    from_final = kl_div(final, mean, reduction="none").mean(dim=-1)  # (n, B)
    divergence = 0.5 * (from_final + kl_div(early, mean, reduction="none").mean(dim=-1))
    chosen = divergence.argmax(dim=0)  # (B,)
    bits = (divergence * (logits.shape[-1] / math.log(2.0))).T.tolist()
    details = tuple(
        DolaDetail(layers[index], tuple(layers), tuple(row)) for index, row in zip(chosen.tolist(), bits, strict=True)
    )
    return Contrast(early[chosen, torch.arange(logits.shape[0], device=chosen.device)], details)
