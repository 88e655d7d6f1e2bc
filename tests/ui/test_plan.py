"""The Plan card and the constraint row: before a run, during it and after a mistake, on the real engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QLabel

from app.state import intents as i
from app.state import plan, select
from core.contract import Grammar, PreviewPlan, plan_steps, plan_summary
from tests.ui.harness import Driven, clipped, driven
from tests.ui.real import live, opened

pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.ini", size=(1440, 900)) as driven_window:
        live(driven_window, lambda: driven_window.state.plan is not None)
        driven_window.window.workspace.cards["plan"].raise_()
        driven_window.frames(3)
        yield driven_window


def texts(one: Driven, step: int) -> list[str]:
    """What an unfolded step shows."""
    return [
        label.text() for label in one.panel("plan").sections[step - 1].body.findChildren(QLabel) if label.isVisible()
    ]


def test_the_plan_is_there_before_a_run_and_is_that_of_the_run(one: Driven) -> None:
    panel = one.panel("plan")
    before = one.state.plan
    assert before is not None
    assert [section.step for section in panel.sections] == list(plan_steps(before))
    assert panel.subtitle == "of the next run"
    one.do(i.SetParameter("max_new_tokens", 25))
    live(one, lambda: one.state.plan is not before)
    one.do(i.Run())
    live(one, lambda: one.state.run is not None and one.state.run.finish is not None)
    assert one.state.run is not None
    assert one.state.run.started.plan == one.state.plan
    one.window.workspace.cards["parameters"].raise_()
    one.frames(2)
    assert one.panel("parameters").plan.texts() == [
        (line.name, line.value, line.reason) for line in plan_summary(one.state.run.started.plan)
    ]


def test_a_change_while_it_runs_is_in_the_plan_of_this_run(one: Driven) -> None:
    one.do(i.SetParameter("max_new_tokens", 400))
    one.do(i.Run())
    live(one, lambda: one.state.run is not None and one.state.run.count > 2)
    one.do(i.TogglePause())
    live(one, lambda: select.is_paused(one.state))
    assert one.panel("plan").subtitle == "of this run"
    one.do(i.SetParameter("top_p", 0.5))
    live(one, lambda: not one.state.pending)
    shown = plan.plan(one.state)
    assert shown is not None
    assert [stage.name for stage in shown.processors][-1] == "top_p"
    one.panel("plan").sections[6].unfold()
    one.frames(2)
    assert any("top_p" in text for text in texts(one, 7))
    one.do(i.Stop())
    live(one, lambda: not select.is_active(one.state))


def test_steps_unfold_to_decisions_with_reasons_and_warnings(one: Driven) -> None:
    panel = one.panel("plan")
    one.do(i.SetParameter("max_new_tokens", 4000))
    live(one, lambda: one.state.plan is not None and one.state.plan.length.limited)
    heading = panel.sections[3].heading
    assert heading.accessibleName() == "4. Length"
    assert "512 positions" in heading.accessibleDescription()
    heading.click()
    one.frames(2)
    shown = texts(one, 4)
    assert shown[0].startswith("⚠ The model's 512 positions end the run")
    assert "at most 4,000" in shown
    panel.fold.click()
    one.frames()
    assert not any(section.body.isVisible() for section in panel.sections)
    panel.fold.click()
    one.frames(2)
    assert all(section.body.isVisible() for section in panel.sections)
    assert clipped(panel) == []


def test_a_constraint_is_typed_and_followed(one: Driven) -> None:
    row = one.panel("parameters").constraint
    one.window.workspace.cards["parameters"].raise_()
    one.frames(2)
    row._kind_chosen("regex")
    live(one, lambda: one.state.plan_error is not None)
    assert "is empty" in one.panel("parameters").plan_problem.text()
    assert not row.text.isHidden()
    row.text.setPlainText(r" (yes|no), [a-z]{3,6}")
    live(one, lambda: one.state.plan_error is None)
    assert one.state.plan is not None
    assert one.state.plan.allowed_first is not None
    one.do(i.Run())
    live(one, lambda: one.state.run is not None and one.state.run.finish is not None)
    assert one.state.run is not None
    assert re.fullmatch(r" (yes|no), [a-z]{3,6}", one.state.run.text())
    assert one.state.run.step(0).allowed_tokens == one.state.plan.allowed_first
    long = "\n".join(f"choice {n:,}" for n in range(30_000))
    one.do(i.SetGrammar(Grammar("choice", long)))
    one.frames(2)
    row._kind_chosen("regex")
    assert one.state.grammar == Grammar("regex", long), "of a long text, too, all of it"
    row._kind_chosen("none")
    one.frames(2)
    assert one.state.grammar is None
    assert row.text.isHidden()


def test_a_mistake_is_one_sentence_and_the_last_plan_stays(one: Driven) -> None:
    panel = one.panel("plan")
    one.do(i.SetGrammar(Grammar("json_schema", '{"type":')))
    live(one, lambda: one.state.plan_error is not None)
    assert panel.message.text().startswith("The JSON schema cannot be read")
    assert panel.sections[0].isVisible()
    one.do(i.SetGrammar(Grammar("json_schema", json.dumps({"type": "boolean"}))))
    live(one, lambda: one.state.plan_error is None)
    assert panel.message.isHidden()


def test_a_constraint_is_undone_like_any_other_edit(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.ini") as one:
        one.do(i.SetGrammar(Grammar("regex", "")))
        for typed in ("a", "ab", "abc"):
            one.do(i.SetGrammar(Grammar("regex", typed)))
        one.do(i.Undo())
        assert one.state.grammar == Grammar("regex", "")
        one.do(i.Undo())
        assert one.state.grammar is None
        one.do(i.Redo())
        one.do(i.Redo())
        assert one.state.grammar == Grammar("regex", "abc")
        one.frames(2)
        assert one.panel("parameters").constraint.text.toPlainText() == "abc"


def test_core_is_asked_when_the_next_run_would_be_another_one(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.ini") as one:
        one.do(i.TokenizeDraft())
        asked = len(one.lab.sent(PreviewPlan))
        one.do(i.SetTheme("dark"))
        one.do(i.EditText("typing asks once it rests"))
        assert len(one.lab.sent(PreviewPlan)) == asked
        one.do(i.SetParameter("top_k", 3))
        one.do(i.SetSeed(8))
        one.do(i.SetGrammar(Grammar("regex", "a")))
        newest = one.lab.sent(PreviewPlan)[-1]
        assert len(one.lab.sent(PreviewPlan)) == asked + 3
        assert newest.generation == one.state.plan_generation
        assert newest.spec == select.run_spec(one.state)


def test_before_a_model_the_card_says_what_will_appear(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.ini", load=False) as one:
        one.window.workspace.cards["plan"].raise_()
        one.frames(2)
        assert "Load a model" in one.panel("plan").message.text()
        assert one.panel("plan").fold.isHidden()


@pytest.mark.parametrize("layout", ["sample", "everything"])
def test_it_is_the_second_tab_behind_parameters(layout: str, tmp_path: Path) -> None:
    with driven(tmp_path / "settings.ini") as one:
        one.do(i.SetLayout(layout))  # type: ignore[arg-type]
        one.frames(3)
        cards = one.window.workspace.cards
        assert one.window.workspace.tabifiedDockWidgets(cards["parameters"]) == [cards["plan"]]
        one.do(i.SetLayout("cache"))
        one.frames(3)
        assert not cards["plan"].isVisible()
