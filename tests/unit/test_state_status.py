"""What the status bar and the plan say, from the state alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.state import intents as i
from app.state import select, texts
from app.state.plan import default_source, plan, problem
from app.state.state import AppState
from app.state.status import NOTHING, state_text, status
from app.state.update import update
from core.contract import (
    BranchMemory,
    CacheSpec,
    ChatMessage,
    ErrorReport,
    Planned,
    RunFinished,
    StateChanged,
    WorkerState,
)
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


def test_plan_is_that_of_the_run_while_it_lasts_then_that_of_the_next_one() -> None:
    machine = Machine()
    assert plan(AppState()) is None
    machine.do(i.TokenizeDraft())
    machine.drain()
    first = plan(machine.state)
    assert first is not None
    assert first.length.max_new_tokens == 200
    machine.do(i.Run())
    machine.drain(2)
    run = machine.state.run
    assert run is not None
    assert plan(machine.state) is run.started.plan
    machine.do(i.SetParameter("max_new_tokens", 2000))
    machine.drain()
    assert plan(machine.state) is run.started.plan
    machine.do(i.Stop())
    machine.drain()
    after = plan(machine.state)
    assert after is not None
    assert after.length.max_new_tokens == 2000


def test_a_late_plan_changes_nothing_and_a_mistake_keeps_the_last_one() -> None:
    machine = Machine()
    machine.do(i.TokenizeDraft())
    machine.drain()
    shown, generation = machine.state.plan, machine.state.plan_generation
    state = update(machine.state, Planned(generation - 1, None, ErrorReport("parameter", "Too late.")))
    assert state is machine.state
    state = update(state, Planned(generation, None, ErrorReport("parameter", "They contradict each other.")))
    assert (state.plan, problem(state)) == (shown, "They contradict each other.")
    assert problem(update(state, Planned(generation, shown))) == ""


def test_defaults_name_their_source() -> None:
    info = model_info(chat=False)
    assert default_source(info, "temperature", 0.8) == "Default: 0.8, from the generation_config of tiny-gpt2."
    assert default_source(info, "top_p", 1.0) == "Default: 1, from the library."
    assert default_source(info, "eos_token_id", (0, 2)).startswith("Default: 0, 2, from")
    assert default_source(None, "stop_strings", ()) == "Default: none, from the library."
    assert default_source(None, "do_sample", True) == "Default: sampling, the choice of this window."
    asks = replace(
        info,
        defaults=info.defaults.replace({"do_sample": True}),
        from_generation_config=info.from_generation_config | {"do_sample"},
    )
    assert default_source(asks, "do_sample", True) == "Default: on, from the generation_config of tiny-gpt2."


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


def test_a_branch_that_has_said_nothing_yet_says_what_it_holds() -> None:
    machine = Machine()
    machine.do(i.Run())
    machine.drain(3)
    state = update(machine.state, StateChanged(WorkerState.PAUSED))
    key = state.run.branch
    branch = replace(state.run, count=0, branch_id=1, prefill=None)
    memory = {(key[0], 1): BranchMemory(1, 8, 0, 0, True)}
    state = replace(state, run=branch, branches=replace(state.branches, memory=memory, reuse=(8, 1)))
    said = status(state)
    assert (said.context, said.cache) == ("8 / 512", "shared")
    assert (said.aside, said.aside_brief) == ("re-used 8 positions, recomputed 1", "re-used 8, fed 1")
    assert "F10" in select.next_step(state, "")
    assert select.next_step(AppState(), "Press Ctrl+Enter.") == "Press Ctrl+Enter."


def test_a_chat_turn_on_heavy_hitters_says_that_it_begins_anew() -> None:
    machine = Machine()
    machine.do(i.Run())
    machine.drain(3)
    plan = machine.state.run.plan
    heavy = replace(plan, cache=replace(plan.cache, spec=CacheSpec("heavy_hitters")))
    run = replace(machine.state.run, started=replace(machine.state.run.started, plan=heavy))
    asked = (ChatMessage("user", "Hello"), ChatMessage("assistant", "Yes"), ChatMessage("user", "And now?"))
    for turns, said in ((asked[:1], ""), (asked, "heavy hitters begin anew")):
        draft = replace(machine.state.draft, tab="chat", turns=turns)
        assert status(replace(machine.state, run=run, draft=draft)).aside == said
    growing = replace(machine.state, draft=replace(machine.state.draft, tab="chat", turns=asked))
    assert status(growing).aside == ""
