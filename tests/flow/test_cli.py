"""The command line: text and JSON on standard output, one line on standard error when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from core import api, cli, cli_run
from core.contract import RunSpec, StepSnapshot
from core.models.loaded import LoadedModel
from tests.parity.reference import generate

ROOT = Path(__file__).parents[2]
HERE = ["--device", "cpu", "--dtype", "fp32"]
PROMPT = "Once upon a time there was"
Capture = pytest.CaptureFixture[str]


def run(*arguments: str, capsys: Capture) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(arguments))
    return (status, *capsys.readouterr())


def generated(*arguments: str, capsys: Capture, model: str = "tiny-gpt2") -> tuple[int, str, str]:
    return run("generate", "--model", model, *HERE, *arguments, capsys=capsys)


def lines(*arguments: str, capsys: Capture, **kwargs: Any) -> list[dict[str, Any]]:
    status, out, err = generated("--json", *arguments, capsys=capsys, **kwargs)
    assert (status, err) == (0, "")
    return [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]


def spawn(*arguments: str, **kwargs: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "core", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, **{**pipes, **kwargs})


def test_text_goes_to_standard_output_and_nothing_else(tiny_gpt2: LoadedModel, capsys: Capture) -> None:
    rows = [tiny_gpt2.text.encode(PROMPT)]
    new = generate(tiny_gpt2, rows, max_new_tokens=12).sequences[0, len(rows[0]) :].tolist()
    status, out, err = generated(
        "--prompt", PROMPT, "--mode", "greedy_search", "--set", "max_new_tokens=12", "eos_token_id=[]", capsys=capsys
    )
    assert (status, err) == (0, "")
    assert out == tiny_gpt2.text.decode(new, skip_special_tokens=True) + "\n"


def test_what_is_held_back_of_a_character_is_printed_where_the_run_stops(capsys: Capture) -> None:
    held = []
    for seed in (1, 3, 6):
        hot = ("--set", "do_sample=true", "temperature=2", "top_k=0", "--seed", str(seed), "--break-when", "every=3")
        status, out, err = generated("--prompt", PROMPT, *hot, model="new:gpt2", capsys=capsys)
        params = {"do_sample": True, "temperature": 2.0, "top_k": 0}
        result = api.run(
            "new:gpt2", PROMPT, params=params, seed=seed, breakpoints=["every=3"], device="cpu", dtype="fp32"
        )
        assert (status, out, err) == (0, result.text + "\n", "")
        held.append(result.text.removeprefix("".join(step.text for step in result.steps)))
    assert [bool(rest) for rest in held] == [False, True, True]


def test_json_is_one_object_a_token_and_one_for_the_run(tiny_gpt2: LoadedModel, capsys: Capture) -> None:
    *tokens, last = lines(
        "--prompt", PROMPT, "--seed", "7", "--set", "max_new_tokens=6", "--set", "top_k=12", "top_p=0.9", capsys=capsys
    )
    result = api.run(
        "tiny-gpt2", PROMPT, params={"max_new_tokens": 6, "top_k": 12, "top_p": 0.9}, seed=7, device="cpu", dtype="fp32"
    )
    assert [t["token_id"] for t in tokens] == [step.token_id for step in result.steps]
    assert [t["index"] for t in tokens] == list(range(6))
    for token, step in zip(tokens, result.steps, strict=True):
        assert set(token) == set(step.to_json())
        assert token["logprob"] == pytest.approx(step.logprob, abs=1e-4)
        assert token["u"] == step.u
        assert len(token["top_logprobs"]) in (50, 51)
        assert any(candidate["final_logprob"] is None for candidate in token["top_logprobs"])
        assert len(token["kv_used_bytes"]) == len(token["kv_allocated_bytes"]) == tiny_gpt2.info.layers
        assert bytes(token["bytes"]) == step.token_bytes
        assert token["step_ms"] > 0
    assert list(last) == ["finish_reason", "text", "sequences", "prompt_tokens", "ttft_ms", "tokens_per_s"]
    assert last["sequences"] == result.sequences
    assert last["text"] == result.text
    assert last["finish_reason"] == "length"
    assert last["prompt_tokens"] == len(result.sequences[0]) - 6
    assert last["ttft_ms"] > 0
    assert last["tokens_per_s"] > 0


def test_ids_equal_their_text(tiny_gpt2: LoadedModel, capsys: Capture) -> None:
    ids = ",".join(map(str, tiny_gpt2.text.encode(PROMPT)))
    by_text = lines("--prompt", PROMPT, "--set", "max_new_tokens=3", capsys=capsys)
    by_ids = lines("--prompt-ids", ids, "--set", "max_new_tokens=3", capsys=capsys)
    assert by_text[-1]["sequences"] == by_ids[-1]["sequences"]


def test_greedy_search_draws_nothing_and_kills_nothing(capsys: Capture) -> None:
    *tokens, _ = lines("--prompt", PROMPT, "--mode", "greedy_search", "--set", "max_new_tokens=3", capsys=capsys)
    assert [token["u"] for token in tokens] == [None] * 3
    assert [token["rank"] for token in tokens] == [0] * 3
    for token in tokens:
        assert all(c["final_logprob"] == c["logprob"] for c in token["top_logprobs"])


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ((), "sample"),  # generation_config.json of tiny-gpt2 says so
        (("--set", "do_sample=false"), "greedy_search"),
        (("--set", "temperature=0"), "greedy_search"),
        (("--mode", "greedy_search"), "greedy_search"),
        (("--set", "do_sample=false", "--mode", "sample"), "sample"),
    ],
)
def test_the_mode_is_inferred_as_generate_does(arguments: tuple[str, ...], mode: str, capsys: Capture) -> None:
    token = lines("--prompt", PROMPT, "--set", "max_new_tokens=1", *arguments, capsys=capsys)[0]
    assert (token["u"] is not None) == (mode == "sample")


def test_several_sequences_come_whole(capsys: Capture) -> None:
    arguments = ("--prompt", PROMPT, "--set", "max_new_tokens=4", "num_return_sequences=3", "eos_token_id=[]")
    *tokens, last = lines(*arguments, capsys=capsys)
    assert sorted({token["row"] for token in tokens}) == [0, 1, 2]
    assert len(last["sequences"]) == len(last["texts"]) == len(last["finish_reasons"]) == 3
    _, out, _ = generated(*arguments, capsys=capsys)
    assert out == "\n\n".join(last["texts"]) + "\n"


def test_settings_are_json_where_they_can_be(capsys: Capture) -> None:
    assert cli_run.parse_settings(["top_k=5", "stop_strings=END", 'stop_strings=["a","b"]', "eos_token_id=null"]) == {
        "top_k": 5,
        "stop_strings": ("a", "b"),
        "eos_token_id": (),
    }
    assert cli_run.parse_settings(["stop_strings=a=b"]) == {"stop_strings": ("a=b",)}
    assert cli_run.parse_settings(["do_sample=true", "temperature=0.5"]) == {"do_sample": True, "temperature": 0.5}


def test_a_chat_template_is_applied(tmp_path: Path, capsys: Capture) -> None:
    from tests.models import CHAT_TEMPLATE, build_llama, build_tokenizer

    folder = build_llama(tmp_path / "chat")
    build_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    last = lines("--prompt", "Hello", "--chat", "--set", "max_new_tokens=1", model=str(folder), capsys=capsys)[-1]
    loaded = api.load_model(folder, "cpu", "fp32")
    rendered = loaded.text.decode(last["sequences"][0][: last["prompt_tokens"]])
    assert rendered == "<|user|>Hello\n<|assistant|>"
    api.unload(folder)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--model", "tiny-gpt2"], "--prompt"),
        (["generate", "--prompt", "x"], "--model"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--prompt-ids", "1"], "not allowed with"),
        (["generate", "--model", "tiny-gpt2", "--prompt-ids", "1,x"], "“1,x”"),
        (["generate", "--model", "tiny-gpt2", "--prompt-ids", "1", "--chat"], "--chat needs a text"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--set", "top_k"], "key=value"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--force-words", "|"], "“|” has no phrase; write one"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--set", "max_tokens=3"], "“max_new_tokens”"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--set", "temperature=-1"], "at least 0"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--set", "temperature=1e-9"], "0 for greedy"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--set", "temperature=NaN"], "finite number"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--mode", "beam_search"], "num_beams above 1"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--chat"], "no chat template"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--seed", "a"], "seed"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--dtype", "int3"], "“int3”"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "x", "--device", "tpu"], "“tpu”"),
        (["generate", "--model", "tiny-gpt2", "--prompt", "dog " * 600], "512"),
        (["generate", "--model", "tiny-gpt2", "--prompt-ids", "4096"], "4096"),
        (["generate", "--model", "tiny_gpt2", "--prompt", "x"], "“tiny-gpt2”"),
        (["generate", "--model", "no/such/folder", "--prompt", "x"], "no/such/folder"),
        (["generate", "--model", str(ROOT / "core"), "--prompt", "x"], "core"),
        (["paint"], "'paint'"),
        ([], "COMMAND"),
        (["models", "--verbose"], "--verbose"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else value,
)
def test_rude_input_is_one_line_on_standard_error_and_exit_2(
    arguments: list[str], says: str, tiny_gpt2: LoadedModel, capsys: Capture
) -> None:
    given = [*arguments, *HERE] if arguments[:1] == ["generate"] and "--dtype" not in arguments else arguments
    if "--device" in arguments:
        given = arguments
    status, out, err = run(*given, capsys=capsys)
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert err.endswith(".\n")
    assert "Traceback" not in err


def test_an_unforeseen_failure_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(api, "load_model", lambda *_: 1 / 0)
    status, _, err = generated("--prompt", "x", capsys=capsys)
    assert (status, err) == (2, "Something unforeseen failed: ZeroDivisionError: division by zero.\n")


def test_help_is_help(capsys: Capture) -> None:
    status, out, err = run("generate", "--help", capsys=capsys)
    assert (status, err) == (0, "")
    for option in ("--model", "--prompt", "--prompt-ids", "--chat", "--mode", "--set", "--seed", "--device", "--json"):
        assert option in out


def test_models_are_listed(capsys: Capture) -> None:
    status, out, err = run("models", capsys=capsys)
    assert (status, err) == (0, "")
    assert {"smollm2", "tiny-gpt2"} <= {line.split()[0] for line in out.splitlines()}
    _, out, _ = run("models", "--json", capsys=capsys)
    models = {model["name"]: model for model in map(json.loads, out.splitlines())}
    assert models["tiny-gpt2"]["available"]
    assert set(models["smollm2"]) == {"name", "title", "description", "available", "reason"}


def test_a_run_that_fails_half_way_prints_what_it_said(tiny_gpt2: LoadedModel, capsys: Capture) -> None:
    table = api.load_model("tiny-gpt2", "cpu", "fp32").module.transformer.wpe.weight
    saved = table[10].clone()
    arguments = ("--prompt", PROMPT, "--mode", "greedy_search", "--set", "eos_token_id=[]", "max_new_tokens=30")
    try:
        table[10] = float("nan")
        status, out, err = generated(*arguments, capsys=capsys)
    finally:
        table[10] = saved
    _, whole, _ = generated(*arguments, capsys=capsys)
    assert status == 2
    assert out.rstrip("\n")
    assert whole.startswith(out.rstrip("\n"))
    assert "not finite at token" in err
    assert err.count("\n") == 1


def test_in_a_worker_thread_it_works_without_signal_handlers(tiny_gpt2: LoadedModel, capsys: Capture) -> None:
    statuses: list[int] = []
    arguments = ["generate", "--model", "tiny-gpt2", *HERE, "--prompt", "x", "--set", "max_new_tokens=2"]
    thread = threading.Thread(target=lambda: statuses.append(cli.main(arguments)))
    thread.start()
    thread.join()
    assert statuses == [0]


def test_the_first_ctrl_c_ends_the_run_cleanly(
    tiny_gpt2: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """In this process: the interrupt arrives with the third token."""
    before = signal.getsignal(signal.SIGINT)
    original = StepSnapshot.to_json

    def to_json(step: StepSnapshot) -> dict[str, Any]:
        if step.id.index == 2:
            signal.raise_signal(signal.SIGINT)
        return original(step)

    monkeypatch.setattr(StepSnapshot, "to_json", to_json)
    status, out, err = generated("--json", "--prompt", PROMPT, "--set", "max_new_tokens=400", capsys=capsys)
    *tokens, last = map(json.loads, out.splitlines())
    assert (status, err) == (130, "")
    assert len(tokens) == 3
    assert last["finish_reason"] == "cancelled"
    assert last["sequences"][0][-3:] == [token["token_id"] for token in tokens]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_a_real_process_exits_130_with_what_there_is() -> None:
    arguments = ["--prompt", PROMPT, "--json", "--set", "max_new_tokens=490", "eos_token_id=[]"]
    with spawn("generate", "--model", "tiny-gpt2", *HERE, *arguments) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    last = json.loads(out.splitlines()[-1])
    assert first["index"] == 0
    assert process.returncode == 130
    assert last["finish_reason"] == "cancelled"
    assert err == ""


def test_ctrl_c_while_the_model_loads_exits_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from tests.models import build_gpt2

    monkeypatch.setattr(cli._Control, "progress", lambda *_: signal.raise_signal(signal.SIGINT))
    folder = build_gpt2(tmp_path / "own")
    status, out, err = generated("--prompt", "x", model=str(folder), capsys=capsys)
    assert (status, out, err) == (130, "", "The load was cancelled.\n")
    assert not [key for key in api._loaded if key[0] == str(folder)]


def test_a_reader_that_leaves_ends_the_run_quietly() -> None:
    arguments = ["--prompt", PROMPT, "--json", "--set", "max_new_tokens=490", "eos_token_id=[]"]
    with spawn("generate", "--model", "tiny-gpt2", *HERE, *arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == 141
    assert err == ""


def test_an_encoding_that_cannot_show_everything_is_no_error() -> None:
    arguments = ["--prompt", "“", "--mode", "greedy_search", "--set", "max_new_tokens=20", "eos_token_id=[]"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    with spawn("generate", "--model", "tiny-gpt2", *HERE, *arguments, env=environment) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.isascii()


def test_nothing_is_drawn_on_a_terminal_that_is_none(capsys: Capture) -> None:
    cli._status("Loading weights 10%")
    assert capsys.readouterr().err == ""


def test_a_spec_of_the_command_line_records_only_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    specs: list[RunSpec] = []
    original = api.open_session

    def open_session(loaded: LoadedModel, spec: RunSpec, *rest: Any) -> Any:
        specs.append(spec)
        return original(loaded, spec, *rest)

    monkeypatch.setattr(api, "open_session", open_session)
    for extra in ([], ["--json"]):
        generated("--prompt", "x", "--set", "max_new_tokens=1", *extra, capsys=capsys)
    assert [(spec.trace, spec.top_logprobs) for spec in specs] == [(False, 0), (False, 50)]


def test_interventions_and_breakpoints_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    run = ("generate", "--model", "tiny-gpt2", "--prompt", "Once upon a time", "--set", "do_sample=false", "--json")
    acts = ("--intervene", "heads 0.0,1,2,3", "--intervene", "skip 1.mlp", "--break-when", "every=6")
    assert cli.main([*run, *acts, "--break-when", "attention 0.0@0>0.001"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    last = lines[-1]
    assert last["finish_reason"] == "breakpoint"
    assert last["interventions"] == ["heads 0.0,1,2,3 * 0", "skip 1.mlp"]
    conditions = {hit["condition"] for hit in last["breakpoints"]}
    assert conditions <= {"every=6", "attention 0.0@0>0.001"}
    assert len(lines) - 1 == last["breakpoints"][0]["index"] + 1
    assert cli.main([*run, "--set", "max_new_tokens=4"]) == 0
    untouched = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "interventions" not in untouched
    assert untouched["text"] != last["text"][: len(untouched["text"])]


def test_the_plan_names_the_interventions(capsys: pytest.CaptureFixture[str]) -> None:
    run = ("plan", "--model", "tiny-gpt2", "--prompt", "Once", "--intervene", "heads 1.2 * 0.5")
    assert cli.main(run) == 0
    assert "head 1.2 × 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--intervene", "mute everything"), "is no intervention; write one such as"),
        (("--intervene", "heads 99.0"), "There is no layer 99"),
        pytest.param(("--set", "temperature=" + "9" * 5000), "temperature cannot be", id="digits"),
        pytest.param(("--set", "eos_token_id=" + "[" * 50_000), "eos_token_id cannot be", id="brackets"),
        (("--break-when", "entropy"), "is no breakpoint; write one such as"),
        (("--break-when", "text~(a"), "cannot be used"),
    ],
)
def test_wrong_interventions_and_breakpoints_cost_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], words: str
) -> None:
    assert cli.main(["generate", "--model", "tiny-gpt2", "--prompt", "Once", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
