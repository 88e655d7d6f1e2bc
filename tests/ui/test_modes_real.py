"""Every mode live in the window on tiny-gpt2: its card opens, and shows what the step really did."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt

from app.state import intents as i
from app.state import select
from core.contract import BeamDetail
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
    assert panel.words._wordings[0].startswith("copied from positions")


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
    one.do(i.Stop())
    live(one, lambda: finished(one))
