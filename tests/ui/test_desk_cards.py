"""The Config and ONNX cards on the real engine, clicked as a user does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QRect, Qt

from app import asking
from app.drops import accepts, take
from app.panels.config_desk import ConfigPanel
from app.panels.onnx import OnnxPanel
from app.state import intents as i
from app.state.config_facts import config_facts
from app.widgets.choice import Choice
from core.contract import ErrorReport, OnnxDescribed, OnnxFinished
from tests.parity.test_onnx import needs_packages
from tests.ui.harness import Driven, clipped, driven
from tests.ui.real import live, opened

pytestmark = pytest.mark.usefixtures("qapp")
LEFT = Qt.MouseButton.LeftButton
MODEL = "new:gpt2?n_layer=1&n_embd=32"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.ini", MODEL, (1440, 900)) as window:
        yield window


def settled(one: Driven) -> bool:
    desk = one.state.config_desk
    return desk.description is not None and desk.answered == desk.generation


def lines(one: Driven) -> tuple[tuple[str, str], ...]:
    """The numbers, without the memory that is free, which is never the same twice."""
    description = one.state.config_desk.description
    assert description is not None
    return config_facts(description).lines


def config(one: Driven) -> ConfigPanel:
    one.window.workspace.cards["config"].toggleViewAction().trigger()
    live(one, lambda: settled(one))
    panel: ConfigPanel = one.panel("config")
    assert panel.isVisible()
    return panel


def type_into(qtbot: Any, field: Any, text: str) -> None:
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, text)
    qtbot.keyClick(field, Qt.Key.Key_Return)


def pick(choice: Choice, text: str) -> None:
    next(action for action in choice.menu().actions() if action.text() == text).trigger()


def test_a_field_changes_the_estimate_and_the_dot_takes_it_back(one: Driven, qtbot: Any) -> None:
    panel = config(one)
    before = lines(one)
    assert "124.4 M" in panel.facts.accessibleDescription()
    assert panel.create_model.isEnabled()
    row = panel.form.rows["n_embd"]
    assert row.name.text() == "n_embd  = hidden_size"
    type_into(qtbot, row.value, "96")
    live(one, lambda: settled(one))
    assert one.state.config_desk.description.changes == {"n_embd": 96}
    assert lines(one) != before
    assert panel.tabs.tabText(1) == "Differences (1)"
    assert panel.differences.rows.data(panel.differences.rows.index(0, 2)) == "96"
    assert '"n_embd": 96' in panel.json.toPlainText()
    qtbot.mouseClick(row.dot, LEFT)
    live(one, lambda: settled(one))
    assert lines(one) == before


def test_what_cannot_be_is_marked_with_the_reason(one: Driven, qtbot: Any) -> None:
    panel = config(one)
    type_into(qtbot, panel.form.rows["n_head"].value, "7")
    live(one, lambda: settled(one))
    assert panel.facts.verdict.text() == "n_embd = 768 cannot be divided among n_head = 7 heads."
    assert panel.form.rows["n_head"].value.property("bad") is True
    assert panel.form.rows["n_layer"].value.property("bad") is False
    assert not panel.create_model.isEnabled()
    assert not panel.save.isEnabled()
    qtbot.mouseClick(panel.reset_all, LEFT)
    live(one, lambda: settled(one))
    assert panel.create_model.isEnabled()
    assert panel.form.rows["n_head"].value.property("bad") is False


def test_create_loads_a_model_of_this_configuration(one: Driven, qtbot: Any) -> None:
    panel = config(one)
    pick(panel.subject, "Llama, small")
    live(one, lambda: settled(one))
    assert "num_key_value_heads" in panel.form.rows
    type_into(qtbot, panel.form.rows["num_hidden_layers"].value, "2")
    live(one, lambda: settled(one))
    pick(panel.form.rows["attention_bias"].value, "true")
    live(one, lambda: settled(one))
    type_into(qtbot, panel.seed, "5")
    live(one, lambda: settled(one))
    qtbot.mouseClick(panel.create_model, LEFT)
    live(one, lambda: one.state.model is not None and one.state.model.family == "llama")
    model = one.state.model
    assert model is not None
    assert model.layers == 2
    estimate = one.state.config_desk.description.estimate
    assert estimate is not None
    assert estimate.parameters == model.parameters
    assert model.spec.name.endswith("seed=5")
    pick(panel.subject, model.title)
    live(one, lambda: settled(one))
    assert one.state.config_desk.description.changes["attention_bias"] is True


def test_save_writes_a_folder(one: Driven, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "made"
    monkeypatch.setattr(asking, "save_file", lambda _parent, _title, chosen, *_: chosen(str(folder)))
    panel = config(one)
    pick(panel.subject, "Qwen2, small")
    live(one, lambda: settled(one))
    qtbot.mouseClick(panel.save, LEFT)
    live(one, lambda: one.state.config_desk.saving is None)
    assert one.state.config_desk.saved is not None
    assert "Saved to" in panel.status.text()
    assert (folder / "config.json").exists()
    qtbot.mouseClick(panel.save, LEFT)
    live(one, lambda: one.state.config_desk.saving is None)
    assert "not empty" in panel.status.text()
    path = folder / "config.json"
    assert accepts(path)
    take(path, one.store.dispatch, lambda _name: None)
    live(one, lambda: settled(one))
    assert panel.subject.text().startswith("config.json")


def test_the_graph_is_described_exported_and_checked(
    one: Driven, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_packages()
    path = tmp_path / "model.onnx"
    monkeypatch.setattr(asking, "save_file", lambda _parent, _title, chosen, *_: chosen(str(path)))
    one.do(i.SetLayout("model"))
    panel: OnnxPanel = one.panel("onnx")
    live(one, lambda: one.state.onnx.description is not None)
    table = panel.table.rows.table
    names = [table.columns[0].cell(row) for row in range(table.rows)]
    assert "input past_key_values.{i}.key" in names
    assert "input position_ids" in names
    assert table.columns[1].cell(names.index("input position_ids")) == "–"
    for width, height in ((1024, 640), (1440, 900)):
        one.window.resize(width, height)
        one.frames(3)
        view = panel.table
        assert not view.horizontalScrollBar().isVisible()
        assert sum(view.columnWidth(c) for c in range(4)) <= view.viewport().width()
        for column in range(4):
            for row in range(table.rows):
                room = QRect(0, 0, view.columnWidth(column) - 14, 999)
                text = view.rows.index(row, column).data()
                needed = view.fontMetrics().boundingRect(room, Qt.TextFlag.TextWordWrap, text)
                assert needed.width() <= room.width(), text
                assert needed.height() <= view.rowHeight(row), text
    qtbot.mouseClick(panel.past.buttons()[1], LEFT)
    one.frames(2)
    table = panel.table.rows.table
    assert "input past_key_values.{i}.key" not in [table.columns[0].cell(row) for row in range(table.rows)]
    qtbot.mouseClick(panel.past.buttons()[0], LEFT)
    qtbot.mouseClick(panel.export, LEFT)
    one.frames(2)
    assert panel.cancel.isVisible()
    assert not panel.export.isEnabled()
    live(one, lambda: one.state.onnx.working is None)
    assert one.state.onnx.failure is None
    assert panel.tabs.currentIndex() == 1
    assert "the same 30 tokens" in panel.note.text()
    assert panel.checks.rows.table.rows == 5
    assert "read from the file" in panel.current.text()


def test_cancel_gives_the_export_up(one: Driven, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_packages()
    monkeypatch.setattr(asking, "save_file", lambda _p, _t, chosen, *_: chosen(str(tmp_path / "model.onnx")))
    one.do(i.SetLayout("model"))
    panel: OnnxPanel = one.panel("onnx")
    live(one, lambda: one.state.onnx.description is not None)
    qtbot.mouseClick(panel.export, LEFT)
    live(one, lambda: one.state.onnx.working is not None and bool(one.state.onnx.working.stage))
    qtbot.mouseClick(panel.cancel, LEFT)
    live(one, lambda: one.state.onnx.working is None)
    assert panel.note.text() == "The export was cancelled."
    assert panel.note.property("error") is False
    assert panel.export.isEnabled()


def test_the_cards_come_up_beside_the_output_and_clip_nothing(one: Driven) -> None:
    for size in ((1440, 900), (1024, 640)):
        one.window.resize(*size)
        for name in ("config", "onnx"):
            card = one.window.workspace.cards[name]
            if not card.isVisible():
                card.toggleViewAction().trigger()
            card.raise_()
            live(one, lambda: (settled(one) and one.state.onnx.description is not None) or not one.frames())
            assert card.isVisible()
            assert clipped(card) == []
        one.do(i.ResetLayout())
        one.frames(2)
        assert not one.window.workspace.cards["config"].isVisible()


def test_late_answers_change_nothing(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as fake:
        before = fake.state.onnx
        fake.lab.events.append(OnnxFinished(99, None, ErrorReport("export", "Late.")))
        fake.lab.events.append(OnnxDescribed(99, None, ErrorReport("export", "Late.")))
        fake.frames(2)
        assert fake.state.onnx == before
        assert fake.state.errors == ()


def test_the_facts_of_a_configuration_are_written_out(one: Driven) -> None:
    config(one)
    found = dict(lines(one))
    assert found["norms"].split() == ["38.4", "k", "25", "×", "768", "×", "2"]
    assert found["parameters"].endswith("124,439,808")
