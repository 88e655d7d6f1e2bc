"""top_p and typical_p by a partial sort give what transformers' classes give, or leave it to them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TopPLogitsWarper, TypicalLogitsWarper

from core.decode.pipeline import Rows
from core.decode.pipeline.partial_sort import SMALL, PartialTopP, PartialTypical

V = 3 * SMALL
KINDS = {"top_p": (PartialTopP, TopPLogitsWarper), "typical_p": (PartialTypical, TypicalLogitsWarper)}
NO_IDS = torch.zeros(1, 1, dtype=torch.long)
ROWS = Rows(NO_IDS, (0,))  # which filters do not read


def scores_of(
    seed: int, sharpness: float, rows: int = 1, coarse: bool = False, alive: int | None = None
) -> torch.Tensor:
    scores = torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * sharpness
    if coarse:
        scores = (scores + 10).bfloat16().float()  # many equal ones, as of a bf16 head
    if alive is not None:
        scores = scores.masked_fill(scores < torch.topk(scores, alive).values[:, -1:], -torch.inf)
    return scores


@settings(deadline=None, max_examples=120)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 10_000),
    sharpness=st.sampled_from([0.1, 1.0, 3.0, 8.0]),
    mass=st.sampled_from([0.02, 0.3, 0.5, 0.9, 0.95, 0.999]),
    least=st.sampled_from([1, 3]),
    coarse=st.booleans(),
    alive=st.sampled_from([None, 1, 40]),
)
def test_the_result_is_that_of_the_full_sort(
    kind: str, seed: int, sharpness: float, mass: float, least: int, coarse: bool, alive: int | None
) -> None:
    part, full = KINDS[kind]
    scores = scores_of(seed, sharpness, 1 + seed % 2, coarse, alive)
    wanted = full(mass, min_tokens_to_keep=least)(NO_IDS, scores)
    assert torch.equal(part(mass, least)(ROWS, scores), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_sharp_distributions_need_no_full_sort_and_flat_ones_are_counted(kind: str) -> None:
    part = KINDS[kind][0](0.9, 1)
    for seed in range(10):
        part(ROWS, scores_of(seed, 6.0))
    assert (part.calls, part.fallbacks) == (10, 0)
    part(ROWS, torch.zeros(1, V))
    assert (part.calls, part.fallbacks) == (11, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_mass_0_keeps_one_token(kind: str) -> None:
    kept = KINDS[kind][0](0.0, 1)(ROWS, scores_of(1, 3.0)).isfinite()
    assert int(kept.sum()) == 1


def test_of_equal_tokens_of_which_only_some_fit_the_sort_decides() -> None:
    scores = torch.full((1, V), -30.0)
    scores[0, 100:104] = 1.0
    part = PartialTopP(0.6, 1)
    assert torch.equal(part(ROWS, scores), TopPLogitsWarper(0.6)(NO_IDS, scores))
    assert part.fallbacks == 1
    part = PartialTopP(0.9, 1)  # all four fit
    assert part(ROWS, scores).isfinite().nonzero()[:, 1].tolist() == [100, 101, 102, 103]
    assert part.fallbacks == 0


def test_a_small_vocabulary_is_simply_sorted() -> None:
    part = PartialTopP(0.5, 1)
    scores = torch.randn(4, 100)
    assert torch.equal(part(ROWS, scores), TopPLogitsWarper(0.5)(NO_IDS, scores))
    assert part.calls == 0
