"""Derived attention equals `output_attentions` under eager attention within 1e-5, in fp32."""

from __future__ import annotations

import pytest
import torch

from core.contract import AttentionAnswer, AttentionQuery, ThumbnailAnswer, ThumbnailQuery, ViewUnavailableError
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, eager_attention, full_logits, prompt_of, run

PROMPT, NEW = 21, 9
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture
def ours(loaded: LoadedModel) -> Ours:
    return run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": NEW}, prefill_chunk=8)


def ask(ours: Ours, layer: int, **kwargs: object) -> AttentionAnswer:
    answer = ours.session.answer(AttentionQuery(1, layer, **kwargs))
    assert isinstance(answer, AttentionAnswer)
    return answer


def test_every_layer_of_prompt_and_generated_positions_equals_eager(ours: Ours, loaded: LoadedModel) -> None:
    expected = eager_attention(loaded, ours.sequences[0][:-1])
    assert len(expected) == loaded.info.layers
    for layer, weights in enumerate(expected):
        answer = ask(ours, layer)
        assert answer.rows == (0, PROMPT + NEW - 1)
        assert answer.weights.shape == tuple(weights.shape) == (loaded.info.heads, *2 * (PROMPT + NEW - 1,))
        torch.testing.assert_close(torch.tensor(answer.weights), weights, **TOLERANCE)
        assert not answer.weights.flags.writeable


@pytest.mark.parametrize("rows", [(0, 1), (0, 8), (7, 9), (PROMPT - 1, PROMPT + 1), (PROMPT + 3, None)])
def test_any_range_of_rows_and_any_heads(ours: Ours, loaded: LoadedModel, rows: tuple[int, int | None]) -> None:
    expected = eager_attention(loaded, ours.sequences[0][:-1])[-1]
    stop = PROMPT + NEW - 1 if rows[1] is None else rows[1]
    wanted = expected[:, rows[0] : stop, :stop]
    layer = loaded.info.layers - 1
    torch.testing.assert_close(torch.tensor(ask(ours, layer, rows=rows).weights), wanted, **TOLERANCE)
    some = ask(ours, layer, rows=rows, heads=(2, 0)).weights
    torch.testing.assert_close(torch.tensor(some), wanted[[2, 0]], **TOLERANCE)
    mean = ask(ours, layer, rows=rows, heads=(1, 2), reduce="mean").weights
    torch.testing.assert_close(torch.tensor(mean), wanted[[1, 2]].mean(0, keepdim=True), **TOLERANCE)
    high = ask(ours, layer, rows=rows, reduce="max").weights
    torch.testing.assert_close(torch.tensor(high), wanted.amax(0, keepdim=True), **TOLERANCE)


def test_rows_sum_to_one_and_later_keys_weigh_nothing(ours: Ours) -> None:
    for layer in range(ours.session.loaded.info.layers):
        weights = torch.tensor(ask(ours, layer).weights)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-5, rtol=0)
        assert float(weights.triu(1).abs().max()) == 0.0


def test_each_row_of_a_padded_batch_equals_the_row_alone(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, length, seed=8) for length in (3, 17, 10)]
    ours = run(loaded, rows, {"max_new_tokens": NEW}, prefill_chunk=6)
    for row, sequence in enumerate(ours.sequences):
        for layer, weights in enumerate(eager_attention(loaded, sequence[:-1])):
            answer = ask(ours, layer, row=row)
            assert answer.rows == (0, len(sequence) - 1)
            torch.testing.assert_close(torch.tensor(answer.weights), weights, **TOLERANCE)


def test_a_window_hides_what_lies_before_it(random_qwen2_sliding: LoadedModel) -> None:
    window = random_qwen2_sliding.info.sliding_window
    assert window is not None
    ours = run(random_qwen2_sliding, [prompt_of(random_qwen2_sliding, 30)], {"max_new_tokens": 10}, prefill_chunk=7)
    last = torch.tensor(ask(ours, random_qwen2_sliding.info.layers - 1).weights)
    first = torch.tensor(ask(ours, 0).weights)
    beyond = torch.ones(last.shape[1:]).tril(-window).bool()
    assert float(last[:, beyond].max()) == 0.0
    assert float(first[:, beyond].max()) > 0.0  # the first layer sees everything


