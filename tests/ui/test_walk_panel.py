"""The walk card: which passes it asks for, and the tree of both."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from app.panels.walk import FIRST_SLOT, LATER_SLOT, WalkPanel
from app.state.intents import Announce, AskView, SelectStep, WithdrawView
from app.theme import fonts
from app.widgets.card import Card
from app.widgets.walk_tree import FIRST, LATER, STAGE, merged
from core.contract import TensorFact, WalkNode, WalkQuery, WorkerState
from tests.ui import looking, synthetic

P = len(synthetic.PROMPT)


@pytest.fixture
def bench() -> synthetic.Bench:
    return synthetic.Bench(replace(synthetic.state(40), worker=WorkerState.PAUSED))


def make(qtbot: QtBot, bench: synthetic.Bench) -> WalkPanel:
    fonts.load_fonts()
    panel = WalkPanel(bench.dispatch)
    qtbot.addWidget(panel)
    panel.resize(620, 400)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.render(bench.state)
    return panel


def serve(panel: WalkPanel, bench: synthetic.Bench, *slots: str) -> None:
    for slot in slots or (FIRST_SLOT, LATER_SLOT):
        bench.answer(slot)
    panel.render(bench.state)


def test_the_first_pass_stands_beside_that_of_the_shown_step(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    assert bench.asked(FIRST_SLOT) == [WalkQuery(1, (0, P))]
    assert bench.asked(LATER_SLOT) == [WalkQuery(1, (P + 38, P + 39))]
    serve(panel, bench)
    cells = panel.tree.texts()
    assert cells["h.0.attn#1"][FIRST] == f"1×{P}×8"
    assert cells["h.0.attn#1"][LATER] == "1×1×8"
    assert cells["h.0.attn#1:cache"][STAGE] == "cache append"
    assert cells["h.0.attn#1:cache"][FIRST] == f"0 → {P} positions"
    assert cells["h.0.attn#1:cache"][LATER] == f"{P + 38} → {P + 39} positions"
    assert panel.tree.headerItem().text(FIRST) == f"first: {P} + 0 past"
    assert panel.tree.headerItem().text(LATER) == f"later: 1 + {P + 38} past"
    assert f"fed 1 after {P + 38} in the cache" in panel.describe()


def test_a_token_type_is_given_only_where_the_family_takes_one(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    assert panel.token_type.isHidden()
    run = bench.state.run
    assert run is not None
    info = replace(run.model, family="gpt2")
    started = replace(run.started, run_id=2)
    bench.state = replace(bench.state, run=replace(run, started=started, model=info), asked={}, answers={})
    panel.render(bench.state)
    assert not panel.token_type.isHidden()
    assert bench.asked(FIRST_SLOT)[-1] == WalkQuery(2, (0, P))

    def choose(text: str) -> None:
        panel.token_type.setFocus()
        panel.token_type.selectAll()
        qtbot.keyClicks(panel.token_type, text)
        if not text:
            qtbot.keyClick(panel.token_type, Qt.Key.Key_Delete)
        qtbot.keyClick(panel.token_type, Qt.Key.Key_Return)

    choose("7")
    assert bench.asked(FIRST_SLOT)[-1] == WalkQuery(2, (0, P), token_type=7)
    assert bench.asked(LATER_SLOT)[-1] == WalkQuery(2, (P + 38, P + 39), token_type=7)
    choose("")
    assert bench.asked(FIRST_SLOT)[-1] == WalkQuery(2, (0, P))
    for wrong in ("many", "-1", str(info.vocab_size)):
        choose(wrong)
        told = bench.intents[-1]
        assert isinstance(told, Announce)
        assert f"“{wrong}” is no token type" in told.text
        assert panel.token_type.text() == ""
    panel.token_type.committed.emit("9" * 5000)  # as pasted; Python itself refuses that many digits
    told = bench.intents[-1]
    assert isinstance(told, Announce)
    assert "9…” is no token type" in told.text
    assert len(told.text) < 200
    qtbot.keyClick(panel.token_type, Qt.Key.Key_Up)
    assert bench.asked(FIRST_SLOT)[-1] == WalkQuery(2, (0, P), token_type=0)


@pytest.mark.parametrize("width", [300, 330])
def test_the_token_type_is_within_reach_in_a_narrow_card(qtbot: QtBot, bench: synthetic.Bench, width: int) -> None:
    run = bench.state.run
    assert run is not None
    bench.state = replace(bench.state, run=replace(run, model=replace(run.model, family="gpt2")))
    host = QWidget()
    qtbot.addWidget(host)
    card = Card(WalkPanel(bench.dispatch), host)
    card.resize(width, 220)
    host.resize(width, 220)
    with qtbot.waitExposed(host):
        host.show()
    for _ in range(2):
        card.render(bench.state)
        for slot in (FIRST_SLOT, LATER_SLOT):
            bench.answer(slot)
    panel = card.panel
    assert isinstance(panel, WalkPanel)
    assert panel.readout.whole
    assert panel.token_type.isVisible()
    assert card.rect().contains(panel.token_type.mapTo(card, panel.token_type.rect().bottomRight()))


def test_another_step_walks_again_and_keeps_what_is_open(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    layer = panel.tree.item("h.0#1")
    place = panel.tree.visualItemRect(layer).center()
    qtbot.mouseClick(panel.tree.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert panel.tree.currentItem() is layer
    layer.setExpanded(False)
    bench.dispatch(SelectStep(5))
    panel.render(bench.state)
    assert bench.asked(LATER_SLOT)[-1] == WalkQuery(1, (P + 4, P + 5))
    assert len(bench.asked(FIRST_SLOT)) == 1
    serve(panel, bench, LATER_SLOT)
    assert panel.tree.item("h.0#1") is layer
    assert not layer.isExpanded()
    assert panel.tree.currentItem() is layer


def test_while_tokens_stream_it_asks_only_for_a_selected_step(qtbot: QtBot, bench: synthetic.Bench) -> None:
    bench.state = replace(bench.state, worker=WorkerState.DECODING)
    panel = make(qtbot, bench)
    assert bench.intents == []
    assert panel.stack.currentWidget() is panel.empty
    bench.dispatch(SelectStep(3))
    panel.render(bench.state)
    assert bench.asked(LATER_SLOT) == [WalkQuery(1, (P + 2, P + 3))]
    assert bench.intents[-1] == AskView(LATER_SLOT, WalkQuery(1, (P + 2, P + 3)))
    assert bench.asked(FIRST_SLOT) == []
    serve(panel, bench, LATER_SLOT)
    assert "once no tokens stream" in panel.note.text()
    bench.state = replace(bench.state, worker=WorkerState.PAUSED)
    panel.render(bench.state)
    serve(panel, bench, FIRST_SLOT)
    assert panel.note.text() == ""


def test_the_first_step_has_no_later_one_beside_it_yet(qtbot: QtBot) -> None:
    bench = synthetic.Bench(replace(synthetic.state(1), worker=WorkerState.PAUSED))
    panel = make(qtbot, bench)
    assert bench.asked(LATER_SLOT) == []
    serve(panel, bench, FIRST_SLOT)
    assert panel.tree.texts()["#1"][LATER] == "–"


def test_why_there_is_no_walk_is_said_once(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    for slot in (FIRST_SLOT, LATER_SLOT):
        bench.decline(slot, "Computing this again was interrupted; ask once more.", can_recompute=True)
    for _ in range(3):
        panel.render(bench.state)
    assert panel.empty._words[0] == "Computing this again was interrupted; ask once more."
    assert len(bench.asked(FIRST_SLOT)) == 1
    panel.hidden()
    assert bench.intents[-2:] == [WithdrawView(FIRST_SLOT), WithdrawView(LATER_SLOT)]


def test_nodes_of_one_pass_only_keep_their_place() -> None:
    first, later = looking.walk(WalkQuery(1, (0, 4))), looking.walk(WalkQuery(1, (6, 7)))
    extra = WalkNode("types#1", 1, "token type embeddings", "Embedding", made=(TensorFact("", (1, 4, 8), "float32"),))
    first = replace(first, nodes=(*first.nodes[:2], extra, *first.nodes[2:]))
    (root,) = merged(first, later)
    assert [line.title for line in root.children] == ["token embeddings", "token type embeddings", "layer 0", "head"]
    assert root.children[1].later is None
    assert merged(None, None) == []


def test_tooltips_are_escaped(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    answer = looking.walk(WalkQuery(1, (0, P)))
    nodes = (replace(answer.nodes[0], title="<b>model</b>"), *answer.nodes[1:])
    panel.tree.show_lines(merged(replace(answer, nodes=nodes), None))
    assert "&lt;b&gt;model" in panel.tree.item("#1").toolTip(STAGE)


@pytest.mark.parametrize("width", [330, 620])
def test_everything_is_inside_the_card_and_told_for_the_chosen_line(
    qtbot: QtBot, bench: synthetic.Bench, width: int
) -> None:
    panel = make(qtbot, bench)
    panel.resize(width, 400)
    serve(panel, bench)
    tree = panel.tree
    shown = [tree.columnWidth(c) for c in range(tree.columnCount()) if not tree.isColumnHidden(c)]
    assert sum(shown) <= tree.viewport().width()
    assert not tree.horizontalScrollBar().isVisible()
    for key, cells in tree.texts().items():
        for column in (FIRST, LATER):
            assert tree.fontMetrics().horizontalAdvance(cells[column]) + 10 <= tree.columnWidth(column), key
    assert f"{P + 38} → {P + 39} positions" in panel.detail.toPlainText()
    place = tree.visualItemRect(tree.item("wte#1")).center()
    qtbot.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, pos=place)
    told = panel.detail.toPlainText()
    assert told.startswith("token embeddings  wte  Linear")
    assert f"  in 1×{P}×8 float32 0.1 ± 1 in [−3, 3]" in told
    assert "  out 1×1×8 float32" in told


def test_a_pass_that_was_declined_is_said_and_not_shown_as_the_one_before(qtbot: QtBot, bench: synthetic.Bench) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    bench.dispatch(SelectStep(5))
    panel.render(bench.state)
    bench.decline(LATER_SLOT, "Computing this again was interrupted; ask once more.", can_recompute=True)
    for _ in range(3):
        panel.render(bench.state)
    assert panel.note.text() == "Computing this again was interrupted; ask once more."
    assert panel.tree.texts()["#1"][LATER] == "–"
    asked = len(bench.asked(LATER_SLOT))
    bench.dispatch(SelectStep(6))
    panel.render(bench.state)
    bench.dispatch(SelectStep(5))
    panel.render(bench.state)
    assert [q.positions for q in bench.asked(LATER_SLOT)[asked:]] == [(P + 5, P + 6), (P + 4, P + 5)]
    serve(panel, bench, LATER_SLOT)
    assert panel.note.text() == ""
    assert panel.tree.texts()["#1"][LATER] != "–"
