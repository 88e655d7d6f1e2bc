"""The kind of cache from `core` and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import core
from core.cli import main
from core.contract import CacheSpec, ParameterError

HERE = {"device": "cpu", "dtype": "fp32"}
WANTED = {"params": {"max_new_tokens": 3, "do_sample": False}, **HERE}


def test_run_stream_and_plan_take_the_kind_of_cache() -> None:
    spec = CacheSpec("sink", window=3, sinks=2)
    result = core.run("tiny-gpt2", "Once upon a time", cache="sink,window=3,sinks=2", **WANTED)
    assert [step.cache.kind for step in result.steps] == ["sink"] * 3
    assert result.steps[-1].cache.held == 5
    streamed = list(core.stream("tiny-gpt2", "Once upon a time", cache=spec, **WANTED))
    assert [step.token_id for step in streamed] == [step.token_id for step in result.steps]
    assert streamed[-1].cache.kind == "sink"
    assert core.plan("tiny-gpt2", "Once upon a time", cache=spec, **WANTED) == result.started.plan
    with pytest.raises(ParameterError, match="no cache of the kind"):
        core.run("tiny-gpt2", "Once", cache="tree", **WANTED)


@pytest.mark.parametrize("words", ["sink,sinks=100000", "heavy_hitters,heavy=100000"])
def test_more_positions_than_the_model_has_are_refused(words: str) -> None:
    with pytest.raises(ParameterError, match=r"=100000 is more than the [\d,]+ positions"):
        core.run("tiny-gpt2", "Once", cache=words, **WANTED)


def test_predict_says_no_more_than_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "predict", "--model", "list", "--json"]) == 0
    assert "GPT-2 XL (1.6B)" in json.loads(capsys.readouterr().out)
    words = ["cache", "predict", "--model", "GPT-2 XL (1.6B)", "--cache"]
    assert main([*words, "sliding_window,window=16"]) == 0
    assert "scales" not in capsys.readouterr().out
    assert main([*words, "int8"]) == 0
    assert "B of it scales" in capsys.readouterr().out
    assert main([*words, "growing", "--positions", "5000"]) != 0
    assert "has 1,024 positions" in capsys.readouterr().err
    assert main([*words, f"sink,window={'9' * 5000}"]) != 0
    assert "is no setting of a cache" in capsys.readouterr().err
    for spec, why in (
        ("sink,window=100000000", "larger than the 1,024"),
        ("hybrid", "nothing to keep by layer type"),
        ("growing,window=5", "window is no setting of the kind growing, which takes no settings"),
        ("sink,window=4,window=5", "window is given twice"),
        ("sliding_window,relative", "relative is no setting of the kind sliding_window, which takes window"),
        ("sink,relative=3", "“relative=3” is no setting"),
    ):
        assert main([*words, spec]) != 0
        assert why in capsys.readouterr().err, spec
    wide = "new:llama?head_dim=64&num_attention_heads=4&num_key_value_heads=4"
    assert main(["cache", "predict", "--model", wide]) == 0
    assert "d_model" not in capsys.readouterr().out  # all heads are not as wide as it


def test_a_table_that_cannot_be_written_is_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["cache", "chunks", "--model", "tiny-gpt2", "--positions", "20", "--chunk-sizes"]
    assert main([*words, "7,x"]) != 0
    assert "“7,x” is not a list of chunk sizes" in capsys.readouterr().err
    assert main([*words, "7", "--csv", str(tmp_path / "none" / "x.csv")]) != 0
    said = capsys.readouterr()
    assert "x.csv” cannot be written" in said.err
    assert said.out == ""
    assert main([*words, "7", "--csv", str(tmp_path / "x.csv"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tables"][0]["rows"]
    assert [row[0] for row in rows] == [7, 20]
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3
