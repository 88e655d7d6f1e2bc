"""Changes that a run cannot make: they stay where they are and act at the next run."""

from __future__ import annotations

import pytest

from app.state import intents as i
from app.state import modes, select
from core.contract import ErrorReport, SetParams, StartRun
from tests.unit.test_state_update import Machine


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_change_that_the_run_cannot_make_waits_for_the_next_one(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(2)
    why = "The mode cannot change while a run is in progress; it acts at the next run."
    machine.lab.refuse = {SetParams: ErrorReport("next_run", why)}
    machine.do(i.ChooseMode("contrastive"))
    machine.drain()
    mode = {"penalty_alpha": 0.6, "top_k": 4, "do_sample": False}
    assert machine.last(SetParams) == SetParams(mode, 1)
    assert machine.state.pending == {}
    assert machine.state.waiting == dict.fromkeys(mode, why)
    assert (machine.state.notices[-1].kind, machine.state.notices[-1].text) == ("info", why)
    assert modes.current(machine.state).key == "contrastive"

    machine.do(i.SetParameter("top_k", 6))  # goes with the others, which the run has not been told
    machine.drain()
    assert machine.last(SetParams) == SetParams({**mode, "top_k": 6}, 2)
    assert machine.state.waiting.keys() == mode.keys()

    machine.lab.refuse = {}
    machine.do(i.SetParameter("repetition_penalty", 1.1))  # has nothing to do with them
    assert machine.last(SetParams) == SetParams({"repetition_penalty": 1.1}, 3)
    machine.drain()
    assert machine.state.waiting.keys() == mode.keys()

    machine.do(i.Stop())
    machine.drain()
    assert machine.state.waiting == {}
    machine.do(i.Run())
    started = machine.last(StartRun)
    assert isinstance(started, StartRun)
    assert started.spec.params == {**mode, "top_k": 6, "repetition_penalty": 1.1}


def test_what_waits_can_be_taken_back_without_a_word_to_the_run(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(2)
    machine.lab.refuse = {SetParams: ErrorReport("next_run", "It acts at the next run.")}
    machine.do(i.SetParameter("num_beams", 4))
    machine.drain()
    assert select.params(machine.state).num_beams == 4
    told = machine.last(SetParams)
    machine.do(i.Undo())
    assert machine.last(SetParams) is told
    assert machine.state.waiting == machine.state.pending == {}
    assert select.params(machine.state).num_beams == 1
