"""The turns of a chat: an answer finds its question, whatever is done while it is awaited."""

from __future__ import annotations

import pytest

from app.state import intents as i
from tests.unit.test_state_update import Machine


@pytest.fixture
def machine() -> Machine:
    return Machine()


def asked(machine: Machine, message: str) -> None:
    """A message is sent and the answer begun."""
    machine.do(i.SelectTab("chat"))
    machine.do(i.EditMessage(message))
    machine.do(i.SetParameter("max_new_tokens", 4))
    machine.do(i.Run())
    machine.drain(2)
    assert machine.state.run is not None
    assert machine.state.run.finish is None


def roles(machine: Machine) -> list[str]:
    return [turn.role if turn.content else f"empty {turn.role}" for turn in machine.state.draft.turns]


@pytest.mark.parametrize("meanwhile", [i.SelectTab("text"), i.AddTurn(), i.EditTurn(0, "Why not?")], ids=repr)
def test_an_answer_becomes_a_turn_whatever_was_done_meanwhile(machine: Machine, meanwhile: i.Intent) -> None:
    asked(machine, "Why?")
    machine.do(meanwhile)
    machine.drain(8)
    assert roles(machine) == ["user", "assistant"]


def test_an_answer_finds_its_question_where_it_has_moved_to(machine: Machine) -> None:
    asked(machine, "First?")
    machine.drain(8)
    asked(machine, "Second?")
    machine.do(i.RemoveTurn(1))
    machine.drain(8)
    assert [turn.content for turn in machine.state.draft.turns][:2] == ["First?", "Second?"]
    assert roles(machine) == ["user", "user", "assistant"]
    asked(machine, "Third?")
    machine.do(i.ClearChat())
    machine.drain(8)
    assert roles(machine) == []  # nobody asks any more


def test_the_next_message_waits_for_the_answer(machine: Machine) -> None:
    asked(machine, "Why?")
    machine.do(i.EditMessage("And then?"))
    before = machine.state.last_run_id
    machine.do(i.Run())
    assert machine.state.last_run_id == before
    assert "still answering" in machine.state.notices[-1].text
    machine.drain(8)
    machine.do(i.Run())
    machine.drain(8)
    assert roles(machine) == ["user", "assistant", "user", "assistant"]


def test_what_is_edited_before_the_run_begins_stays_edited(machine: Machine) -> None:
    asked(machine, "Why?")
    machine.drain(8)
    machine.do(i.EditMessage("And then?"))
    machine.do(i.Run())
    machine.do(i.EditTurn(1, "Because."))
    machine.do(i.EditMessage("typed at once"))
    machine.drain(8)
    assert [turn.content for turn in machine.state.draft.turns][:3] == ["Why?", "Because.", "And then?"]
    assert roles(machine) == ["user", "assistant", "user", "assistant"]
    assert machine.state.draft.message == "typed at once"


def test_a_run_of_another_tab_answers_no_turn(machine: Machine) -> None:
    machine.do(i.AddTurn())
    machine.do(i.EditTurn(0, "Why?"))
    machine.do(i.SelectTab("text"))
    machine.do(i.SetParameter("max_new_tokens", 2))
    machine.do(i.Run())
    machine.do(i.SelectTab("chat"))
    machine.drain(8)
    assert roles(machine) == ["user"]
