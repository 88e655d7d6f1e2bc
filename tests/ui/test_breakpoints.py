"""Breakpoints on the real engine, with real clicks: the form, the stop, what is said, going on, what is remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.state import acting_intents as a
from app.state import intents as i
from app.state import select
from app.state.branch_intents import Rewind, ShowBranch
from core.contract import (
    AttentionAbove,
    AttentionQuery,
    CacheAbove,
    EntropyAbove,
    EveryTokens,
    ProbabilityBelow,
    RankAbove,
    ScaleHeads,
    TextMatches,
    TokenIn,
)
from tests.ui.acting import chosen_from_menu, written
from tests.ui.harness import Driven
from tests.ui.real import finished, live, opened

pytestmark = pytest.mark.qt_log_ignore("This plugin does not support")  # of menus that pop up offscreen


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", 14))
        driven.do(i.SetParameter("do_sample", False))
        driven.do(i.SetParameter("eos_token_id", ()))
        driven.window.workspace.cards["breakpoints"].toggleViewAction().trigger()
        driven.frames(2)
        yield driven


def stopped(one: Driven) -> None:
    live(one, lambda: select.is_paused(one.state) and bool(one.state.acting.hits))


def test_a_run_stops_is_looked_at_changed_and_goes_on(one: Driven) -> None:
    panel = one.panel("breakpoints")
    written(panel.form, "every", "5")
    one.do(a.AddBreakpoint(TextMatches("zebra")))
    one.do(i.Run())
    stopped(one)
    text = "Stopped at token 4: 5 tokens, a multiple of 5"
    assert one.window.statusbar.state.text() == text
    assert panel.subtitle == text
    assert one.state.selected == 4
    assert one.state.run.count == 5
    notes = [row.note.text() for row in panel.list.rows.values()]
    assert notes == ["stopped here", "not yet"]
    one.do(i.SelectStep(2))  # everything may be looked at
    one.do(a.AddIntervention(ScaleHeads(0, (0,))))  # and changed
    one.do(i.SetParameter("repetition_penalty", 1.3))
    live(one, lambda: one.state.acting.epoch is None and not one.state.pending)
    one.do(i.Step())
    live(one, lambda: one.state.run.count == 6 and select.is_paused(one.state))
    assert one.state.acting.hits == ()
    assert one.state.selected == 2  # the user had chosen it
    assert one.window.statusbar.state.text() == "Paused"
    one.do(i.TogglePause())
    stopped(one)
    assert (one.state.run.count, one.state.selected) == (10, 9)
    one.do(i.TogglePause())
    assert one.state.selected is None  # the newest is followed again
    live(one, lambda: finished(one))
    assert one.state.run.count == 14
    one.window.workspace.cards["breakpoints"].raise_()
    one.frames(2)
    assert [row.note.text() for row in panel.list.rows.values()] == ["2 hits", "never in this run"]
    assert [change.epoch for change in (*one.state.run.acts, *one.state.run.flags)] == [1, 2]


def test_the_form_makes_every_kind_and_says_what_is_wrong_in_place(one: Driven) -> None:
    form = one.panel("breakpoints").form
    written(form, "entropy", "4.5")
    written(form, "probability", "0.05")
    written(form, "rank", "3")
    written(form, "text", r"\d+")
    written(form, "token", "13, 198")
    written(form, "attention", "1", "2", "0", "0.25")
    form.choose("cache")
    form.fill("cache", "2", "MB")
    QTest.mouseClick(form.add, Qt.MouseButton.LeftButton)
    written(form, "every", "8")
    assert [b.breakpoint for b in one.state.acting.breaks] == [
        EntropyAbove(4.5),
        ProbabilityBelow(0.05),
        RankAbove(3),
        TextMatches(r"\d+"),
        TokenIn((13, 198)),
        AttentionAbove(1, 2, 0, 0.25),
        CacheAbove(2_000_000),
        EveryTokens(8),
    ]
    for kind, texts, words in (
        ("entropy", ("much",), "The entropy is a number"),
        ("probability", ("1.5",), "at most 1"),
        ("rank", ("1.5",), "The rank is a whole number"),
        ("text", ("(a",), "cannot be used"),
        ("token", ("",), "at least one token id"),
        ("every", ("0",), "at least 1"),
    ):
        written(form, kind, *texts)
        assert words in form.problem.text()
        assert form.problem.isVisible()
    assert len(one.state.acting.breaks) == 8
    assert one.state.notices == ()
    QTest.keyClicks(form.inputs["every"][0], "4")
    assert not form.problem.isVisible()


def test_attention_stops_the_run_by_its_weight(one: Driven) -> None:
    written(one.panel("breakpoints").form, "attention", "1", "2", "0", "0.03")
    one.do(i.Run())
    stopped(one)
    [hit] = one.state.acting.hits
    run = one.state.run
    query = run.prompt_tokens + hit.index - 1
    one.do(i.AskView("by hand", AttentionQuery(run.run_id, 1, heads=(2,), rows=(query, query + 1))))
    live(one, lambda: select.answer(one.state, "by hand") is not None)
    weight = float(select.answer(one.state, "by hand").answer.weights[0, 0, 0])
    assert hit.value == pytest.approx(weight, abs=1e-5)
    assert weight > 0.03
    assert f"head 1.2 pays {weight:.3g} > 0.03 to position 0" in one.window.statusbar.state.text()
    one.do(i.AskView("by hand", AttentionQuery(run.run_id, 1, heads=(2,), rows=(run.prompt_tokens - 1, query + 1))))
    live(one, lambda: select.answer(one.state, "by hand").answer.weights.shape[1] == hit.index + 1)
    before = select.answer(one.state, "by hand").answer.weights[0, :-1, 0]
    assert (before <= 0.03).all()  # it stopped at the first one


def test_a_pattern_that_takes_forever_is_told_and_the_run_ends_well(one: Driven) -> None:
    one.do(a.AddBreakpoint(TextMatches(r"(.|..)+[^\x00-\U0010ffff]")))
    one.do(i.SetParameter("max_new_tokens", 40))
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    assert one.state.run.count == 40
    [entry] = one.state.acting.breaks
    assert "took longer than" in entry.problem
    assert any("took longer than" in notice.text for notice in one.state.errors)


def test_a_token_of_the_output_becomes_a_breakpoint(one: Driven) -> None:
    one.do(i.SetParameter("max_new_tokens", 6))
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    flow, token = one.panel("output").flow, one.state.run.prompt_tokens + 3
    points = (QPoint(x, y) for y in range(4, 200, 6) for x in range(4, 600, 6))
    place = next(point for point in points if flow.token_at(point) == token)
    chosen_from_menu(flow, place, "Stop at")
    token_id = one.state.run.step(3).token_id
    assert [b.breakpoint for b in one.state.acting.breaks] == [TokenIn((token_id,))]
    one.do(i.Run())
    stopped(one)
    assert one.state.run.step(one.state.acting.hits[0].index).token_id == token_id
    assert "the token is" in one.window.statusbar.state.text()


def test_breakpoints_are_remembered_with_their_switch(qtbot: QtBot, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    with opened(settings) as one:
        one.do(a.AddBreakpoint(EntropyAbove(4.0)))
        one.do(a.AddBreakpoint(TextMatches(" end ")))
        one.do(a.SwitchBreakpoint(one.state.acting.breaks[0].break_id, False))
        one.frames(2)
    values = json.loads(settings.read_text(encoding="utf-8"))
    assert values["breakpoints"] == [["entropy>4.0", False], ["text~ end ", True]]
    values["breakpoints"].append(["nonsense", True])
    settings.write_text(json.dumps(values), encoding="utf-8")
    with opened(settings) as one:
        assert [(b.breakpoint, b.on) for b in one.state.acting.breaks] == [
            (EntropyAbove(4.0), False),
            (TextMatches(" end "), True),
        ]
        assert any("“nonsense” is no breakpoint" in notice.text for notice in one.state.errors)


def test_the_head_responsible_is_muted_and_a_branch_compared(one: Driven) -> None:
    written(one.panel("breakpoints").form, "every", "6")
    one.do(i.Run())
    stopped(one)
    first = one.state.run
    for head in range(one.state.model.heads):
        one.do(a.MuteHead(0, head))
    one.do(a.RemoveBreakpoint(None))
    one.do(Rewind(None))  # of the token it was stopped at
    live(one, lambda: one.state.run.branch == (first.run_id, 1) and select.is_paused(one.state))
    assert one.state.acting.hits == ()
    assert one.state.run.count == 5
    assert select.interventions(one.state.run, 4) == ()
    assert select.interventions(one.state.run) == (ScaleHeads(0, tuple(range(8))),)
    one.do(i.TogglePause())
    live(one, lambda: finished(one))
    branch = one.state.run
    assert branch.text()[: len("".join(first.columns.texts[:5]))] == "".join(first.columns.texts[:5])
    one.window.workspace.cards["timeline"].raise_()
    one.frames(2)
    assert one.panel("timeline")._flags[-1].index == 5
    one.do(ShowBranch(0))  # no token of it was chosen under the change, which was made for the branch
    live(one, lambda: one.state.run.branch_id == 0 and select.is_paused(one.state))
    live(one, lambda: one.state.acting.epoch is None)
    assert one.state.acting.interventions == select.interventions(one.state.run) == ()
    one.do(i.TogglePause())
    live(one, lambda: finished(one))
    assert one.state.run.count == 14
    assert one.state.run.finish.sequences[0] != branch.finish.sequences[0]
