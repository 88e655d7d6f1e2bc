"""The state machine of the window, without Qt: intents and events in, states and commands out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.state import intents as i
from app.state import modes, select
from app.state.effects import commands
from app.state.state import AppState
from app.state.update import update
from core.contract import (
    Answered,
    AttentionQuery,
    ChatMessage,
    CommandRefused,
    ErrorReport,
    LoadFailed,
    LoadModel,
    ModelReady,
    PauseRun,
    ResumeRun,
    SetParams,
    StartRun,
    StateChanged,
    StopRun,
    Tokenize,
    Tokenized,
    WorkerState,
    check_together,
)
from tests.ui.fake_lab import FakeLab, model_info


class Machine:
    """State, effects and a scripted lab, driven by hand."""

    def __init__(self, *, chat: bool = True) -> None:
        self.lab = FakeLab(chat=chat)
        self.state = AppState()
        self.do(i.ChooseModel("tiny-gpt2"))
        self.drain()

    def do(self, intent: i.Intent) -> None:
        before = self.state
        self.state = update(before, intent)
        for command in commands(before, self.state, intent):
            self.lab.submit(command)

    def drain(self, times: int = 1) -> None:
        for _ in range(times):
            for event in self.lab.drain():
                self.state = update(self.state, event)

    def last(self, kind: type) -> object:
        return self.lab.sent(kind)[-1]


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_model_ready_offers_a_sample_prompt_but_keeps_what_was_typed(machine: Machine) -> None:
    assert machine.state.model is not None
    assert "lighthouse" in machine.state.draft.text
    machine.do(i.EditText("mine"))
    machine.do(i.ChooseModel(dtype="fp32"))
    machine.drain()
    assert machine.state.draft.text == "mine"
    assert machine.state.spec.dtype == "fp32"


def test_failed_load_keeps_the_previous_model_and_says_why(machine: Machine) -> None:
    before = machine.state.model
    machine.do(i.ChooseModel("/no/model"))
    assert machine.state.loading is not None
    error = ErrorReport("model_load", "The folder holds no model.")
    machine.state = update(machine.state, LoadFailed(machine.state.loading.model_id, error, "tiny-gpt2"))
    assert machine.state.model is before
    assert machine.state.spec == before.spec
    assert machine.state.loading is None
    assert machine.state.notices[-1].text == "The folder holds no model."


def test_choosing_another_model_cancels_the_load_in_progress_and_ignores_its_end(machine: Machine) -> None:
    machine.lab.hold_loading = True
    machine.do(i.ChooseModel("one"))
    first = machine.state.loading
    machine.do(i.ChooseModel("two"))
    assert first is not None
    names = [type(c).__name__ for c in machine.lab.commands[-2:]]
    assert names == ["CancelLoad", "LoadModel"]
    cancelled = LoadFailed(first.model_id, ErrorReport("load_cancelled", "Cancelled."), None)
    state = update(machine.state, cancelled)
    assert state.loading is machine.state.loading
    assert not state.notices


def test_run_sends_what_the_user_chose_and_nothing_else(machine: Machine) -> None:
    machine.do(i.SetParameter("temperature", 0.5))
    machine.do(i.SetSeed(7))
    machine.do(i.Run())
    start = machine.last(StartRun)
    assert isinstance(start, StartRun)
    assert dict(start.spec.params) == {"temperature": 0.5}
    assert start.spec.seed == 7
    assert start.spec.prompts[0].text == machine.state.draft.text


def test_steps_fill_columns_that_earlier_states_do_not_see_change(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(3)
    early = machine.state.run
    machine.drain(500)
    late = machine.state.run
    assert early is not None
    assert late is not None
    assert early.count < late.count == 200
    assert len(early.column("logprob")) == early.count
    np.testing.assert_array_equal(early.column("rank"), late.column("rank")[: early.count])
    with pytest.raises(ValueError, match="read-only"):
        late.column("rank")[0] = 1
    with pytest.raises(IndexError):
        early.step(early.count)
    assert late.text().startswith(" lived at the edge")
    assert late.column("text_end")[-1] == len(late.text())


def test_events_of_another_run_change_nothing(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain()
    event = machine.state.run.step(0)  # type: ignore[union-attr]
    stray = replace(event, id=replace(event.id, run_id=99, index=1))
    assert update(machine.state, stray) is machine.state
    other_row = replace(event, id=replace(event.id, row=1, index=1))
    after = update(machine.state, other_row).run
    assert after is not None
    assert after.steps() == machine.state.run.steps()  # type: ignore[union-attr]


def test_selection_moves_between_steps_and_follows_the_newest_past_the_end(machine: Machine) -> None:
    machine.do(i.MoveSelection(1))
    assert machine.state.selected is None
    machine.do(i.Run())
    machine.drain(6)
    machine.do(i.MoveSelection(-2))
    count = machine.state.run.count  # type: ignore[union-attr]
    assert machine.state.selected == count - 3
    machine.drain(2)
    assert select.step_index(machine.state) == count - 3
    machine.do(i.MoveSelection(-1000))
    assert machine.state.selected == 0
    machine.do(i.MoveSelection(-1))
    prompt = machine.state.run.prompt_tokens  # type: ignore[union-attr]
    assert (machine.state.selected, select.shown_position(machine.state)) == (-1, prompt - 2)
    assert (select.step_index(machine.state), select.chosen_index(machine.state)) == (0, None)
    machine.do(i.MoveSelection(-1000))
    assert (machine.state.selected, select.shown_position(machine.state)) == (-prompt, 0)
    machine.do(i.MoveSelection(1000))
    assert machine.state.selected is None
    machine.do(i.SelectStep(4000))
    assert select.step_index(machine.state) == machine.state.run.count - 1  # type: ignore[union-attr]


def test_change_during_a_run_is_pending_until_its_epoch_is_applied(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(3)
    machine.do(i.SetParameter("temperature", 0.3))
    assert machine.state.pending == {"temperature": 1}
    assert machine.last(SetParams) == SetParams({"temperature": 0.3}, 1)
    machine.drain()
    run = machine.state.run
    assert run is not None
    assert machine.state.pending == {}
    assert run.params.temperature == 0.3
    assert [f.changed for f in run.flags] == [("temperature",)]


def test_reset_during_a_run_sends_the_default(machine: Machine) -> None:
    machine.do(i.SetParameter("top_k", 3))
    machine.do(i.Run())
    machine.drain(2)
    machine.do(i.ResetParameters())
    assert machine.last(SetParams) == SetParams({"top_k": 40}, 1)
    assert machine.state.overrides == {}


def test_refused_change_returns_to_what_the_run_uses(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(2)
    machine.lab.refuse = {SetParams: ErrorReport("parameter", "Not now.")}
    machine.do(i.SetParameter("temperature", 0.3))
    machine.drain()
    assert select.params(machine.state).temperature == 0.8
    assert machine.state.pending == {}
    assert machine.state.notices[-1].text == "Not now."


def test_value_equal_to_the_default_is_not_a_change(machine: Machine) -> None:
    machine.do(i.SetParameter("temperature", 0.5))
    machine.do(i.SetParameter("temperature", 0.8))
    assert machine.state.overrides == {}


def test_invalid_value_is_announced_and_changes_nothing(machine: Machine) -> None:
    machine.do(i.SetParameter("temperature", -1))
    assert machine.state.overrides == {}
    assert "temperature cannot be -1" in machine.state.notices[-1].text
    assert not machine.lab.sent(SetParams)


def test_moving_a_sampling_parameter_while_greedy_switches_to_sampling_and_says_so(machine: Machine) -> None:
    machine.do(i.SetParameter("do_sample", False))
    assert select.params(machine.state).mode == "greedy_search"
    machine.do(i.SetParameter("top_p", 0.9))
    assert select.params(machine.state).mode == "sample"
    assert machine.state.notices[-1].text.startswith("Switched to sampling")


def test_sampling_is_the_default_of_the_window_even_where_the_model_says_greedy() -> None:
    machine = Machine()
    info = model_info(9)
    machine.state = update(
        machine.state, ModelReady(replace(info, defaults=info.defaults.replace({"do_sample": False})))
    )
    assert select.params(machine.state).do_sample
    assert machine.state.overrides == {}
    machine.do(i.Run())
    assert machine.last(StartRun).spec.params == {}  # type: ignore[attr-defined]
    assert machine.last(StartRun).spec.host_defaults == {"do_sample": True}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive_search"),
        ({"num_beams": 4}, "beam_search"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "group_beam_search"),
        ({"num_beams": 4, "do_sample": True}, "beam_sample"),
    ],
)
def test_a_model_that_asks_for_another_mode_is_left_its_own(values: dict[str, object], mode: str) -> None:
    machine = Machine()
    info = model_info(9)
    own = info.defaults.replace({"do_sample": False, **values})
    machine.state = update(machine.state, ModelReady(replace(info, defaults=own)))
    assert select.params(machine.state).mode == mode
    check_together(select.params(machine.state))
    machine.do(i.Run())
    assert machine.last(StartRun).spec.host_defaults == {}  # type: ignore[attr-defined]
    for key in ("plain", "lookup", "contrastive", "guidance", "beams", "groups", "plain"):  # and can be left for others
        machine.do(i.ChooseMode(key))
        assert modes.current(machine.state).key == key
        check_together(select.params(machine.state))


def test_choosing_sampling_with_temperature_zero_takes_the_zero_back(machine: Machine) -> None:
    machine.do(i.SetParameter("temperature", 0))
    assert select.params(machine.state).mode == "greedy_search"
    machine.do(i.SetParameter("do_sample", True))
    assert select.params(machine.state).mode == "sample"


def test_pause_resume_step_and_stop_send_their_commands(machine: Machine) -> None:
    for intent in (i.TogglePause(), i.Stop()):
        machine.do(intent)
    assert not machine.lab.sent(PauseRun)
    assert not machine.lab.sent(StopRun)
    machine.do(i.Step())
    start = machine.last(StartRun)
    assert isinstance(start, StartRun)
    assert start.spec.max_steps == 1
    machine.drain(3)
    assert machine.state.worker is WorkerState.PAUSED
    assert machine.state.run is not None
    assert machine.state.run.count == 1
    machine.do(i.Step())
    assert machine.last(ResumeRun) == ResumeRun(max_steps=1)
    machine.drain(3)
    assert machine.state.run.count == 2
    machine.do(i.TogglePause())
    assert machine.last(ResumeRun) == ResumeRun()
    machine.drain()
    machine.do(i.TogglePause())
    machine.drain()
    assert machine.lab.sent(PauseRun)
    machine.do(i.Stop())
    machine.drain()
    assert machine.state.run.finish is not None
    assert not select.is_active(machine.state)


def test_refused_run_leaves_the_window_usable(machine: Machine) -> None:
    machine.lab.refuse = {StartRun: ErrorReport("prompt", "The prompt is too long.")}
    machine.do(i.Run())
    assert select.is_active(machine.state)
    machine.drain()
    assert not select.is_active(machine.state)
    assert machine.state.notices[-1].text == "The prompt is too long."
    machine.lab.refuse = {}
    machine.do(i.Run())
    machine.drain(2)
    assert not machine.state.notices


def test_run_without_a_model_is_refused_with_a_sentence() -> None:
    state = update(AppState(), i.Run())
    assert "No model is loaded" in state.notices[-1].text
    assert state.requested is None


def test_chat_turns_follow_the_conversation(machine: Machine) -> None:
    machine.do(i.SelectTab("chat"))
    machine.do(i.EditSystem("Be brief."))
    machine.do(i.EditMessage("Why?"))
    machine.do(i.SetParameter("max_new_tokens", 2))
    machine.do(i.Run())
    start = machine.last(StartRun)
    assert isinstance(start, StartRun)
    assert start.spec.prompts[0].messages == (ChatMessage("system", "Be brief."), ChatMessage("user", "Why?"))
    machine.drain(4)
    draft = machine.state.draft
    assert [t.role for t in draft.turns] == ["user", "assistant"]
    assert draft.message == ""
    assert [m.role for m in select.chat_messages(draft)] == ["system", "user"]  # an empty message asks again
    machine.do(i.EditMessage("And then?"))
    assert [m.role for m in select.chat_messages(machine.state.draft)] == ["system", "user", "assistant", "user"]
    machine.do(i.EditTurn(0, ""))  # emptied: it stays, and is not sent
    assert [m.role for m in select.chat_messages(machine.state.draft)] == ["system", "assistant", "user"]
    assert [t.role for t in machine.state.draft.turns] == ["user", "assistant"]
    machine.do(i.RemoveTurn(0))
    assert [t.role for t in machine.state.draft.turns] == ["assistant"]
    machine.do(i.ClearChat())
    assert machine.state.draft.turns == ()


def test_empty_chat_is_refused_with_a_sentence(machine: Machine) -> None:
    machine.do(i.SelectTab("chat"))
    machine.do(i.EditMessage("  "))
    machine.do(i.Run())
    assert "The chat is empty" in machine.state.notices[-1].text
    assert not machine.lab.sent(StartRun)


def test_model_without_chat_template_returns_to_text(machine: Machine) -> None:
    machine.do(i.SelectTab("chat"))
    machine.lab.chat = False
    machine.do(i.ChooseModel("base"))
    machine.drain()
    assert machine.state.draft.tab == "text"


def test_only_the_newest_tokenisation_counts(machine: Machine) -> None:
    machine.do(i.EditText("one two"))
    machine.do(i.TokenizeDraft())
    late = next(event for event in machine.lab.events if isinstance(event, Tokenized))
    machine.do(i.EditText("one two three"))
    machine.do(i.TokenizeDraft())
    assert machine.lab.sent(Tokenize)[-1].generation == machine.state.draft.generation  # type: ignore[attr-defined]
    machine.drain()
    row = machine.state.draft.tokenized
    assert row is not None
    assert row.pieces == ("one", " two", " three")
    assert update(machine.state, late) is machine.state


def test_answers_that_nobody_waits_for_are_dropped(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(2)
    query = AttentionQuery(run_id=1, layer=0)
    machine.do(i.AskView("focus", query))
    assert select.is_waiting(machine.state, "focus")
    machine.drain()
    got = select.answer(machine.state, "focus")
    assert got is not None
    assert not select.is_waiting(machine.state, "focus")
    assert update(machine.state, replace(got, generation=got.generation)) is machine.state  # not newer
    assert update(machine.state, Answered("other", 50, None)) is machine.state  # never asked
    machine.do(i.WithdrawView("focus"))
    assert update(machine.state, replace(got, generation=99)) is machine.state  # withdrawn
    machine.do(i.AskView("focus", query))
    late = machine.lab.events[-1]
    machine.do(i.Run())
    machine.drain()
    machine.do(i.AskView("focus", query))
    assert update(machine.state, late) is machine.state  # of the run before


def test_same_notice_twice_is_counted(machine: Machine) -> None:
    for _ in range(2):
        machine.do(i.Announce("error", "Oops."))
    assert [(n.text, n.count) for n in machine.state.notices] == [("Oops.", 2)]
    machine.do(i.DismissNotice(machine.state.notices[0].notice_id))
    assert machine.state.notices == ()


def test_worker_events_reach_the_state(machine: Machine) -> None:
    state = update(machine.state, StateChanged(WorkerState.LOADING))
    assert state.worker is WorkerState.LOADING
    state = update(state, CommandRefused("Ask", ErrorReport("view", "No such layer.")))
    assert state.notices[-1].text == "No such layer."


def test_colour_values_are_bright_where_the_model_was_sure(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(5)
    run = machine.state.run
    assert run is not None
    for by in ("probability", "entropy", "rank", "surprisal"):
        values = select.colour_values(run, by)  # type: ignore[arg-type]
        assert values.min() >= 0
        assert values.max() <= 1
        assert len(select.colour_values(run, by, 2)) == run.count - 2  # type: ignore[arg-type]
    best = int(np.argmax(run.column("logprob")))
    assert select.colour_values(run, "surprisal")[best] == select.colour_values(run, "surprisal").max()


def test_loading_a_model_stops_the_run_first(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(2)
    machine.do(i.ChooseModel("other"))
    assert [type(c) for c in machine.lab.commands[-2:]] == [StopRun, LoadModel]


def test_every_press_of_step_is_a_step() -> None:
    machine = Machine()
    for _ in range(3):
        machine.do(i.Step())
    assert machine.last(StartRun).spec.max_steps == 1  # type: ignore[attr-defined]
    assert [c.max_steps for c in machine.lab.sent(ResumeRun)] == [1, 1]
    assert select.can_step(machine.state)  # a disabled action would swallow the next press
    machine.do(i.TogglePause())
    assert not machine.state.stepping


def test_a_model_that_is_loaded_is_not_loaded_again_unless_asked_to() -> None:
    machine = Machine()
    machine.do(i.Run())
    machine.drain(3)
    loads = len(machine.lab.sent(LoadModel))
    machine.do(i.ChooseModel("tiny-gpt2"))
    assert len(machine.lab.sent(LoadModel)) == loads
    assert machine.state.run is not None
    assert machine.state.notices[-1].text == "This model is loaded already."
    machine.do(i.ChooseModel(again=True))
    assert len(machine.lab.sent(LoadModel)) == loads + 1


@pytest.mark.parametrize("mode", ["groups", "constrained", "contrastive"])
def test_a_sampling_slider_leaves_a_mode_that_cannot_sample_as_it_is(machine: Machine, mode: str) -> None:
    machine.do(i.ChooseMode(mode))
    for name, value in (("temperature", 0.5), ("top_p", 0.9)):
        machine.do(i.SetParameter(name, value))
        assert getattr(select.params(machine.state), name) == value
        assert not select.params(machine.state).do_sample
        assert machine.state.notices[-1].text == f"{name} has no effect here: this mode does not sample."
    check_together(select.params(machine.state))  # so that Run still begins
    machine.do(i.ChooseMode("dola"))
    machine.do(i.SetParameter("temperature", 0.6))
    assert select.params(machine.state).do_sample