def test_pooling_keeps_the_largest_weight_of_each_cell(ours: Ours) -> None:
    full = torch.tensor(ask(ours, 1).weights)
    pooled = ask(ours, 1, pool=(8, 8))
    tall, wide = pooled.cell
    assert pooled.weights.shape[1] <= 8
    assert pooled.weights.shape[2] <= 8
    for r in range(pooled.weights.shape[1]):
        for c in range(pooled.weights.shape[2]):
            cell = full[:, r * tall : (r + 1) * tall, c * wide : (c + 1) * wide]
            torch.testing.assert_close(torch.tensor(pooled.weights[:, r, c]), cell.amax((1, 2)), atol=0, rtol=0)


def test_thumbnails_hold_every_head_and_the_largest_weight(ours: Ours, loaded: LoadedModel) -> None:
    layers = tuple(range(loaded.info.layers))
    answer = ours.session.answer(ThumbnailQuery(1, layers, size=16))
    assert isinstance(answer, ThumbnailAnswer)
    assert answer.maps.shape == (len(layers), loaded.info.heads, 16, 16)
    assert answer.span == (0, PROMPT + NEW - 1)
    for layer in layers:
        full = torch.tensor(ask(ours, layer).weights)
        torch.testing.assert_close(torch.tensor(answer.maps[layer]).amax((1, 2)), full.amax((1, 2)), **TOLERANCE)


def test_records_that_were_dropped_are_named_and_can_be_recomputed(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, PROMPT)]
    kept = run(loaded, rows, {"max_new_tokens": NEW}, prefill_chunk=4)
    ours = run(
        loaded, rows, {"max_new_tokens": NEW}, prefill_chunk=4, trace_budget_bytes=kept.steps[-1].trace_bytes // 2
    )
    assert ours.sequences == kept.sequences
    with pytest.raises(ViewUnavailableError) as refused:
        ask(ours, 0, rows=(0, 4))
    assert refused.value.can_recompute
    for layer in range(loaded.info.layers):
        again = ask(ours, layer, recompute=True)
        torch.testing.assert_close(torch.tensor(again.weights), torch.tensor(ask(kept, layer).weights), **TOLERANCE)
    newest = ask(ours, 0, rows=(PROMPT + NEW - 2, None)).weights  # still recorded
    torch.testing.assert_close(torch.tensor(newest), torch.tensor(ask(kept, 0).weights[:, -1:]), **TOLERANCE)


def test_recomputing_while_the_run_goes_on_disturbs_nothing(loaded: LoadedModel) -> None:
    """The worker answers questions between steps, while the run's hooks are on the model."""
    from tests.parity.reference import open_session

    rows = [prompt_of(loaded, PROMPT)]
    free = run(loaded, rows, {"max_new_tokens": NEW})
    session = open_session(loaded, rows, {"max_new_tokens": NEW}, prefill_chunk=4, trace_budget_bytes=1)
    with session.attached():
        while not session.finished:
            session.advance()
            if session.new_tokens == 4 and not session.in_prefill:
                answer = session.answer(AttentionQuery(1, 1, recompute=True))
    expected = torch.tensor(ask(free, 1, rows=(0, answer.rows[1])).weights)
    torch.testing.assert_close(torch.tensor(answer.weights), expected, **TOLERANCE)
    assert [list(ids) for ids in session.result().sequences] == free.sequences
    final = session.answer(AttentionQuery(1, 1, rows=(PROMPT + NEW - 2, None), recompute=True))
    torch.testing.assert_close(torch.tensor(final.weights), torch.tensor(ask(free, 1).weights[:, -1:]), **TOLERANCE)


def test_what_does_not_exist_is_refused_with_a_reason(ours: Ours, loaded: LoadedModel) -> None:
    fed = PROMPT + NEW - 1
    for wrong in ({"layer": loaded.info.layers}, {"layer": -1}, {"rows": (fed, None)}, {"rows": (5, 5)}, {"row": 1},
                  {"rows": (-1, 3)}, {"heads": (loaded.info.heads,)}, {"heads": ()}, {"reduce": "median"}):  # fmt: skip
        with pytest.raises(ViewUnavailableError) as refused:
            ask(ours, **{"layer": 0, **wrong})
        assert str(refused.value).endswith(".")


def test_deriving_views_changes_neither_run_nor_model(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, PROMPT)]
    before = full_logits(loaded, rows[0])
    ours = run(loaded, rows, {"max_new_tokens": NEW})
    report = ours.steps[-1].cache
    for layer in range(loaded.info.layers):
        ask(ours, layer, recompute=True)
    assert torch.equal(full_logits(loaded, rows[0]), before)
    assert ours.session.result().sequences == ours.finished.sequences
    assert ours.session.cache.layers[0].length == report.length
