"""Every figure of the Cache lab against an independent computation."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, LlamaConfig, Qwen2Config
from transformers.cache_utils import DynamicCache

from core.cache_lab import begin, run
from core.cache_lab.flops import pass_cost
from core.contract import (
    KNOWN_SHAPES,
    CacheShape,
    CacheSpec,
    Experiment,
    LabResult,
    ParameterError,
    Prompt,
    PromptError,
    differences,
    plain_bytes,
    predict,
)
from core.decode.forward import ForwardCancelled
from core.decode.kv import cache_report
from core.models.facts import dimensions
from core.models.loaded import LoadedModel
from tests.parity.reference import full_logits, generate, open_session, plain, prompt_of
from tests.parity.reference import run as run_session

NEW = 9


def lab(loaded: LoadedModel, name: str, length: int = 12, **more: object) -> LabResult:
    return run(loaded, Experiment(name, Prompt(ids=tuple(prompt_of(loaded, length))), **{"new_tokens": NEW, **more}))  # type: ignore[arg-type]


def line(result: LabResult, title: str, name: str) -> dict[float, float]:
    lane = next(n for n, found in enumerate(result.lanes) if found.title == title)
    series = next(s for s in result.series if (s.lane, s.name) == (lane, name))
    return dict(zip(series.x, series.y, strict=True))


def test_why_counts_what_a_flop_counter_counts(loaded: LoadedModel) -> None:
    """Eager attention, because the counter does not know every fused kernel."""
    result = lab(loaded, "why")
    assert all(finding.holds is not False for finding in result.findings)
    assert sum(finding.holds is True for finding in result.findings) == 3  # logits, uncached, generate()
    tokens = generate(loaded, [prompt_of(loaded, 12)], max_new_tokens=NEW).sequences[0].tolist()
    with plain(loaded, "eager") as model:
        for new in (0, 4, NEW - 1):
            position = 12 + new
            ids = torch.tensor([tokens[:position]])
            kept = {"logits_to_keep": 1} if loaded.info.image is None else {}
            with FlopCounterMode(display=False) as counter:
                model(input_ids=ids, use_cache=False, **kept)
            counted = counter.get_total_flops() / 1e9
            assert line(result, "Work of a token", "uncached")[position] == pytest.approx(counted, rel=0.02)
            if new:
                cache = DynamicCache()
                model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
                with FlopCounterMode(display=False) as counter:
                    model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
                counted = counter.get_total_flops() / 1e9
                assert line(result, "Work of a token", "cached")[position] == pytest.approx(counted, rel=0.02)
    for name in ("cached", "uncached", "generate()"):
        assert list(line(result, "Time of a token", name)) == [float(12 + n) for n in range(NEW)]


def test_the_cost_of_a_pass_is_that_of_its_parts(random_llama: LoadedModel) -> None:
    cost = pass_cost(random_llama)
    assert cost is not None
    assert cost.of(5, 20) == 5 * cost.body + cost.head + 100 * cost.pair


def test_the_prefix_is_compared_with_what_transformers_computes(loaded: LoadedModel) -> None:
    result = lab(loaded, "prefix")
    assert [finding.holds for finding in result.findings[:3]] == [True, True, True]
    assert not any(line(result, "Largest difference of K and V", "after the steps").values())
    whole = line(result, "Largest difference of K and V", "in one pass of the whole text")
    ids = generate(loaded, [prompt_of(loaded, 12)], max_new_tokens=NEW).sequences[0].tolist()
    first, later = DynamicCache(), DynamicCache()
    with plain(loaded) as model:
        model(input_ids=torch.tensor([ids[:12]]), past_key_values=first, use_cache=True)
        model(input_ids=torch.tensor([ids]), past_key_values=later, use_cache=True)
    for index, (one, other) in enumerate(zip(first.layers, later.layers, strict=True)):
        same = max(
            float((a[:, :, :12] - b[:, :, :12]).abs().max())
            for a, b in ((one.keys, other.keys), (one.values, other.values))
        )
        assert whole[index] == pytest.approx(same, abs=1e-4)


def test_kinds_are_measured_against_the_growing_cache(random_llama: LoadedModel) -> None:
    specs = (CacheSpec("sliding_window", window=6), CacheSpec("int8"), CacheSpec("off"), CacheSpec("static"))
    result = lab(random_llama, "kinds", kinds=specs)
    table = result.tables[0]
    rows = {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == ["growing", "sliding_window 6", "int8", "off", "static"]
    prompt = prompt_of(random_llama, 12)
    ids = run_session(random_llama, [prompt], {"max_new_tokens": NEW}).sequences[0]
    exact = torch.log_softmax(full_logits(random_llama, ids[:-1])[11:].double(), -1)
    for spec in specs:
        session = open_session(random_llama, [prompt], {"max_new_tokens": NEW}, cache=spec)
        told = []
        with torch.inference_mode(), session.attached():
            for start, stop in [(0, 12), *((n, n + 1) for n in range(12, 11 + NEW))]:
                told.append(session.forward(torch.tensor([ids[start:stop]]), session.cache, None)[0])
        report, row = cache_report(session.cache), rows[spec.words()]
        ours = torch.log_softmax(torch.stack(told).double(), -1)
        kl = ((exact.exp() * (exact - ours)).sum(-1) / torch.log(torch.tensor(2.0))).tolist()
        assert row["mean KL, bits"] == pytest.approx(sum(kl) / NEW, abs=1e-4)
        assert row["most KL, bits"] == pytest.approx(max(kl), abs=1e-4)
        differ = (ours.argmax(-1) != exact.argmax(-1)).tolist()
        assert row["first divergence"] == (differ.index(True) if any(differ) else None)
        assert (row["used, B"], row["allocated, B"]) == (report.used_bytes, report.allocated_bytes)


def test_all_kinds_that_a_model_can_use_are_compared_and_the_others_named(loaded: LoadedModel) -> None:
    result = lab(loaded, "kinds")
    kinds = [str(row[0]).split()[0] for row in result.tables[0].rows]
    left_out = [finding.text for finding in result.findings if finding.text.startswith("Left out.")]
    assert len(kinds) + len(left_out) == 10
    assert ("hybrid" in kinds) is (loaded.info.sliding_window is not None)
    assert ("static" in kinds) is (loaded.info.image is None)


def test_the_table_and_the_plot_of_growth_say_the_same_of_each_position(random_gpt2: LoadedModel) -> None:
    result = lab(random_gpt2, "growth")
    first, *steps = result.tables[0].rows
    assert (first[0], first[1]) == (12, None)  # the prompt is no step
    line = next(series for series in result.series if series.name == "step")
    assert list(zip(line.x, line.y, strict=True)) == [(row[0], row[1]) for row in steps]


@pytest.mark.parametrize("name", ["growth", "chunks"])
def test_more_positions_than_there_are_are_refused(random_gpt2: LoadedModel, name: str) -> None:
    most = random_gpt2.info.max_positions
    with pytest.raises(ParameterError, match="positions are more than the"):
        lab(random_gpt2, name, positions=most + 1)


def test_growth_goes_to_the_last_position_and_its_bytes_are_the_formula(random_gpt2: LoadedModel) -> None:
    result = lab(random_gpt2, "growth")
    assert result.findings[-1].holds
    used = line(result, "Bytes of the cache", "used")
    assert max(used) == random_gpt2.info.max_positions
    for length, megabytes in used.items():
        assert megabytes * 1e6 == pytest.approx(length * random_gpt2.info.kv_bytes_per_token)
    assert len(line(result, "Time of a step", "step")) == len(used)


def test_chunks_give_the_same_logits_and_shorter_pieces(random_llama: LoadedModel) -> None:
    result = lab(random_llama, "chunks", positions=50)
    table = result.tables[0]
    assert [row[0] for row in table.rows] == [8, 16, 32, 50]
    for _, total, longest, gap, difference in table.rows:
        assert total >= longest >= gap > 0  # type: ignore[operator]
        assert difference < 1e-3  # type: ignore[operator]
    read = list(csv.reader(io.StringIO(table.as_csv())))
    assert tuple(read[0]) == table.columns
    assert [float(cell) for cell in read[1]] == list(table.rows[0])


def test_an_experiment_that_is_cancelled_leaves_no_hook_and_no_setting(random_gpt2: LoadedModel) -> None:
    for name in ("why", "prefix", "kinds", "growth", "chunks"):
        for after in (3, 40):
            calls = {"left": after}

            def cancelled(calls: dict[str, int] = calls) -> bool:
                calls["left"] -= 1
                return calls["left"] < 0

            config = random_gpt2.module.generation_config
            experiment = Experiment(name, Prompt(ids=(5, 6, 7)), new_tokens=40)  # type: ignore[arg-type]
            bench, reports = begin(random_gpt2, experiment, cancelled)
            with pytest.raises(ForwardCancelled):
                list(reports)
            assert random_gpt2.module.generation_config is config
            assert not bench.result().complete


def test_what_does_not_fit_is_refused(random_gpt2: LoadedModel) -> None:
    for more, kind in (
        ({"new_tokens": 0}, ParameterError),
        ({"positions": 1}, ParameterError),
        ({"new_tokens": 60}, PromptError),
    ):
        with pytest.raises(kind, match=r"\.$"):
            lab(random_gpt2, "why", **more)
    with pytest.raises(PromptError):
        run(random_gpt2, Experiment("why", Prompt(ids=(5,) * 70)))


# -- the formula


def test_predictions_are_what_a_run_holds(loaded: LoadedModel) -> None:
    info = loaded.info
    shape = CacheShape.of(info)
    specs = [CacheSpec(kind) for kind in ("growing", "dynamic", "static", "hybrid", "fp8", "int8", "off")]
    specs += [CacheSpec("sliding_window", window=7), CacheSpec("sink", window=5, sinks=3)]
    specs += [CacheSpec("heavy_hitters", window=4, heavy=3)]
    for spec in specs:
        try:
            ours = run_session(loaded, [prompt_of(loaded, 12)], {"max_new_tokens": NEW}, cache=spec)
        except ParameterError:
            continue
        report = ours.steps[-1].cache
        told = predict(shape, spec, "fp32", 1, 12 + NEW - 1, info.layer_windows)
        assert (told.used_bytes, told.scale_bytes) == (report.used_bytes, report.scales_bytes), spec
        named = differences(shape, "fp32", report)
        assert plain_bytes(shape, "fp32", report) + sum(d.bytes for d in named) == report.used_bytes
        assert "not explained" not in [d.name for d in named]


def test_rows_beams_and_padding_are_explained(random_llama: LoadedModel) -> None:
    info = random_llama.info
    shape = CacheShape.of(info)
    rows = [prompt_of(random_llama, length) for length in (12, 5)]
    for params in ({"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}, {}):
        for spec in (CacheSpec(), CacheSpec("int8"), CacheSpec("sink", window=4, sinks=2)):
            ours = run_session(random_llama, rows, {"max_new_tokens": 4, **params}, cache=spec)
            for step in ours.steps:
                named = differences(shape, "fp32", step.cache)
                whole = plain_bytes(shape, "fp32", step.cache)
                assert whole + sum(d.bytes for d in named) == step.cache.used_bytes
                assert "not explained" not in [d.name for d in named]


def test_known_models_have_the_numbers_of_their_configurations() -> None:
    """As published with the weights; `dimensions` reads a config as it does for any loaded model."""
    configs = {
        "GPT-2 (124M)": GPT2Config(),
        "GPT-2 medium (355M)": GPT2Config(n_layer=24, n_embd=1024, n_head=16),
        "GPT-2 large (774M)": GPT2Config(n_layer=36, n_embd=1280, n_head=20),
        "GPT-2 XL (1.6B)": GPT2Config(n_layer=48, n_embd=1600, n_head=25),
        "Llama 2 7B": LlamaConfig(max_position_embeddings=4096),
        "Llama 2 70B": LlamaConfig(
            hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
            max_position_embeddings=4096,
        ),
        "Llama 3 8B": LlamaConfig(num_key_value_heads=8, max_position_embeddings=8192),
        "Llama 3.2 1B": LlamaConfig(
            hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
            max_position_embeddings=131_072,
        ),
        "Qwen2 0.5B": Qwen2Config(
            hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        ),
        "Qwen2 1.5B": Qwen2Config(
            hidden_size=1536, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
        ),
        "Qwen2 7B": Qwen2Config(
            hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        ),
        "Qwen2 72B": Qwen2Config(
            hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        ),
    }  # fmt: skip
    assert [shape.title for shape in KNOWN_SHAPES] == list(configs)
    for shape in KNOWN_SHAPES:
        size = dimensions(configs[shape.title])
        found = (size.layers, size.heads, size.kv_heads, size.head_dim, size.max_positions)
        assert found == (shape.layers, shape.heads, shape.kv_heads, shape.head_dim, shape.max_positions), shape.title
        told = predict(shape, CacheSpec(), "bf16", 3, 100)
        assert told.used_bytes == 300 * size.kv_bytes_per_token(torch.bfloat16)
        if shape.plain_width is not None:
            assert told.used_bytes == 2 * 3 * 100 * shape.layers * size.hidden_size * 2
