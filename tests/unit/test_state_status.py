"""What the status bar and the plan say, from the state alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.state import intents as i
from app.state import texts
from app.state.plan import default_source, expected, plan
from app.state.state import AppState
from app.state.status import NOTHING, state_text, status
from app.state.update import update
from core.contract import ErrorReport, RunFinished, StateChanged, WorkerState
from tests.ui.fake_lab import model_info
from tests.unit.test_state_update import Machine


def test_before_anything_numbers_are_dashes() -> None:
    said = status(AppState())
    assert said.state == "Starting"
    assert {said.first_token, said.speed, said.context, said.cache, said.probes} == {NOTHING}


def test_numbers_follow_the_run() -> None:
    machine = Machine()
    machine.do(i.Run())
    machine.drain(10)
    said = status(machine.state)
    assert said.state == "Running"
    assert (
        said.first_token == "43.6 ms"
    )  # 42 ms of prefill, then the step's pipeline and probes; its forward was the prefill
    assert said.speed == "49.8"  # 20.1 ms a token
    assert said.context == f"{9 + 9} / 512"
    assert said.cache.endswith("kB")
    assert said.probes == "2.1 %"
    machine.do(i.Stop())
    machine.drain()
    said = status(machine.state)
    assert (said.first_token, said.speed) == ("212 ms", "41.3")
    assert said.state == "Stopped"


@pytest.mark.parametrize(
    ("reason", "says"),
    [("stop", "Finished · end of text"), ("length_limit", "Finished · model is full"), ("new one", "Finished")],
)
def test_the_end_of_a_run_has_a_reason(reason: str, says: str) -> None:
    machine = Machine()
    machine.do(i.Run())
    machine.drain(2)
    finish = RunFinished(1, reason, (reason,), ("",), ((),), (9,), 2, None, None)
    state = update(update(machine.state, finish), StateChanged(WorkerState.READY))
    assert state_text(state) == says
    failed = replace(finish, error=ErrorReport("non_finite_logits", "NaN at token 3."))
    state = update(update(machine.state, failed), StateChanged(WorkerState.READY))
    assert state_text(state) == "Failed"
    assert state.notices[-1].text == "NaN at token 3."


def test_plan_says_when_the_model_s_positions_end_a_run() -> None:
    machine = Machine()
    machine.do(i.TokenizeDraft())
    machine.drain()
    machine.do(i.SetParameter("max_new_tokens", 2000))
    lines = {line.name: line for line in expected(machine.state)}
    assert (lines["length"].value, lines["length"].reason) == ("513", "all 512 positions")
    assert lines["mode"].reason == "model"
    machine.do(i.SetParameter("temperature", 0))
    lines = {line.name: line for line in expected(machine.state)}
    assert (lines["mode"].value, lines["mode"].reason) == ("greedy_search", "temperature is 0")
    assert (lines["draws"].value, lines["draws"].reason) == ("none", "greedy")


def test_plan_of_a_finished_run_holds_until_something_changes() -> None:
    machine = Machine()
    machine.do(i.TokenizeDraft())
    machine.do(i.Run())
    machine.drain(2)
    own = machine.state.run.started.plan  # type: ignore[union-attr]
    machine.do(i.Stop())
    machine.drain()
    assert plan(machine.state) is own
    machine.do(i.SetSeed(99))
    assert plan(machine.state) == expected(machine.state)
    assert plan(AppState()) == ()


def test_defaults_name_their_source() -> None:
    info = model_info(chat=False)
    assert default_source(info, "temperature", 0.8) == "Default: 0.8, from the generation_config of tiny-gpt2."
    assert default_source(info, "top_p", 1.0) == "Default: 1, from the library."
    assert default_source(info, "eos_token_id", (0, 2)).startswith("Default: 0, 2, from")
    assert default_source(None, "stop_strings", ()) == "Default: none, from the library."


def test_sentences_go_through_the_translator() -> None:
    texts.set_translator(str.upper)
    try:
        assert state_text(AppState()) == "STARTING"
        machine = Machine()
        machine.do(i.SetParameter("do_sample", False))
        machine.do(i.SetParameter("top_k", 3))
        assert machine.state.notices[-1].text == "SWITCHED TO SAMPLING, BECAUSE top_k HAS NO EFFECT IN GREEDY MODE."
    finally:
        texts.set_translator(str)
