"""Rollout, columns and per-head summaries against eager `output_attentions`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.contract import (
    AttentionQuery,
    ColumnAnswer,
    ColumnQuery,
    HeadsAnswer,
    HeadsQuery,
    NormsQuery,
    RolloutAnswer,
    RolloutQuery,
    ViewUnavailableError,
)
from core.models.loaded import LoadedModel
from core.trace import reading, rollout
from core.trace.heads import induction_targets
from tests.parity.reference import Ours, eager_attention, prompt_of, run

PROMPT, NEW = 21, 9
FED = PROMPT + NEW - 1


def repeated(loaded: LoadedModel, length: int) -> list[int]:
    """A prompt whose second half repeats its first."""
    half = prompt_of(loaded, length // 2, seed=3)
    return [*half, *half, *half][:length]


@pytest.fixture
def ours(loaded: LoadedModel) -> Ours:
    return run(loaded, [repeated(loaded, PROMPT)], {"max_new_tokens": NEW}, prefill_chunk=8)


def rolled_out(weights: list[torch.Tensor]) -> torch.Tensor:
    """The whole product, layer by layer from the first one up."""
    total = torch.eye(weights[0].shape[-1])
    for layer in weights:
        total = (0.5 * layer.mean(0) + 0.5 * torch.eye(total.shape[0])) @ total
    return total


@pytest.mark.parametrize("rows", [(0, None), (FED - 1, FED), (3, 9)])
def test_rollout_equals_the_product_of_eager_attentions(
    ours: Ours, loaded: LoadedModel, rows: tuple[int, int | None]
) -> None:
    expected = rolled_out(eager_attention(loaded, ours.sequences[0][:-1]))
    answer = ours.session.answer(RolloutQuery(1, rows))
    assert isinstance(answer, RolloutAnswer)
    start, stop = answer.rows
    assert answer.weights.shape == (stop - start, stop)
    np.testing.assert_allclose(answer.weights, expected[start:stop, :stop], atol=1e-5)
    np.testing.assert_allclose(answer.weights.sum(1), 1.0, atol=1e-5)


def test_rollout_of_a_row_makes_keys_once_a_layer_and_skips_what_nothing_reaches(
    random_qwen2_sliding: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, made, asked = random_qwen2_sliding, [], []
    ours = run(loaded, [prompt_of(loaded, 60)], {"max_new_tokens": 2})
    monkeypatch.setattr(reading, "SLICE_ELEMENTS", 60 * loaded.info.heads)
    honest_keys, honest_weights = rollout.keys_of, rollout.weights
    monkeypatch.setattr(rollout, "keys_of", lambda *args: made.append(args[2]) or honest_keys(*args))
    monkeypatch.setattr(rollout, "weights", lambda *args: asked.append(args[2:]) or honest_weights(*args))
    answer = ours.session.answer(RolloutQuery(1, (59, 60)))
    expected = rolled_out(eager_attention(loaded, ours.sequences[0][:60]))
    np.testing.assert_allclose(answer.weights, expected[59:], atol=1e-5)
    layers = list(reversed(range(loaded.info.layers)))
    assert made == layers
    assert [a[1:] for a in asked if a[0].layer == layers[0]] == [(59, 60)]  # of the top layer nothing but the row
    assert min(a[1] for a in asked) == 59 - 2 * 7  # two layers with a window of 8 lead no further back


@pytest.mark.parametrize(("start", "stop", "heads"), [(0, 4000, 9), (3999, 4000, 9), (7, 300, 32), (0, 1, 1)])
def test_slices_cover_every_query_once_and_stay_small(start: int, stop: int, heads: int) -> None:
    parts = list(reading.row_slices(start, stop, heads))
    assert [n for begin, end in parts for n in range(begin, end)] == list(range(start, stop))
    assert all((end - begin) * end * heads <= reading.SLICE_ELEMENTS for begin, end in parts)


def test_a_column_is_the_column_of_the_matrix(ours: Ours, loaded: LoadedModel) -> None:
    expected = eager_attention(loaded, ours.sequences[0][:-1])[-1]  # (H, T, T)
    layer = loaded.info.layers - 1
    for key in (0, 4, FED - 1):
        answer = ours.session.answer(ColumnQuery(1, layer, key))
        assert isinstance(answer, ColumnAnswer)
        np.testing.assert_allclose(answer.weights, expected[:, :, key], atol=1e-5)
        some = ours.session.answer(ColumnQuery(1, layer, key, (2, 0), rows=(3, 12)))
        if key < 12:
            np.testing.assert_allclose(some.weights, expected[[2, 0], 3:12, key], atol=1e-5)
        else:
            assert not some.weights.any()
        high = ours.session.answer(ColumnQuery(1, layer, key, reduce="max"))
        np.testing.assert_allclose(high.weights[0], expected[:, :, key].amax(0), atol=1e-5)


def test_each_head_in_four_numbers(ours: Ours, loaded: LoadedModel) -> None:
    ids = ours.sequences[0][:-1]
    expected = eager_attention(loaded, ids)
    layers = tuple(range(loaded.info.layers))
    for start in (0, 7):
        answer = ours.session.answer(HeadsQuery(1, layers, (start, None)))
        assert isinstance(answer, HeadsAnswer)
        pairs = [(q, t) for q, t in enumerate(induction_targets(ids)) if t is not None and q >= start]
        assert answer.repeats == len(pairs) > 3
        for layer, w in enumerate(expected):
            rows = w[:, start:]
            entropy = torch.special.entr(rows).sum(-1).mean(-1) / np.log(2)
            np.testing.assert_allclose(answer.entropy_bits[layer], entropy, atol=1e-4)
            queries = range(max(start, 1), FED)
            np.testing.assert_allclose(answer.first[layer], w[:, queries, 0].mean(-1), atol=1e-5)
            before = torch.stack([w[:, q, q - 1] for q in queries], -1).mean(-1)
            np.testing.assert_allclose(answer.previous[layer], before, atol=1e-5)
            induction = torch.stack([w[:, q, t] for q, t in pairs], -1).mean(-1)
            np.testing.assert_allclose(answer.induction[layer], induction, atol=1e-5)


def test_what_was_dropped_can_be_fed_again_for_every_view(ours: Ours, loaded: LoadedModel) -> None:
    prompt = ours.sequences[0][:-NEW]
    poor = run(loaded, [prompt], {"max_new_tokens": NEW}, prefill_chunk=4, trace_budget_bytes=1)
    assert poor.sequences == ours.sequences
    heads, rollout = HeadsQuery(1, (0, 1), (5, None)), RolloutQuery(1, (FED - 2, None))
    for query in (ColumnQuery(1, 1, 3), heads, rollout, NormsQuery(1, 2)):
        with pytest.raises(ViewUnavailableError) as refused:
            poor.session.answer(query)
        assert refused.value.can_recompute
        again, kept = poor.session.answer(replace(query, recompute=True)), ours.session.answer(query)
        names = {"weights", "first", "previous", "entropy_bits", "residual", "update"}
        compared = [name for name in names if hasattr(kept, name)]
        assert compared
        for name in compared:
            np.testing.assert_allclose(getattr(again, name), getattr(kept, name), atol=1e-4)


def test_induction_looks_behind_the_latest_earlier_occurrence() -> None:
    assert induction_targets([5, 6, 7, 5, 6, 5, 5]) == [None, None, None, 1, 2, 4, None]


def test_without_repeats_there_is_no_induction_score(random_llama: LoadedModel) -> None:
    ours = run(random_llama, [list(range(1, 9))], {"max_new_tokens": 1})
    answer = ours.session.answer(HeadsQuery(1, (0,)))
    assert isinstance(answer, HeadsAnswer)
    assert answer.repeats == 0
    assert np.isnan(answer.induction).all()
    assert {answer.kind(0, head) for head in range(6)} <= {"", "sink", "previous"}


def test_rows_of_a_padded_batch_answer_like_the_row_alone(loaded: LoadedModel) -> None:
    rows = [repeated(loaded, n) for n in (4, 16, 9)]
    batch = run(loaded, rows, {"max_new_tokens": 5}, prefill_chunk=6)
    for row, sequence in enumerate(batch.sequences):
        weights = eager_attention(loaded, sequence[:-1])
        answer = batch.session.answer(RolloutQuery(1, (0, None), row=row))
        np.testing.assert_allclose(answer.weights, rolled_out(weights), atol=1e-5)
        heads = batch.session.answer(HeadsQuery(1, (1,), row=row))
        np.testing.assert_allclose(heads.first[0], weights[1][:, 1:, 0].mean(-1), atol=1e-5)
        column = batch.session.answer(ColumnQuery(1, 1, 2, row=row))
        np.testing.assert_allclose(column.weights, weights[1][:, :, 2], atol=1e-5)


def test_a_single_head_pooled_is_the_pooled_head(ours: Ours, loaded: LoadedModel) -> None:
    for head in range(loaded.info.heads):
        every = ours.session.answer(AttentionQuery(1, 1, pool=(8, 8)))
        one = ours.session.answer(AttentionQuery(1, 1, (head,), pool=(8, 8)))
        np.testing.assert_allclose(one.weights[0], every.weights[head], atol=1e-6)


def test_what_does_not_exist_is_refused_with_a_reason(ours: Ours, loaded: LoadedModel) -> None:
    for query in (RolloutQuery(1, (FED, None)), ColumnQuery(1, 0, FED), ColumnQuery(1, 0, -1),
                  ColumnQuery(1, 0, 1, (99,)), HeadsQuery(1, (loaded.info.layers,))):  # fmt: skip
        with pytest.raises(ViewUnavailableError) as refused:
            ours.session.answer(query)
        assert str(refused.value).endswith(".")
