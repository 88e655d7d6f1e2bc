"""The output panel: colours, selection, the attention row over the text, tooltips, empty states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.panels.output import ROW_SLOT, OutputPanel
from app.state.intents import SelectStep, SetColour, WithdrawView
from app.theme import fonts
from app.widgets import step_text
from core.contract import AttentionQuery, PrefillProgress, RunFinished, ViewStatus
from tests.ui import synthetic

P = len(synthetic.PROMPT)


def make(qtbot: QtBot, bench: synthetic.Bench) -> OutputPanel:
    fonts.load_fonts()
    panel = OutputPanel(bench.dispatch)
    qtbot.addWidget(panel)
    panel.resize(640, 400)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.render(bench.state)
    return panel


@pytest.fixture
def bench() -> synthetic.Bench:
    return synthetic.Bench(synthetic.state(40))


def click(qtbot: QtBot, panel: OutputPanel, token: int) -> None:
    place = panel.flow.token_rect(token).center()
    qtbot.mouseClick(panel.flow.viewport(), Qt.MouseButton.LeftButton, pos=place)
    panel.render(panel._state)  # type: ignore[arg-type]


def test_new_steps_are_appended_and_the_colours_follow_the_quantity(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    assert panel.flow.tokens == P + 40
    bench.grow(7)
    panel.render(bench.state)
    assert panel.flow.tokens == P + 47
    by_probability = list(panel.flow._marks.fills)
    assert by_probability[:P] == [-1] * P
    panel._choose_colour("entropy")
    panel.render(bench.state)
    assert bench.intents[-1] == SetColour("entropy")
    assert list(panel.flow._marks.fills) != by_probability
    panel._choose_colour("probability")
    panel.render(bench.state)
    assert list(panel.flow._marks.fills) == by_probability


def test_the_legend_has_range_and_unit(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    assert panel.legend._ends == ("0", "1")
    bench.dispatch(SetColour("surprisal"))
    panel.render(bench.state)
    assert "bits" in panel.legend._ends[0]
    assert "bits" in panel.legend.toolTip()


def test_a_click_selects_a_step_and_one_on_the_newest_follows_again(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    click(qtbot, panel, P + 12)
    assert bench.intents[-1] == SelectStep(12)
    click(qtbot, panel, P + 39)
    assert bench.intents[-1] == SelectStep(None)
    click(qtbot, panel, 2)
    assert bench.intents[-1] == SelectStep(2 - P)  # of the prompt
    panel.render(bench.state)
    assert panel.flow._marks.selected == 2
    assert f"Prompt token 2 of {P}" in panel.describe()


def test_the_row_of_the_selected_token_is_asked_for_and_drawn(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    assert bench.asked(ROW_SLOT) == []
    bench.dispatch(SelectStep(12))
    panel.render(bench.state)
    panel.render(bench.state)
    position = P - 1 + 12
    assert bench.asked(ROW_SLOT) == [AttentionQuery(1, 0, None, "mean", rows=(position, position + 1))]
    bench.answer(ROW_SLOT)
    panel.render(bench.state)
    assert len(panel.flow._marks.underlines) == position + 1
    assert max(panel.flow._marks.underlines) > 100
    bench.dispatch(SelectStep(13))
    panel.render(bench.state)
    assert not panel.flow._marks.underlines  # never the row of another token
    panel.overlay.setChecked(False)
    bench.answer(ROW_SLOT)
    panel.render(bench.state)
    assert not panel.flow._marks.underlines


def test_colouring_by_attention_follows_the_newest_one_question_at_a_time(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    panel._choose_colour("attention")
    for _ in range(3):
        bench.grow(1)
        panel.render(bench.state)
    assert len(bench.asked(ROW_SLOT)) == 1
    bench.answer(ROW_SLOT)
    panel.render(bench.state)
    assert len(bench.asked(ROW_SLOT)) == 2
    fills = np.array(panel.flow._marks.fills)
    assert fills[:P].min() >= 0  # prompt tokens are attended to as well
    assert fills[-1] == -1


def test_without_attention_nothing_is_asked(qtbot: QtBot) -> None:
    info = replace(synthetic.model(), views=(ViewStatus("attention", False, "The self-test failed."),))
    bench = synthetic.Bench(synthetic.state(20, info))
    panel = make(qtbot, bench)
    bench.dispatch(SelectStep(3))
    panel.render(bench.state)
    assert bench.asked(ROW_SLOT) == []


def test_hidden_it_withdraws_its_question(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    bench.dispatch(SelectStep(3))
    panel.render(bench.state)
    panel.hidden()
    assert bench.intents[-1] == WithdrawView(ROW_SLOT)


def test_unfinished_characters_show_once_complete_and_the_tooltip_has_their_bytes(qtbot: QtBot) -> None:
    bench = synthetic.Bench(synthetic.state(3))
    run = bench.state.run
    assert run is not None
    rng = np.random.default_rng(1)
    for index, (piece, text, raw) in enumerate([("\\xE5", "", b"\xe5"), ("\\x85\\x89", "光", b"\x85\x89")], 3):
        step = replace(synthetic.snapshot(run.model, index, rng), piece=piece, text=text, token_bytes=raw)
        run.columns.append(step)
    bench.state = replace(bench.state, run=replace(run, count=5))
    panel = make(qtbot, bench)
    assert panel.flow.text(panel.flow.tokens - 2, panel.flow.tokens - 1) == "光"
    assert panel.flow.token_rect(panel.flow.tokens - 2).isEmpty()
    assert "E5 + 85 89" in panel.flow.tooltip(P + 4)


def test_tooltips_are_escaped_and_have_the_alternatives(qtbot: QtBot, bench: synthetic.Bench) -> None:
    run = bench.state.run
    assert run is not None
    evil = replace(run.columns.snapshots[5], piece="<b>x</b>", text="<b>x</b>")
    run.columns.snapshots[5] = evil
    panel = make(qtbot, bench)
    text = panel.flow.tooltip(P + 5)
    assert "&lt;b&gt;x" in text
    assert "entropy" in text
    assert text.count("monospace") == step_text.ALTERNATIVES
    assert "prompt position 2" in panel.flow.tooltip(2)


def test_a_special_token_shows_by_name_but_is_not_copied(qtbot: QtBot, bench: synthetic.Bench) -> None:
    run = bench.state.run
    assert run is not None
    end = replace(synthetic.snapshot(run.model, 40, np.random.default_rng(0)), piece="<|im_end|>", text="")
    run.columns.append(end)
    bench.state = replace(bench.state, run=replace(run, count=41))
    panel = make(qtbot, bench)
    ((_, chip),) = panel.flow._layout.of_token(panel.flow.tokens - 1)
    assert chip.text == "<|im_end|>"
    assert panel.flow.text(P + 40, P + 40) == ""


def test_states_without_tokens_say_what_will_come(qtbot: QtBot, bench: synthetic.Bench) -> None:
    run = bench.state.run
    assert run is not None
    panel = make(qtbot, synthetic.Bench(replace(bench.state, run=None)))
    assert panel.flow._empty[1] == "Press Ctrl+Enter to run the prompt."
    fresh = replace(synthetic.state(0).run, prefill=PrefillProgress(1, 512, 2048, 10.0))  # type: ignore[type-var]
    panel.render(replace(bench.state, run=fresh))
    assert panel.progress.text() == "reading 512 of 2,048"
    panel.resize(900, 300)
    assert panel.progress.text() == "reading the prompt, 512 of 2,048 tokens"
    done = RunFinished(1, "length", ("length",), ("",), ((),), (P,), 40, 1.0, 2.0)
    panel.render(replace(bench.state, run=replace(run, finish=done)))
    assert panel.progress.text() == "ended at max_new_tokens"


def test_another_run_starts_over(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    other = synthetic.state(4).run
    assert other is not None
    other = replace(other, started=replace(other.started, run_id=2))
    panel.render(replace(bench.state, run=other))
    assert panel.flow.tokens == P + 4


def test_follow_newest_is_offered_while_another_step_is_shown(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    assert not panel.newest.isVisible()
    bench.dispatch(SelectStep(3))
    panel.render(bench.state)
    assert panel.newest.isVisible()
    panel.newest.click()
    panel.render(bench.state)
    assert bench.state.selected is None
    assert not panel.newest.isVisible()


def test_the_selected_step_is_described_in_words(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    bench.dispatch(SelectStep(3))
    panel.render(bench.state)
    assert panel.accessibleDescription().startswith("Token 3 of 40: ")
    assert "entropy" in panel.accessibleDescription()


def test_a_row_whose_records_were_dropped_can_be_recomputed(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    bench.dispatch(SelectStep(3))
    panel.render(bench.state)
    for source in ("attention", "column", "rollout"):
        panel._recompute = None
        panel._choose_colour(source)
        bench.decline(ROW_SLOT, "The records were dropped.", can_recompute=True)
        panel.render(bench.state)
        assert panel.again.isVisibleTo(panel), source
        panel.again.click()
        panel.render(bench.state)
        assert bench.asked(ROW_SLOT)[-1].recompute  # type: ignore[union-attr]
        assert not panel.again.isVisibleTo(panel)
        bench.answer(ROW_SLOT)
        panel.render(bench.state)
        assert not panel.again.isVisibleTo(panel)
