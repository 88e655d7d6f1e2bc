"""The parameters panel: sliders, exact fields, resets, pending changes, the mode, the plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtGui import Qt
from PySide6.QtWidgets import QStyle, QStyleOptionFrame
from pytestqt.qtbot import QtBot

from app.state import intents as i
from app.state import select
from app.state.modes import MODES, current
from app.state.plan import shown_rows
from app.widgets.parameter_row import ParameterRow
from app.widgets.parameter_text import MOST_SEED, parse, whole_number, written
from app.widgets.scale import TICKS, format_number, scale_of
from core.contract import (
    PARAMETERS,
    ModelSpec,
    Prompt,
    SetParams,
    StartRun,
    check_together,
    plan_summary,
    validate,
)
from tests.ui.harness import Driven, driven

pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with driven(tmp_path / "settings.ini") as driven_window:
        yield driven_window


def row(one: Driven, name: str) -> ParameterRow:
    return one.panel("parameters").rows[name]


def type_into(one: Driven, qtbot: object, name: str, text: str) -> None:
    field = row(one, name).field
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, text)  # type: ignore[attr-defined]
    qtbot.keyClick(field, Qt.Key.Key_Return)  # type: ignore[attr-defined]
    one.frames()


def visible_rows(one: Driven) -> set[str]:
    return {name for name, made in one.panel("parameters").rows.items() if not made.name.isHidden()}


def test_the_usual_parameters_have_rows_and_a_click_shows_all_the_others(one: Driven) -> None:
    assert visible_rows(one) == shown_rows(one.state)
    assert all(not PARAMETERS[name].advanced for name in visible_rows(one))
    assert {"temperature", "max_new_tokens", "num_return_sequences"} <= visible_rows(one)
    one.panel("parameters").more.click()
    one.frames()
    assert {"bad_words_ids", "top_h", "watermarking_config", "remove_invalid_values"} <= visible_rows(one)
    assert "num_beams" not in visible_rows(one), "what belongs to a mode is shown with it"


def test_a_mode_brings_its_parameters_and_takes_them_away_again(one: Driven) -> None:
    panel = one.panel("parameters")
    one.do(i.ChooseMode("groups"))
    one.frames()
    assert {"num_beams", "num_beam_groups", "diversity_penalty"} <= visible_rows(one)
    assert select.params(one.state).mode == "group_beam_search"
    assert panel.mode_row.mode.text().startswith("Diverse beams")
    one.do(i.ChooseMode("plain"))
    one.frames()
    assert "num_beams" not in visible_rows(one)
    assert not one.state.overrides
    one.do(i.Undo())
    assert select.params(one.state).num_beam_groups == 3


@pytest.mark.parametrize("mode", [mode.key for mode in MODES])
def test_every_mode_can_be_chosen_and_is_recognised(one: Driven, mode: str) -> None:
    one.do(i.ChooseMode("contrastive" if mode != "contrastive" else "beams"))
    one.do(i.ChooseMode(mode))
    assert current(one.state).key == mode
    check_together(select.params(one.state), assisted=mode == "draft")
    one.do(i.ChooseMode("plain"))
    assert current(one.state).key == "plain"
    assert not one.state.overrides


def test_what_a_mode_needs_besides_parameters_goes_with_the_run(one: Driven) -> None:
    one.do(i.ChooseMode("constrained"))
    one.do(i.SetModeText("force_words", " the fox\n a| an"))
    assert select.run_spec(one.state).force_words == ((" the fox",), (" a", " an"))
    one.do(i.ChooseMode("guidance"))
    one.do(i.SetModeText("negative", "Sad."))
    spec = select.run_spec(one.state)
    assert (spec.force_words, spec.negative_prompt) == ((), Prompt(text="Sad."))
    one.do(i.ChooseMode("draft"))
    one.do(i.SetModeText("assistant", "tiny-gpt2"))
    assert select.run_spec(one.state).assistant == ModelSpec("tiny-gpt2")


def test_switches_words_and_nested_lists_are_typed_in_their_own_way(one: Driven, qtbot: object) -> None:
    one.do(i.ShowMore(True))
    one.do(i.ChooseMode("lookup"))
    one.frames()
    row(one, "remove_invalid_values").choice._chosen("on")
    type_into(one, qtbot, "bad_words_ids", "[[15, 7], [3]]")
    type_into(one, qtbot, "prompt_lookup_num_tokens", "off")
    now = select.params(one.state)
    assert now.remove_invalid_values is True
    assert now.bad_words_ids == ((15, 7), (3,))
    assert now.prompt_lookup_num_tokens is None
    type_into(one, qtbot, "bad_words_ids", "no list")
    assert "bad_words_ids" in one.state.notices[-1].text
    assert select.params(one.state).bad_words_ids == ((15, 7), (3,))


def test_defaults_come_from_the_model_and_the_tooltip_says_so(one: Driven) -> None:
    assert row(one, "temperature").field.text() == "0.80"
    tip = row(one, "temperature").field.toolTip()
    assert "Divides the logits" in tip
    assert "At least 0." in tip
    assert "from the generation_config of tiny-gpt2" in tip.replace("\n", " ")
    assert "from the library" in row(one, "top_p").field.toolTip()


def test_any_precision_can_be_typed_and_stays_visible(one: Driven, qtbot: object) -> None:
    type_into(one, qtbot, "temperature", "0.8125")
    assert select.params(one.state).temperature == 0.8125
    assert row(one, "temperature").field.text() == "0.8125"
    type_into(one, qtbot, "temperature", "3.5")  # beyond the slider
    assert select.params(one.state).temperature == 3.5
    assert row(one, "temperature").slider.value() == TICKS


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("temperature", 0.8125, "0.8125"),
        ("max_new_tokens", 123456, "123456"),
        ("max_new_tokens", 1234567, "1.23e6"),
        ("repetition_penalty", 1.23456, "1.23"),
        ("temperature", 1e-3, "0.001"),
        ("temperature", 1e300, "1e300"),
    ],
)
def test_no_number_is_seen_without_its_first_digits(
    one: Driven, qtbot: QtBot, name: str, value: float, seen: str
) -> None:
    one.do(i.SetParameter(name, value))
    one.frames(2)
    field = row(one, name).field
    assert field.text() == seen
    option = QStyleOptionFrame()
    field.initStyleOption(option)
    room = field.style().subElementRect(QStyle.SubElement.SE_LineEditContents, option, field).width()
    assert field.fontMetrics().horizontalAdvance(seen) < room
    field.setFocus()
    assert float(field.text()) == value, "all of it, to be edited"
    qtbot.keyClick(field, Qt.Key.Key_Return)
    one.panel("prompt").text.setFocus()
    one.frames(2)
    assert field.text() == seen
    assert getattr(select.params(one.state), name) == value, "looking at it changes nothing"


@pytest.mark.parametrize(
    ("name", "text"), [("temperature", "-1"), ("top_p", "1.5"), ("top_k", "many"), ("top_k", "2.5")]
)
def test_what_is_not_allowed_is_explained_and_taken_back(one: Driven, qtbot: object, name: str, text: str) -> None:
    before = row(one, name).field.text()
    type_into(one, qtbot, name, text)
    assert row(one, name).field.text() == before
    assert one.state.overrides == {}
    (notice,) = one.state.notices
    assert notice.text.startswith(f"{name} cannot be ")


def test_the_name_of_a_model_is_no_markup(one: Driven) -> None:
    one_row = row(one, "top_p")
    one_row.show_value(0.5, changed=True, pending=False, waiting="", default="Default: 1, from <b>x</b>.", most=None)
    assert "&lt;b&gt;x" in one_row.dot.toolTip()
    assert not Qt.mightBeRichText(one_row.field.toolTip())


def test_slider_field_and_dot_move_together(one: Driven) -> None:
    one_row = row(one, "top_p")
    one_row.slider.setValue(900)
    one.frames()
    assert select.params(one.state).top_p == 0.9
    assert one_row.field.text() == "0.90"
    assert one_row.dot.isEnabled()
    assert "1 changed" in one.panel("parameters").reset_all.text()
    one_row.dot.click()
    one.frames()
    assert one.state.overrides == {}
    assert one_row.field.text() == "1.00"
    assert one_row.slider.value() == TICKS
    assert not one.panel("parameters").reset_all.isVisible()


RUDE = ["--5", "²", "9" * 5000, "[" * 8000, "{" * 8000, "1e999", "nan", "\x00", "٣", "-", "," * 3000]


@pytest.mark.parametrize("text", RUDE, ids=lambda text: f"{text[:3]!r}×{len(text)}")
def test_whatever_is_typed_ends_in_a_value_or_in_one_short_sentence(one: Driven, text: str) -> None:
    for name, parameter in PARAMETERS.items():
        one.do(i.SetParameter(name, parse(parameter, text)))
    panel = one.panel("parameters")
    panel._seed_committed(text)
    assert one.state.errors
    assert max(len(error.text) for error in one.state.errors) < 500
    assert whole_number(text, 0, MOST_SEED) is None


def test_whole_numbers_are_read_within_their_bounds() -> None:
    assert whole_number(" 1,024 ", 1, 2000) == 1024
    assert whole_number(str(MOST_SEED), 0, MOST_SEED) == MOST_SEED
    assert whole_number(str(MOST_SEED + 1), 0, MOST_SEED) is None
    assert whole_number("0", 1, 5) is None


def test_stepping_stays_at_the_bound_without_a_word(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("top_p", 0.01))
    one.frames()
    for _ in range(3):
        qtbot.keyClick(row(one, "top_p").field, Qt.Key.Key_Down)
        one.frames()
    assert select.params(one.state).top_p == 0.0
    assert not one.state.errors


def test_up_and_down_step_the_value(one: Driven, qtbot: object) -> None:
    field = row(one, "top_k").field
    field.setFocus()
    qtbot.keyClick(field, Qt.Key.Key_Up)  # type: ignore[attr-defined]
    one.frames()
    assert select.params(one.state).top_k == 41
    field = row(one, "temperature").field
    field.setFocus()
    qtbot.keyClick(field, Qt.Key.Key_Down)  # type: ignore[attr-defined]
    one.frames()
    assert select.params(one.state).temperature == 0.79


def test_reset_all_takes_every_change_back(one: Driven) -> None:
    for name, value in (("temperature", 0.1), ("top_k", 3), ("stop_strings", ("END",))):
        one.do(i.SetParameter(name, value))
    one.frames()
    link = one.panel("parameters").reset_all
    assert link.text() == "3 changed · reset"
    link.click()
    one.frames()
    assert one.state.overrides == {}


def test_change_during_a_run_is_sent_and_shown_as_pending_until_it_acts(one: Driven) -> None:
    one.do(i.Run())
    one.frames(2)
    row(one, "temperature").slider.setValue(100)
    assert one.lab.sent(SetParams)[-1].changes == {"temperature": 0.2}
    events, one.lab.events = one.lab.events, []  # the answer is still on its way
    one.frames()
    assert row(one, "temperature").dot.toolTip() == "Pending: acts at the next token."
    assert one.panel("parameters").header_right == "pending"
    one.lab.events = events
    one.frames()
    assert row(one, "temperature").dot.toolTip().startswith("Changed.")
    assert one.panel("parameters").header_right == ""


def test_mode_switch_and_sampling_parameters(one: Driven) -> None:
    panel = one.panel("parameters")
    greedy, sample = panel.mode.buttons()
    assert sample.isChecked()
    greedy.click()
    one.frames()
    assert panel.subtitle == "greedy"
    assert select.params(one.state).mode == "greedy_search"
    row(one, "top_k").slider.setValue(100)
    one.frames()
    assert sample.isChecked()
    assert panel.subtitle == "sampling"
    assert one.state.notices[-1].text == "Switched to sampling, because top_k has no effect in greedy mode."
    assert one.window.notices.strips[-1].text.text() == one.state.notices[-1].text


def test_temperature_zero_is_shown_as_greedy(one: Driven) -> None:
    row(one, "temperature").slider.setValue(0)
    one.frames()
    assert one.panel("parameters").subtitle == "greedy"


def test_stop_strings_and_ids_are_typed_as_lists(one: Driven, qtbot: object) -> None:
    type_into(one, qtbot, "stop_strings", '"\\n\\n", "END"')
    assert select.params(one.state).stop_strings == ("\n\n", "END")
    type_into(one, qtbot, "stop_strings", "The end, Fin")
    assert select.params(one.state).stop_strings == ("The end", "Fin")
    type_into(one, qtbot, "eos_token_id", "0, 2")
    assert select.params(one.state).eos_token_id == (0, 2)
    assert row(one, "eos_token_id").field.text() == "0, 2"
    type_into(one, qtbot, "eos_token_id", "x")
    assert select.params(one.state).eos_token_id == (0, 2)
    assert "eos_token_id cannot be" in one.state.notices[-1].text


def test_seed_is_typed_or_thrown_and_used_by_the_next_run(one: Driven, qtbot: object) -> None:
    panel = one.panel("parameters")
    panel.seed.setFocus()
    panel.seed.selectAll()
    qtbot.keyClicks(panel.seed, "1234")  # type: ignore[attr-defined]
    qtbot.keyClick(panel.seed, Qt.Key.Key_Return)  # type: ignore[attr-defined]
    one.do(i.Run())
    assert one.lab.sent(StartRun)[-1].spec.seed == 1234
    seen = {one.state.seed}
    for _ in range(5):
        panel.dice.click()
        seen.add(one.state.seed)
    assert len(seen) > 2
    panel.seed.selectAll()
    qtbot.keyClicks(panel.seed, "-3")  # type: ignore[attr-defined]
    qtbot.keyClick(panel.seed, Qt.Key.Key_Return)  # type: ignore[attr-defined]
    assert one.state.seed in seen
    assert "seed cannot be" in one.state.notices[-1].text


def test_plan_is_expected_before_a_run_and_core_s_own_during_it(one: Driven, qtbot: object) -> None:
    panel = one.panel("parameters")

    def planned() -> bool:
        one.frames()
        return ("length", "209", "9 + 200") in panel.plan.texts()

    qtbot.waitUntil(planned)  # type: ignore[attr-defined]
    assert ("mode", "sample", "model") in panel.plan.texts()
    assert ("stop", "eos 0", "model") in panel.plan.texts()
    one.do(i.Run())
    one.frames(2)
    assert panel.plan.texts() == [(p.name, p.value, p.reason) for p in plan_summary(one.state.run.started.plan)]
    one.do(i.Stop())
    one.do(i.SetParameter("max_new_tokens", 100))
    one.frames(2)
    assert ("length", "109", "9 + 100") in panel.plan.texts()


@pytest.mark.parametrize("name", [n for n, p in PARAMETERS.items() if p.kind in ("int", "float")])
def test_slider_positions_and_values_agree(name: str) -> None:
    scale = scale_of(PARAMETERS[name])
    assert scale.position(scale.low) == 0
    assert scale.position(scale.high) == TICKS
    for position in range(0, TICKS + 1, 50):
        value = scale.value(position)
        assert scale.low <= value <= scale.high
        assert scale.value(scale.position(value)) == pytest.approx(value, abs=2 * (scale.high - scale.low) / TICKS)


def test_numbers_keep_at_least_their_decimals() -> None:
    assert format_number(0.8, 2) == "0.80"
    assert format_number(0.8125, 2) == "0.8125"
    assert format_number(40, 0) == "40"
    assert format_number(1e-4, 2) == "0.0001"


def test_lists_survive_the_field() -> None:
    for name, values in (
        ("stop_strings", ()),
        ("stop_strings", ("a, b",)),
        ("stop_strings", ('"', "\n")),
        ("suppress_tokens", (0, 2)),
        ("bad_words_ids", ((1, 2), (3,))),
        ("sequence_bias", (((1, 2), -2.5),)),
    ):
        assert validate({name: parse(PARAMETERS[name], written(values))}) == {name: values}


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [("max_new_tokens", "1,000", 1000), ("max_new_tokens", "1,234,567", 1234567), ("temperature", "0,7", 0.7)],
)
def test_a_comma_stands_between_thousands_or_before_decimals(name: str, typed: str, meant: float) -> None:
    assert parse(PARAMETERS[name], typed) == meant
