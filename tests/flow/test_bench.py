"""The benchmark measures what it says; how fast anything is, no test asks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core import bench, cli
from core.bench_modes import CASES
from core.bench_pipeline import STAGES
from core.bench_steps import engine_s, generate_s
from core.models.loaded import LoadedModel
from tests.leaks import assert_no_hooks
from tests.parity.reference import twin

WINDOW = {"window_visible_ms": 1.0, "flow_ms": {"10,000 tokens": {"append": 0.25, "scroll": 12.345}}}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    said: list[str | None] = []
    measured = bench.measure(["tiny-gpt2"], quick=True, say=said.append, window=lambda: dict(WINDOW))
    assert any("round 1" in (line or "") for line in said)
    return measured


def test_every_variant_is_measured_at_both_contexts(report: dict[str, Any]) -> None:
    assert [(result["model"], result["context"]) for result in report["decode"]] == [
        ("tiny-gpt2", 16),
        ("tiny-gpt2", 500),
    ]
    for result in report["decode"]:
        assert set(result["tokens_per_s"]) == set(result["times_a"]) == set(report["variants"]) == set("abcd")
        assert all(value > 0 for value in result["tokens_per_s"].values())
        assert result["times_a"]["a"] == 1.0
        assert result["context"] + result["new_tokens"] <= 513  # all but the last token are fed


def test_the_report_is_plain_data_and_a_table(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    table = bench.as_table(report)
    assert sum(line.startswith("tiny-gpt2") for line in table.splitlines()) == 8 + len(CASES) + 2
    assert "append at 4,096 positions" in table
    assert "window_visible_ms: 1\n" in table
    lines = [line.split() for line in table.splitlines()]
    assert ["flow_ms", "append", "scroll"] in lines
    assert ["10,000", "tokens", "0.25", "12.3"] in lines
    assert "logits of tiny-gpt2 in" in table


def test_every_stage_of_the_pipeline_is_measured(report: dict[str, Any]) -> None:
    costs = report["pipeline"]["tiny-gpt2"]
    cost = costs["fp32"]
    assert set(cost["stages"]) == set(STAGES)
    assert all(stage["ms"] > 0 for stage in cost["stages"].values())
    assert {"calls", "full_sorts"} <= set(cost["stages"]["top_p"])
    assert all(ms > 0 for ms in cost["waterfall_ms"].values())


def test_branches_are_measured_against_feeding_again(report: dict[str, Any]) -> None:
    assert [result["positions"] for result in report["branches"]] == [100, 500]
    for result in report["branches"]:
        assert result["times"] == pytest.approx(result["prefill_ms"] / result["fork_ms"])
        assert result["steps"] == pytest.approx(result["fork_ms"] / result["step_ms"])


def test_every_mode_is_measured_and_compared_where_generate_has_it(report: dict[str, Any]) -> None:
    assert [result["mode"] for result in report["modes"]] == [case.name for case in CASES]
    for result, case in zip(report["modes"], CASES, strict=True):
        assert result["tokens_per_s"] > 0
        assert (result["times_generate"] is None) == (case.target is None)


def test_the_model_is_left_as_it_was(random_gpt2: LoadedModel) -> None:
    model = twin(random_gpt2)
    config, attention = model.module.generation_config, model.module.config._attn_implementation
    taken_s = [generate_s(model, (1, 2, 3), 4, {}, kind, everything) for kind, everything in
               (("sdpa", False), ("eager", True))]  # fmt: skip
    taken_s.append(engine_s(model, (1, 2, 3), 4, {}))
    assert all(seconds > 0 for seconds in taken_s)
    assert model.module.generation_config is config
    assert model.module.config._attn_implementation == attention
    assert_no_hooks(model.module)


def test_the_command_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, ...]] = []

    def measure(models: list[str], **options: Any) -> dict[str, Any]:
        calls.append((models, options["quick"], options["window"]))
        return {"decode": [], "nothing": float("nan")}

    monkeypatch.setattr(bench, "measure", measure)
    window = dict
    assert cli.main(["bench", "--json", "--quick"], window) == 0
    assert cli.main(["bench", "--json", "--model", "tiny-gpt2"]) == 0
    assert calls == [(["tiny-gpt2", "smollm2"], True, window), (["tiny-gpt2"], False, None)]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"decode": [], "nothing": None}] * 2
