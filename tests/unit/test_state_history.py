"""Undo, presets, chat turns and pace, from the state alone."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from app.state import intents as i
from app.state import modes, presets, select
from app.state.state import Preset
from app.state.turns import spans, turn_rows
from app.state.update import update
from core.contract import ChatMessage, ErrorReport, ParameterError, PromptRow, SetParams, StartRun
from core.contract.together import check_together
from tests.unit.test_state_update import Machine


@pytest.fixture
def machine() -> Machine:
    return Machine()


def editable(machine: Machine) -> tuple[object, ...]:
    draft = machine.state.draft
    return dict(machine.state.overrides), machine.state.seed, draft.text, draft.system, draft.turns, draft.message


def test_fifty_random_edits_are_undone_to_the_start_and_redone_to_the_end(machine: Machine) -> None:
    chance = random.Random(3)
    states = [editable(machine)]
    for n in range(50):
        edits = (
            i.SetParameter("temperature", round(chance.uniform(0.1, 2.0), 3)),
            i.SetParameter("top_k", chance.randrange(1, 100)),
            i.SetSeed(chance.randrange(1, 10_000)),
            i.ResetParameters(),
            i.AddTurn(),
            i.ClearChat(),
        )
        machine.do(chance.choice(edits))
        if n % 7 == 0:
            machine.do(i.EditText(f"text {n}"))
        states.append(editable(machine))
    while machine.state.history.past:
        machine.do(i.Undo())
    assert editable(machine) == states[0]
    while machine.state.history.future:
        machine.do(i.Redo())
    assert editable(machine) == states[-1]


def test_a_drag_is_one_step_and_the_next_drag_another(machine: Machine) -> None:
    for value in (0.7, 0.6, 0.5):
        machine.do(i.SetParameter("temperature", value, gesture=1))
    for value in (0.4, 0.3):
        machine.do(i.SetParameter("temperature", value, gesture=2))
    machine.do(i.Undo())
    assert select.params(machine.state).temperature == 0.5
    machine.do(i.Undo())
    assert select.params(machine.state).temperature == 0.8
    machine.do(i.Redo())
    assert select.params(machine.state).temperature == 0.5


def test_typing_in_a_row_is_one_step_until_a_run(machine: Machine) -> None:
    first = machine.state.draft.text
    for text in ("a", "ab", "abc"):
        machine.do(i.EditText(text))
    machine.do(i.Run())
    machine.do(i.EditText("abcd"))
    machine.do(i.Undo())
    assert machine.state.draft.text == "abc"
    machine.do(i.Undo())
    assert machine.state.draft.text == first


def test_typing_that_its_editor_has_taken_back_does_not_come_again(machine: Machine) -> None:
    first = machine.state.draft.text
    machine.do(i.EditText("abc"))
    machine.do(i.SetParameter("temperature", 0.3))
    for text in ("ab", "a", first):  # Ctrl+Z in the editor
        machine.do(i.EditText(text))
    machine.do(i.Undo())
    assert machine.state.draft.text == first
    assert machine.state.overrides == {}
    machine.do(i.EditText("abc", whole=True))
    machine.do(i.EditText(first))  # typed: what was put there as a whole is found again
    machine.do(i.Undo())
    assert machine.state.draft.text == "abc"


@pytest.mark.parametrize(("edit", "field"), [(i.EditText, "text"), (i.EditBatch, "batch"), (i.EditMessage, "message")])
def test_a_text_put_in_place_of_what_was_typed_is_a_step_of_its_own(machine: Machine, edit: Any, field: str) -> None:
    for text in ("m", "mi", "mine"):
        machine.do(edit(text))
    machine.do(edit("of a file", whole=True))
    machine.do(edit("of a file, changed"))
    said = []
    for _ in range(3):
        said.append(getattr(machine.state.draft, field))
        machine.do(i.Undo())
    assert said == ["of a file, changed", "of a file", "mine"]


def test_undo_during_a_run_is_sent_to_the_model(machine: Machine) -> None:
    machine.do(i.Run())
    machine.drain(2)
    machine.do(i.SetParameter("temperature", 0.2))
    machine.do(i.Undo())
    assert machine.last(SetParams).changes == {"temperature": 0.8}  # type: ignore[attr-defined]


def chat(machine: Machine, text: str) -> None:
    machine.do(i.SelectTab("chat"))
    machine.do(i.SetParameter("max_new_tokens", 2))
    machine.do(i.EditMessage(text))
    machine.do(i.Run())
    machine.drain(4)


def test_regenerating_replaces_the_answer_with_other_draws_and_undo_returns_it(machine: Machine) -> None:
    chat(machine, "One?")
    chat(machine, "Two?")
    machine.do(i.EditMessage("being written"))
    before = machine.state.draft.turns
    assert [t.role for t in before] == ["user", "assistant", "user", "assistant"]
    machine.do(i.Regenerate(1))
    spec = machine.last(StartRun).spec  # type: ignore[attr-defined]
    assert spec.prompts[0].messages == before[:1]
    assert spec.reroll == 1
    assert spec.reuse_prefix
    machine.drain(4)
    assert len(machine.state.draft.turns) == 2
    assert machine.state.draft.message == "being written"
    machine.do(i.Undo())
    assert machine.state.draft.turns == before
    machine.do(i.Regenerate(3))
    assert machine.last(StartRun).spec.reroll == 2  # type: ignore[attr-defined]
    chat(machine, "Three?")
    assert machine.last(StartRun).spec.reroll == 0  # type: ignore[attr-defined]


def test_turns_added_by_hand_alternate_and_empty_ones_are_not_sent(machine: Machine) -> None:
    machine.do(i.SelectTab("chat"))
    machine.do(i.AddTurn())
    machine.do(i.AddTurn())
    machine.do(i.EditTurn(0, "Hi"))
    assert [t.role for t in machine.state.draft.turns] == ["user", "assistant"]
    machine.do(i.EditMessage("And?"))
    assert select.chat_messages(machine.state.draft) == (ChatMessage("user", "Hi"), ChatMessage("user", "And?"))


def test_the_tokens_of_a_turn_are_found_in_the_rendered_chat() -> None:
    row = PromptRow(
        (1, 2, 3, 4, 5, 6, 7), ("<|u|>", "Hi", " there", "\\xF0\\x9F", "🙂", "<|a|>", "Hi"), "<|u|>Hi there🙂<|a|>Hi"
    )
    turns = (ChatMessage("user", "Hi there🙂"), ChatMessage("assistant", "Hi"), ChatMessage("user", "gone"))
    first, second, third = turn_rows(row, turns)
    assert first is not None
    assert first.token_ids[:2] == (2, 3)
    assert 5 in first.token_ids
    assert second == PromptRow((7,), ("Hi",), "Hi")
    assert third is None
    assert len(spans(row)) == 7


STRANGE = {"temperature": 0.5, "foo": [1, {"a": None}], "eos_token_id": 0, "top_k": None, "epsilon_cutoff": 3e-4}


def test_every_key_of_a_preset_survives_import_and_save(machine: Machine) -> None:
    machine.do(i.ImportPreset(Preset("mine", STRANGE)))
    assert select.params(machine.state).temperature == 0.5
    assert "foo" in machine.state.notices[-1].text
    machine.do(i.SavePreset("again"))
    saved = next(p for p in machine.state.presets if p.name == "again").values
    assert {k: saved[k] for k in ("temperature", "foo", "eos_token_id", "epsilon_cutoff")} == {
        k: STRANGE[k] for k in ("temperature", "foo", "eos_token_id", "epsilon_cutoff")
    }
    assert presets.parse(presets.write(saved)) == saved
    machine.do(i.SetParameter("temperature", 0.9))
    assert presets.values_in_force(machine.state)["temperature"] == 0.9
    machine.do(i.Undo())
    machine.do(i.Undo())
    assert select.params(machine.state).temperature == 0.8
    assert dict(machine.state.config) == {}


def kept(machine: Machine) -> dict[str, object]:
    return {p.name: p.values.get("temperature") for p in machine.state.presets}


def test_a_preset_of_a_file_never_takes_the_place_of_another_one(machine: Machine) -> None:
    long = "x" * presets.LONGEST_NAME
    for name in ("creative", long):
        machine.do(i.SetParameter("temperature", 0.3))
        machine.do(i.SavePreset(name))
    machine.do(i.ImportPreset(Preset("creative", {"temperature": 1.9})))
    assert kept(machine) == {"creative": 0.3, "creative 2": 1.9, long: 0.3}
    assert select.params(machine.state).temperature == 1.9
    assert "stays as it is; this one is “creative 2”" in machine.state.notices[-1].text
    machine.do(i.ImportPreset(Preset("creative", {"temperature": 1.9})))  # once more is no third one
    machine.do(i.ImportPreset(Preset("CREATIVE", {"temperature": 1.5})))
    machine.do(i.ImportPreset(Preset(long, {"temperature": 1.1})))
    assert kept(machine) == {
        "creative": 0.3, "creative 2": 1.9, "CREATIVE 3": 1.5, long: 0.3, long[:-2] + " 2": 1.1
    }  # fmt: skip
    for _ in range(3):
        machine.do(i.Undo())
    assert select.params(machine.state).temperature == 0.3
    assert len(kept(machine)) == 5  # what was imported stays at hand


def test_a_preset_that_was_replaced_or_removed_comes_back(machine: Machine) -> None:
    for name, value in (("mine", 0.3), ("mine", 0.6), ("new", 0.6)):
        machine.do(i.SetParameter("temperature", value))
        machine.do(i.SavePreset(name))
        assert ("in place of" in machine.state.notices[-1].text) == (value == 0.6 and name == "mine")
    machine.do(i.RemovePreset("mine"))
    machine.do(i.RemovePreset("never there"))
    assert kept(machine) == {"new": 0.6}
    machine.do(i.Undo())
    assert kept(machine) == {"mine": 0.6, "new": 0.6}
    machine.do(i.Undo())
    assert kept(machine) == {"mine": 0.3, "new": 0.6}  # a new one is not taken away again
    machine.do(i.Redo())
    machine.do(i.Redo())
    assert kept(machine) == {"new": 0.6}
    assert machine.state.history.future == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "no JSON"), ("[1]", "JSON object"), ('{"a": NaN}', "NaN"), ('{"model_type": "gpt2"}', "drop its folder"),
     ("[" * 100_000, "no JSON")],
)  # fmt: skip
def test_what_is_no_preset_is_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        presets.parse(text)


def test_a_preset_with_a_bad_value_applies_the_rest_and_says_so(machine: Machine) -> None:
    machine.do(i.ImportPreset(Preset("bad", json.loads('{"temperature": -1, "top_p": 0.5}'))))
    assert select.params(machine.state).top_p == 0.5
    assert any("temperature cannot be" in n.text for n in machine.state.errors)


def test_errors_are_grouped_and_outlive_the_next_run(machine: Machine) -> None:
    for _ in range(3):
        machine.do(i.Announce("error", "Broken.", "trace"))
    machine.do(i.Announce("error", "Other."))
    machine.do(i.Run())
    assert machine.state.notices == ()
    assert [(n.text, n.count) for n in machine.state.errors] == [("Broken.", 3), ("Other.", 1)]
    machine.do(i.DismissError(machine.state.errors[0].notice_id))
    assert [n.text for n in machine.state.errors] == ["Other."]
    machine.do(i.DismissError(None))
    assert machine.state.errors == ()


def test_recent_prompts_and_models_are_kept_newest_first(machine: Machine) -> None:
    for text in ("one", "two", "one"):
        machine.do(i.EditText(text))
        machine.do(i.Run())
        machine.drain()
    assert machine.state.recent_prompts == ("one", "two")
    assert machine.state.recent_models == ("tiny-gpt2",)


def test_a_preset_brings_its_mode_and_takes_away_what_the_one_before_needed(machine: Machine) -> None:
    machine.do(i.ChooseMode("draft"))
    machine.do(i.SetModeText("assistant", "tiny-gpt2"))
    machine.do(i.ImportPreset(Preset("beams", {"num_beams": 4})))
    assert modes.current(machine.state).key == "beams"
    spec = select.run_spec(machine.state)
    assert spec.assistant is None
    assert spec.params["do_sample"] is False  # as a GenerationConfig that says nothing means it
    machine.do(i.Undo())
    assert select.run_spec(machine.state).assistant is not None
    machine.do(i.ImportPreset(Preset("likes draws", {"num_beams": 4, "do_sample": True})))
    assert select.params(machine.state).mode == "beam_sample"


@pytest.mark.parametrize(
    ("key", "values", "name"),
    [
        ("contrastive", {"penalty_alpha": 0.6, "top_k": 4}, "contrastive_search"),
        ("groups", {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, "group_beam_search"),
        ("constrained", {"num_beams": 4, "force_words_ids": [[5, 6], [[7], [8, 9]]]}, "constrained_beam_search"),
    ],
)
def test_a_preset_of_a_mode_that_cannot_sample_can_be_run(
    machine: Machine, key: str, values: dict[str, object], name: str
) -> None:
    machine.do(i.ImportPreset(Preset("mine", values)))
    assert modes.current(machine.state).key == key
    assert modes.missing(machine.state) == ""
    check_together(select.params(machine.state))
    assert select.params(machine.state).mode == name
    assert machine.state.notices[-1].text == "Preset “mine” applied."
    machine.do(i.ChooseMode("plain"))
    assert select.params(machine.state).force_words_ids == ()
    assert select.params(machine.state).mode == "sample"


def test_typed_phrases_and_a_watermark_are_saved_as_a_generation_config_has_them(machine: Machine) -> None:
    machine.do(i.ChooseMode("constrained"))
    machine.do(i.SetModeText("force_words", " moon| sun\n sea"))
    machine.do(i.SetParameter("watermarking_config", {"bias": 1.5}))
    machine.drain()
    plan = machine.state.plan
    assert plan is not None
    ids = (((1,), (2,)), (3, 4))
    known = tuple(replace(p, value=ids) if p.name == "force_words_ids" else p for p in plan.parameters)
    machine.state = replace(machine.state, plan=replace(plan, parameters=known), plan_error=None)
    machine.do(i.SavePreset("mine"))
    assert machine.state.notices[-1].text == "Saved as preset “mine”."
    refused = replace(machine.state, plan_error=ErrorReport("parameter", "They contradict each other."))
    said = update(refused, i.SavePreset("half")).notices[-1].text
    assert said.startswith("Saved as preset “half”. The phrases typed are not part of it")
    saved = next(p for p in machine.state.presets if p.name == "mine").values
    assert saved["force_words_ids"] == [[[1], [2]], [3, 4]]
    assert saved["watermarking_config"] == {"bias": 1.5}
    machine.do(i.ResetParameters())
    assert modes.current(machine.state).key == "plain"
    machine.do(i.ApplyPreset("mine"))
    assert select.params(machine.state).force_words_ids == ids
    assert modes.current(machine.state).key == "constrained"
    assert "2 phrases are given as token ids" in modes.explained(machine.state)  # the field for them is empty
    machine.do(i.ChooseMode("beams"))
    assert "phrases" not in modes.explained(machine.state)


def test_the_run_is_told_which_values_are_those_of_the_preset(machine: Machine) -> None:
    machine.do(i.SetParameter("top_k", 7))
    assert select.run_spec(machine.state).preset == frozenset()
    machine.do(i.ImportPreset(Preset("mine", {"temperature": 0.5, "num_beams": 3, "repetition_penalty": 1.2})))
    machine.do(i.SetParameter("repetition_penalty", 1.3))
    machine.do(i.SetParameter("no_repeat_ngram_size", 2))
    assert select.run_spec(machine.state).preset == {"temperature", "num_beams", "do_sample"}
    machine.do(i.ImportPreset(Preset("warm", {"temperature": 0.5})))
    assert select.params(machine.state).do_sample
    machine.do(i.SetParameter("do_sample", False))  # by the user: a preset that draws does not ask for that
    assert select.run_spec(machine.state).preset == {"temperature"}
