"""Every mode live in the window on tiny-gpt2: its card opens, and shows what the step really did."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt

from app.panels import tables
from app.panels.cache_words import storage
from app.state import intents as i
from app.state import select
from app.widgets.mode_row import ModeRow
from core.contract import BeamDetail, Grammar
from core.models.loaded import LoadedModel
from tests.models import build_draft
from tests.ui.harness import Driven
from tests.ui.real import answered, finished, live, opened

pytestmark = pytest.mark.usefixtures("qapp")
PROMPT = "Once upon a time there was a little fox. The little fox"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.json") as driven_window:
        driven_window.do(i.EditText(PROMPT))
        driven_window.do(i.SetParameter("max_new_tokens", 16))
        yield driven_window


def run(one: Driven, mode: str, **params: object) -> None:
    one.do(i.ChooseMode(mode))
    for name, value in params.items():
        one.do(i.SetParameter(name, value))
    one.do(i.Run())
    live(one, lambda: finished(one))
    assert one.state.run is not None
    assert one.state.run.finish is not None, [n.text for n in one.state.notices]
    assert one.state.run.finish.error is None


def test_contrastive_search_shows_what_was_weighed_against_sameness(one: Driven) -> None:
    run(one, "contrastive")
    assert one.window.workspace.cards["mode"].isVisible()
    one.do(i.SelectStep(5))
    one.frames(2)
    rows = one.panel("mode").rows.rows
    assert len(rows) == 4
    scores = [row.values[2] for row in rows]
    assert rows[int(np.argmax(scores))].chosen
    for row in rows:
        probability, penalty, score = row.values
        assert score == pytest.approx(0.4 * probability - 0.6 * penalty, abs=1e-4)


def test_dola_shows_the_divergence_of_each_layer(one: Driven) -> None:
    run(one, "dola")
    rows = one.panel("mode").rows.rows
    assert [row.name for row in rows] == ["layer 3", "layer 5"]
    assert max(rows, key=lambda row: row.values[0]).chosen


def test_prompt_lookup_shows_what_was_accepted_and_where_it_came_from(one: Driven) -> None:
    run(one, "lookup")
    shown = one.state.run
    assert shown is not None
    copied = next(s.id.index for s in shown.steps() if s.detail is not None and s.detail.drafted)
    one.do(i.SelectStep(copied))
    one.frames(2)
    panel = one.panel("mode")
    outcomes = {row.texts[2] for row in panel.rows.rows}
    assert outcomes <= {"accepted", "refused", "never looked at"}
    assert all(row.struck == (row.texts[2] != "accepted") for row in panel.rows.rows)
    assert panel.words.isVisible()
    assert panel.words.whole.startswith("copied from positions")
    detail = shown.step(copied).detail
    for size in ((1440, 900), (1024, 640)):
        one.window.resize(*size)
        one.do(i.SetLayout("sample"))
        one.frames(3)
        assert panel.words.width() == panel.width()
        assert str(detail.match[0]) in panel.words.text()  # where it came from is read in the narrowest card
        assert "accepted" in panel.words.text()
    marks, ids = one.panel("output").flow._marks, [*shown.prompt.token_ids, *(s.token_id for s in shown.steps())]
    (there, here), (start, stop) = marks.matched, marks.copied
    assert ids[there[0] : there[1]] == ids[here[0] : here[1]]
    assert tuple(ids[start:stop]) == detail.drafted
    assert here[1] == shown.prompt_tokens + copied - detail.place


def test_words_without_numbers_beside_them_are_written_in_full(one: Driven) -> None:
    run(one, "lookup")
    shown = one.state.run
    assert shown is not None
    one.do(i.SelectStep(0))  # the pass of the prompt drafts nothing
    rows = one.panel("mode").rows
    for size in ((1024, 640), (1440, 900)):
        one.window.resize(*size)
        one.do(i.SetLayout("sample"))
        one.frames(3)
        [row] = rows.rows
        assert row.name == "nothing drafted"
        assert rows._mono.elided(row.name, rows.name_room(row)) == row.name
    assert rows._ui.elided(rows._name, rows.name_room(None)) == rows._name == "drafted by prompt lookup"


def test_a_draft_of_the_first_layers_shows_both_probabilities(one: Driven) -> None:
    run(one, "early_exit", assistant_confidence_threshold=0.0)
    shown = one.state.run
    assert shown is not None
    drafted = next(s.id.index for s in shown.steps() if s.detail is not None and s.detail.drafted)
    one.do(i.SelectStep(drafted))
    one.frames(2)
    first = one.panel("mode").rows.rows[0]
    detail = shown.step(drafted).detail
    assert first.values[:2] == (detail.probability, detail.draft_probability)


def test_another_smaller_model_drafts_and_the_text_stays_the_same(one: Driven, tmp_path: Path) -> None:
    run(one, "plain", do_sample=False)
    alone = one.state.run
    assert alone is not None
    one.do(i.ChooseMode("draft"))
    one.do(i.SetModeText("assistant", str(build_draft(tmp_path / "draft", Path("resources/models/tiny-gpt2")))))
    one.do(i.SetParameter("do_sample", False))
    one.do(i.SetParameter("assistant_confidence_threshold", 0.0))
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None and one.state.run.run_id != alone.run_id)
    shown = one.state.run
    assert shown is not None
    assert shown.finish is not None
    assert shown.finish.error is None
    assert shown.plan.mode == "assisted_generation"
    assert [s.token_id for s in shown.steps()] == [s.token_id for s in alone.steps()]
    details = [s.detail for s in shown.steps() if s.detail is not None and s.detail.drafted]
    assert {d.accepted for d in details} == {True, False}
    one.do(i.SelectStep(next(s.id.index for s in shown.steps() if s.detail is not None and s.detail.drafted)))
    one.frames(2)
    assert len(one.panel("mode").rows.rows) == len(details[0].drafted)
    assert "drafted tokens accepted" in one.panel("mode").words.whole
    assert shown.plan.beside[0].name == "draft, at most"
    assert "draft model’s cache" in storage(shown, shown.step(shown.count - 1)).replace("\u00a0", " ")


@pytest.mark.parametrize("size", [(1440, 900), (1024, 640)])
def test_cards_of_the_mode_before_leave_and_those_of_this_one_are_in_sight(
    size: tuple[int, int], tmp_path: Path
) -> None:
    with opened(tmp_path / "settings.json", size=size) as one:
        one.do(i.EditText(PROMPT))
        one.do(i.SetParameter("max_new_tokens", 6))
        cards = one.window.workspace.cards
        run(one, "beams")
        live(one, lambda: cards["beams"].isVisible())
        run(one, "contrastive")
        live(one, lambda: cards["beams"].isHidden() and not cards["mode"].visibleRegion().isEmpty())
        rows = one.panel("mode").rows
        assert len(rows.rows) == 4
        assert rows.verticalScrollBar().maximum() == 0, "all candidates are in sight"


def test_what_will_run_is_said_before_it_runs(one: Driven) -> None:
    row = one.panel("parameters").mode_row
    for mode, greedy, drawn in (
        ("beams", "the best as a whole wins", "beam sampling: they are drawn, because do_sample is on"),
        ("lookup", "tried as a draft.", "Tokens are drawn, because do_sample is on"),
        ("guidance", "to a negative prompt.", "Tokens are drawn, because do_sample is on"),
    ):
        one.do(i.ChooseMode(mode))
        for sampled, words in ((False, greedy), (True, drawn)):
            one.do(i.SetParameter("do_sample", sampled))
            one.frames(1)
            assert row.doc.isVisible()
            assert words in row.doc.text()
            assert ("drawn" in row.doc.text()) == sampled
        one.do(i.SetParameter("temperature", 0.0))  # which means the likeliest
        one.frames(1)
        assert "drawn" not in row.doc.text()
        one.do(i.ResetParameter("temperature"))
        if mode == "beams":
            one.do(i.Run())
            live(one, lambda: finished(one))
            assert one.state.run is not None
            assert one.state.run.plan.mode == "beam_sample"


def test_an_empty_negative_prompt_does_what_its_field_says(one: Driven, tiny_gpt2: LoadedModel) -> None:
    one.do(i.SetParameter("do_sample", False))
    one.do(i.ChooseMode("guidance"))
    one.do(i.SetParameter("max_new_tokens", 8))
    one.frames(1)
    field = next(row for row in one.window.findChildren(ModeRow) if row.text.isVisible()).text
    assert "empty: the last token of the prompt" in field.placeholderText()
    said = []
    last = tiny_gpt2.text.encode(one.state.draft.text)[-1]
    for negative in ("", "It was a sad day.", "", tiny_gpt2.text.decode([last])):
        one.do(i.SetModeText("negative", negative))
        one.do(i.Run())
        live(one, lambda: finished(one))
        assert one.state.run is not None
        said.append([step.token_id for step in one.state.run.steps()])
    assert said[0] == said[2] == said[3] != said[1]


def test_guidance_shows_three_distributions(one: Driven) -> None:
    one.do(i.ChooseMode("guidance"))
    one.do(i.SetModeText("negative", "It was a sad day."))
    one.do(i.Run())
    live(one, lambda: finished(one))
    rows = one.panel("mode").rows.rows
    shown = one.state.run
    assert shown is not None
    detail = shown.step(shown.count - 1).guidance
    assert detail is not None
    assert rows[0].values == tuple(
        math.exp(float(v[0])) for v in (detail.conditional, detail.unconditional, detail.guided)
    )
    assert any(row.chosen for row in rows)


@pytest.mark.parametrize("mode", ["beams", "groups"])
def test_beams_are_lanes_and_any_of_them_can_be_looked_at(one: Driven, qtbot: object, mode: str) -> None:
    run(one, mode, num_return_sequences=2)
    assert one.window.workspace.cards["beams"].isVisible()
    panel, shown = one.panel("beams"), one.state.run
    assert shown is not None
    lanes = shown.sequences.lanes[0]
    assert panel.lanes.steps == len(lanes) == 16
    for at, step in enumerate(lanes[1:], start=1):
        for snapshot in step.values():
            assert isinstance(snapshot.detail, BeamDetail)
            assert snapshot.detail.parent in lanes[at - 1]
    assert shown.text() == shown.finish.texts[0]  # type: ignore[union-attr]
    for size, least in (((1440, 900), 4), ((1024, 640), 3)):
        one.window.resize(*size)
        one.do(i.SetLayout("sample"))
        one.frames(3)
        if not one.window.workspace.cards["beams"].isVisible():
            one.window.workspace.cards["beams"].toggleViewAction().trigger()
        one.frames(5)
        assert panel.lanes.isVisible()
        assert panel.lanes.viewport().height() >= 18 + least * 26
    one.do(i.SelectStep(2))
    one.frames(2)
    assert panel.lanes.viewport().rect().contains(panel.lanes._box(2, panel.lanes._path[2]).toAlignedRect())
    one.do(i.SelectStep(None))
    panel.lanes.horizontalScrollBar().setValue(panel.lanes.horizontalScrollBar().maximum())
    panel.lanes.verticalScrollBar().setValue(0)
    beam = 0 if shown.beam else 1
    box = panel.lanes._box(15, beam)
    assert panel.lanes.viewport().rect().contains(box.center().toPoint())
    qtbot.mouseClick(panel.lanes.viewport(), Qt.MouseButton.LeftButton, pos=box.center().toPoint())  # type: ignore[attr-defined]
    live(one, lambda: answered(one))
    other = one.state.run
    assert other is not None
    assert (other.beam, other.count) == (beam, 16)
    assert other.key != shown.key
    assert all(answer.error is None for answer in one.state.answers.values())
    assert one.panel("output").flow.tokens == other.prompt_tokens + 16


def test_constrained_beams_show_their_progress(one: Driven) -> None:
    one.do(i.ChooseMode("constrained"))
    one.do(i.SetModeText("force_words", " castle"))
    one.do(i.Run())
    live(one, lambda: finished(one))
    shown = one.state.run
    assert shown is not None
    assert " castle" in shown.finish.texts[0]  # type: ignore[union-attr]
    newest = shown.sequences.lanes[0][-1]
    assert any(s.detail.needed and s.detail.fulfilled == s.detail.needed for s in newest.values())  # type: ignore[union-attr]
    lanes = one.panel("beams").lanes
    assert lanes._titles == ("bank", "constraints")
    for beam, cell in lanes._cells[-1].items():
        detail = newest[beam].detail
        assert cell.notes == (str(detail.bank), f"{detail.fulfilled[0]}/{detail.needed[0]}")  # type: ignore[union-attr]
        assert cell.progress == (detail.fulfilled[0] / detail.needed[0],)  # type: ignore[union-attr]
    columns = {column.title: column for column in tables.beams_table(shown).columns}
    assert {"constraints", "bank"} <= set(columns)


def test_groups_write_the_penalty_of_each_token_also_in_the_table(one: Driven) -> None:
    run(one, "groups", diversity_penalty=2.0)
    shown = one.state.run
    assert shown is not None
    lanes, steps = one.panel("beams").lanes, shown.sequences.lanes[0]
    assert lanes._titles == ("penalty",)
    assert any(s.detail.penalty for at in steps for s in at.values())  # type: ignore[union-attr]
    columns = {column.title: column for column in tables.beams_table(shown).columns}
    penalties = [s.detail.penalty for at in steps for _, s in sorted(at.items())]  # type: ignore[union-attr]
    assert list(columns["diversity penalty"].values) == penalties
    assert not any("1000" in cell.score for step in lanes._cells for cell in step.values())


def test_the_waterfall_shows_a_past_step_under_another_temperature_and_its_token(one: Driven) -> None:
    one.do(i.SetParameter("top_k", 20))
    one.do(i.Run())
    live(one, lambda: finished(one))
    one.do(i.SetLayout("sample"))
    one.do(i.SelectStep(6))
    panel = one.panel("waterfall")
    live(one, lambda: panel._answer is not None and panel._answer.query.position == one.state.run.prompt_tokens + 5)  # type: ignore[union-attr]
    names = [line.name for line in panel.rows.lines]
    assert names[0] == "model"
    assert names[-1] == "final"
    assert "top_k" in names
    assert panel._answer.token_id == one.state.run.step(6).token_id  # type: ignore[union-attr]
    before = panel._answer.final_entropy_bits
    one.do(i.SetParameter("temperature", 2.0))
    live(one, lambda: answered(one) and panel._answer.query.changes)
    assert panel._answer.final_entropy_bits > before
    assert any(line.changed for line in panel.rows.lines)
    for size in ((1440, 900), (1024, 640)):
        one.window.resize(*size)
        one.do(i.SetLayout("sample"))
        one.frames(3)
        assert panel.outcome.isVisible()
        assert panel.outcome.text()
        assert panel.which.isVisible()
    panel.which.chosen.emit(0)
    live(one, lambda: answered(one) and not panel._answer.query.changes)
    assert panel._answer.final_entropy_bits == pytest.approx(before)


def test_a_mode_that_cannot_change_now_says_so_and_keeps_the_run(one: Driven) -> None:
    one.do(i.SetParameter("max_new_tokens", 400))
    one.do(i.Run())
    live(one, lambda: one.state.run is not None and one.state.run.count > 2)
    one.do(i.ChooseMode("beams"))
    live(one, lambda: bool(one.state.notices))
    assert "next run" in one.state.notices[-1].text
    assert select.is_active(one.state)
    panel = one.panel("parameters")
    assert panel.header_right == "next run"
    assert "acts at the next run" in panel.rows["num_beams"].field.toolTip()
    one.do(i.SetParameter("temperature", 0.5))  # goes on acting at once
    live(one, lambda: one.state.run.params.temperature == 0.5)  # type: ignore[union-attr]
    one.do(i.Stop())
    live(one, lambda: finished(one))
    assert panel.header_right == ""
    one.do(i.SetParameter("max_new_tokens", 6))
    one.do(i.Run())
    live(one, lambda: one.state.run.params.num_beams == 4 and finished(one))  # type: ignore[union-attr]


def test_the_waterfall_follows_the_sliders_of_guidance_and_of_dola(one: Driven) -> None:
    panel = one.panel("waterfall")
    for mode, name, value in (("guidance", "guidance_scale", 4.0), ("dola", "dola_layers", "low")):
        run(one, mode)
        one.do(i.SetLayout("sample"))
        one.do(i.SelectStep(6))
        one.do(i.SetParameter(name, value))
        live(one, lambda name=name: answered(one) and panel._answer and name in panel._answer.query.changes)  # type: ignore[misc]
        changed = next(line for line in panel.rows.lines if line.changed)
        assert changed.name == name
        assert panel._answer.token_id is not None


def test_the_waterfall_of_constrained_beams_says_that_nothing_has_changed(one: Driven) -> None:
    one.do(i.ChooseMode("constrained"))
    one.do(i.SetModeText("force_words", " moon"))
    for name, value in (("min_length", 15), ("min_new_tokens", 3)):  # of which the first is given up for the second
        one.do(i.SetParameter(name, value))
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    one.do(i.SetLayout("sample"))
    one.do(i.SelectStep(6))
    panel = one.panel("waterfall")
    live(one, lambda: answered(one) and panel._answer is not None)
    assert not panel._answer.query.changes
    assert not panel.which.isEnabled()
    assert panel._answer.mode == "constrained_beam_search"


def test_a_beam_that_nothing_is_left_for_has_no_draw_to_show(one: Driven) -> None:
    one.do(i.EditText("Once upon a time, a lighthouse keeper named Mara"))
    one.do(i.SetGrammar(Grammar("choice", '["a","b"]')))
    run(one, "groups")
    shown = one.state.run
    assert shown is not None
    steps = [(at, beam, s) for at, lanes in enumerate(shown.sequences.lanes[0]) for beam, s in lanes.items()]
    dead = [(at, beam) for at, beam, s in steps if s.top.final_logprob.max() == -math.inf]
    assert dead
    for at, beam in dead:
        one.do(i.ShowBeam(0, beam, at))
        one.frames(2)
        step = select.step(one.state)
        assert step is not None
        assert (step.id.beam, step.id.index) == (beam, at)
        assert one.panel("candidates").needle._segments == ()
