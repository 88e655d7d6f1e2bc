"""The token flow widget: what it paints, follows, selects and copies."""

from __future__ import annotations

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QPoint, QRect, Qt
from PySide6.QtGui import QImage, QPaintEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app import window_bench
from app.theme import fonts
from app.theme.colormaps import token_fills
from app.theme.palette import DARK, LIGHT
from app.widgets.flow_painter import LINE_PX
from app.widgets.token_flow import TokenFlow
from tests.ui.synthetic import PIECES, PROMPT


class Watched(TokenFlow):
    """Notes which rectangles were painted."""

    def __init__(self) -> None:
        self.painted: list[QRect] = []
        super().__init__()

    def paintEvent(self, event: QPaintEvent) -> None:
        self.painted.append(event.rect())
        super().paintEvent(event)


def levels(count: int, level: int = 128) -> np.ndarray:
    return np.full(count, level, np.int16)


@pytest.fixture
def flow(qtbot: QtBot) -> Watched:
    fonts.load_fonts()
    widget = Watched()
    qtbot.addWidget(widget)
    widget.resize(500, 300)
    with qtbot.waitExposed(widget):
        widget.show()
    widget.set_prompt(PROMPT)
    return widget


def fill(flow: TokenFlow, count: int) -> None:
    flow.append((PIECES * (count // len(PIECES) + 1))[:count], levels(count))


def pixel(flow: TokenFlow, point: QPoint) -> tuple[int, int, int]:
    image: QImage = flow.viewport().grab().toImage()
    colour = image.pixelColor(point)
    return colour.red(), colour.green(), colour.blue()


def corner(flow: TokenFlow, token: int) -> QPoint:
    """Inside a chip, beside its text."""
    return flow.token_rect(token).topLeft() + QPoint(2, 8)


def click(qtbot: QtBot, flow: TokenFlow, token: int) -> None:
    qtbot.mouseClick(flow.viewport(), Qt.MouseButton.LeftButton, pos=flow.token_rect(token).center())


def test_generated_tokens_are_filled_by_their_level_and_prompt_tokens_are_not(flow: Watched) -> None:
    flow.append(["lived", " at"], np.array([0, 255], np.int16))
    first = len(PROMPT)
    assert pixel(flow, corner(flow, first)) == tuple(token_fills(LIGHT)[0])
    assert pixel(flow, corner(flow, first + 1)) == tuple(token_fills(LIGHT)[255])
    assert pixel(flow, corner(flow, 0)) == (255, 255, 255)


def test_another_palette_and_other_levels_repaint(flow: Watched) -> None:
    flow.append(["lived"], levels(1, 255))
    flow.set_palette(DARK)
    assert pixel(flow, corner(flow, len(PROMPT))) == tuple(token_fills(DARK)[255])
    flow.set_levels(levels(flow.tokens, 0))
    assert pixel(flow, corner(flow, len(PROMPT))) == tuple(token_fills(DARK)[0])
    with pytest.raises(ValueError, match="levels for"):
        flow.set_levels(levels(3))


def test_appending_paints_the_new_lines_only(qtbot: QtBot, flow: Watched) -> None:
    fill(flow, 40)
    QApplication.processEvents()
    flow.painted.clear()
    flow.append([" x"], levels(1))
    QApplication.processEvents()
    assert len(flow.painted) == 1
    assert flow.painted[0].height() <= 2 * LINE_PX
    assert flow.painted[0].top() >= flow.token_rect(flow.tokens - 1).top() - LINE_PX


def test_following_moves_what_is_painted(qtbot: QtBot, flow: Watched) -> None:
    fill(flow, 300)
    QApplication.processEvents()
    flow.painted.clear()
    before = flow.verticalScrollBar().maximum()
    flow.append(["\n", "onward"], levels(2))
    QApplication.processEvents()
    assert flow.verticalScrollBar().value() == before + 1 == flow.verticalScrollBar().maximum()
    assert flow.painted
    assert sum(rect.height() for rect in flow.painted) < flow.viewport().height() / 2


def test_scrolling_up_ends_the_following_until_the_end_is_reached_again(flow: Watched) -> None:
    fill(flow, 300)
    bar = flow.verticalScrollBar()
    bar.setValue(3)
    fill(flow, 50)
    assert not flow.following
    assert bar.value() == 3
    flow.follow()
    fill(flow, 50)
    assert flow.following
    assert bar.value() == bar.maximum()


def test_resizing_keeps_the_end_in_view(qtbot: QtBot, flow: Watched) -> None:
    fill(flow, 400)
    flow.resize(333, 211)
    QApplication.processEvents()
    assert flow.following
    assert flow.viewport().rect().contains(flow.token_rect(flow.tokens - 1).center())


def test_a_click_tells_the_token(qtbot: QtBot, flow: Watched) -> None:
    fill(flow, 20)
    with qtbot.waitSignal(flow.clicked) as signal:
        click(qtbot, flow, 17)
    assert signal.args == [17]


def test_a_selected_token_outside_of_the_view_is_brought_into_it(flow: Watched) -> None:
    fill(flow, 500)
    flow.set_selected(30)
    assert flow.viewport().rect().contains(flow.token_rect(30))
    assert pixel(flow, flow.token_rect(30).topLeft() + QPoint(8, 2)) != (255, 255, 255)


def test_dragging_marks_a_range_and_ctrl_c_copies_its_text(qtbot: QtBot, flow: Watched) -> None:
    fill(flow, 20)
    view = flow.viewport()
    start, end = flow.token_rect(12).center(), flow.token_rect(15).center()
    clicks: list[int] = []
    flow.clicked.connect(clicks.append)
    qtbot.mousePress(view, Qt.MouseButton.LeftButton, pos=start)
    flow.mouseMoveEvent(_move(end))
    qtbot.mouseRelease(view, Qt.MouseButton.LeftButton, pos=end)
    qtbot.keyClick(flow, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QApplication.clipboard().text() == "".join(PIECES[2:6])
    assert clicks == []


def _move(point: QPoint) -> object:
    from PySide6.QtCore import QPointF
    from PySide6.QtGui import QMouseEvent

    left = Qt.MouseButton.LeftButton
    where = QPointF(point)
    return QMouseEvent(QEvent.Type.MouseMove, where, where, left, left, Qt.KeyboardModifier.NoModifier)


def test_without_a_range_the_output_is_copied_without_special_tokens(qtbot: QtBot, flow: Watched) -> None:
    flow.append([" lived", "<|im_end|>"], levels(2), [" lived", ""])
    flow.copy()
    assert QApplication.clipboard().text() == " lived"


def test_underlines_are_drawn_as_high_as_their_level(flow: Watched) -> None:
    fill(flow, 5)
    token = len(PROMPT)
    where = flow.token_rect(token)
    bottom = QPoint(where.center().x(), where.top() + 24)
    marks = np.zeros(flow.tokens, np.int16)
    flow.set_underlines(marks)
    plain = pixel(flow, bottom)
    marks = marks.copy()
    marks[token] = 255
    flow.set_underlines(marks)
    assert pixel(flow, bottom) != plain
    flow.set_underlines(None)
    assert pixel(flow, bottom) == plain


def test_of_ten_thousand_tokens_only_the_visible_lines_are_laid_out(flow: Watched) -> None:
    fill(flow, 10_000)
    fill(flow, 10)
    flow.grab()
    assert len(flow._layout._made) <= 3 * (flow.viewport().height() // LINE_PX + 2)
    assert flow.token_at(flow.token_rect(flow.tokens - 1).center()) == flow.tokens - 1


def test_the_bench_times_every_change_of_a_long_text(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_bench, "LENGTHS", (40, 60))
    monkeypatch.setattr(window_bench, "REPEATS", 2)
    times = window_bench.long_text()["flow_ms"]
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert list(times) == ["40 tokens", "60 tokens"]
    for row in times.values():
        assert set(row) == {"append", "paint", "scroll", "select", "recolour", "resize"}
        assert min(row.values()) > 0
