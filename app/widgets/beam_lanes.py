"""Beams as lanes: one column a step, one line a beam; where a beam continues another one, its line changes lanes.

Beams that nobody continues are dead: they fade. Only visible columns are painted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, QSizeF, Qt, Signal, Slot
from PySide6.QtGui import (
    QColor,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QToolTip, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.text_cache import TextCache

COLUMN_PX, LANE_PX, CELL_PX = 76, 26, 20  # a step's width, a lane's height, a token's height
LINK_PX = 16  # between two tokens, where lines change lanes
LEFT_PX, SCORE_PX, HEAD_PX = 36, 64, 18
PIP_PX, PIP_GAP_PX = 3, 2  # of the progress of constraints
LEAST_LANES = 3  # that the card leaves room for
DEAD = 0.35  # opacity of what has no future


@dataclass(frozen=True, slots=True)
class Cell:
    """One beam after one step: its token as shown, its fill, the beam it continues, its running score.

    progress: of each constraint, from 0 to 1; empty where there are none. notes: what stands beside the score, as the
    titles of the lanes say.
    """

    text: str
    fill: int  # 0xRRGGBB
    parent: int
    score: str
    tooltip: str
    progress: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


class BeamLanes(QAbstractScrollArea):
    """Lanes that grow to the right; `chosen` has the step and the beam of the token that was clicked."""

    chosen = Signal(int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self._empty = ("", "")
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self._cells: list[Mapping[int, Cell]] = []
        self._labels: Sequence[str] = ()
        self._titles: tuple[str, ...] = ()
        self._alive: list[set[int]] = []
        self._path: Mapping[int, int] = {}
        self._selected: int | None = None
        self._at_end = True  # the newest step stays in view until the user scrolls away from it
        self._held: int | None = None  # so does a step that was chosen
        self.setMinimumHeight(HEAD_PX + LEAST_LANES * LANE_PX + self.horizontalScrollBar().sizeHint().height())
        self.horizontalScrollBar().actionTriggered.connect(self._scrolled)
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.viewport().update()

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""
        if on != self._mono.swatches:
            self._mono.swatches = on
            self.viewport().update()

    def set_empty(self, title: str, hint: str) -> None:
        """What stands here while there are no beams."""
        self._empty = (title, hint)

    def clear(self, titles: tuple[str, ...] = ()) -> None:
        """Forget all lanes. titles: of the notes that the next ones will have."""
        self._cells, self._alive, self._labels, self._titles = [], [], (), titles
        self._path, self._selected, self._held = {}, None, None
        self._fit()
        self.viewport().update()

    @property
    def steps(self) -> int:
        """Columns shown."""
        return len(self._cells)

    def add(self, step: Mapping[int, Cell], labels: Sequence[str]) -> None:
        """The beams after one more step; `labels` stand in front of the lanes."""
        self._cells.append(step)
        self._labels = labels
        self._alive.append(set(step))
        self._let_die()
        self._fit()
        self.viewport().update()

    def _let_die(self) -> None:
        """Back from the newest step: alive is what somebody alive continues, until nothing changes any more."""
        for step in range(len(self._cells) - 1, 0, -1):
            parents = {self._cells[step][beam].parent for beam in self._alive[step]}
            if parents == self._alive[step - 1]:
                return
            self._alive[step - 1] = parents

    def show_path(self, path: Mapping[int, int], selected: int | None, pinned: bool = False) -> None:
        """The beam of each step of the sequence shown, and the selected step. pinned: bring that into view."""
        if (path, selected) != (self._path, self._selected):
            moved = selected != self._selected
            self._path, self._selected = path, selected
            self.viewport().update()
            if moved:
                self._at_end |= self._held is not None and not pinned  # the newest is followed again
                self._held = selected if pinned else None
                self._fit()

    def _bring(self, step: int) -> None:
        across, left = self.horizontalScrollBar(), step * COLUMN_PX
        if not across.value() <= left <= across.value() + across.pageStep() - COLUMN_PX:
            across.setValue(left - across.pageStep() // 3)
            self._at_end = across.value() >= across.maximum()
        down, top = self.verticalScrollBar(), self._path.get(step, 0) * LANE_PX
        if not down.value() <= top <= down.value() + down.pageStep() - LANE_PX:
            down.setValue(top - LANE_PX)

    def sizeHint(self) -> QSize:
        """Four lanes."""
        return QSize(420, HEAD_PX + 4 * LANE_PX + 12)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The scroll bars follow."""
        self._fit()

    @Slot(int)
    def _scrolled(self, action: int) -> None:
        bar, self._held = self.horizontalScrollBar(), None
        self._at_end = bar.sliderPosition() >= bar.maximum()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """The wheel scrolls, too."""
        super().wheelEvent(event)
        self._scrolled(0)

    def _fit(self) -> None:
        across, down = self.horizontalScrollBar(), self.verticalScrollBar()
        width, height = self.viewport().width() - LEFT_PX - self._right_px(), self.viewport().height() - HEAD_PX
        across.setPageStep(max(1, width))
        across.setSingleStep(COLUMN_PX)
        across.setRange(0, max(0, len(self._cells) * COLUMN_PX - width))
        down.setPageStep(max(1, height))
        down.setSingleStep(LANE_PX)
        down.setRange(0, max(0, len(self._labels) * LANE_PX - height))
        if self._held is not None:
            self._bring(self._held)
        elif self._at_end:
            across.setValue(across.maximum())

    # where things are

    def _right_px(self) -> int:
        """Room for score and notes behind the lanes."""
        return SCORE_PX + sum(self._note_px(n) for n in range(len(self._titles)))

    def _note_px(self, number: int) -> int:
        newest = self._cells[-1].values() if self._cells else ()
        written = [self._mono.width(cell.notes[number]) for cell in newest if number < len(cell.notes)]
        return int(max(self._ui.width(self._titles[number]), *written, 0.0)) + 14

    def _box(self, step: int, beam: int) -> QRectF:
        x = LEFT_PX + step * COLUMN_PX - self.horizontalScrollBar().value()
        y = HEAD_PX + beam * LANE_PX - self.verticalScrollBar().value()
        return QRectF(x, y + (LANE_PX - CELL_PX) / 2, COLUMN_PX - LINK_PX, CELL_PX)

    def cell_at(self, point: QPointF) -> tuple[int, int] | None:
        """Step and beam under a point of the viewport."""
        step = int(point.x() - LEFT_PX + self.horizontalScrollBar().value()) // COLUMN_PX
        beam = int(point.y() - HEAD_PX + self.verticalScrollBar().value()) // LANE_PX
        there = LEFT_PX <= point.x() <= self.viewport().width() - self._right_px() and point.y() >= HEAD_PX
        return (step, beam) if there and 0 <= step < len(self._cells) and beam in self._cells[step] else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click chooses a beam at a step."""
        found = self.cell_at(event.position())
        if found is not None and event.button() == Qt.MouseButton.LeftButton:
            self.chosen.emit(*found)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows walk along the sequence shown and to its neighbours."""
        step = self._selected if self._selected is not None else len(self._cells) - 1
        beam = self._path.get(step)
        moves = {Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1)}
        move = moves.get(Qt.Key(event.key()))
        if move is None or beam is None or beam + move[1] not in self._cells[step]:
            super().keyPressEvent(event)
            return
        self.chosen.emit(step, beam + move[1])

    def viewportEvent(self, event: QEvent) -> bool:
        """Tooltips."""
        if isinstance(event, QHelpEvent):
            found = self.cell_at(QPointF(event.pos()))
            text = self._cells[found[0]][found[1]].tooltip if found else ""
            shown = f"<div style='white-space:pre'>{escape(text)}</div>" if text else ""
            QToolTip.showText(event.globalPos(), shown, self.viewport())
            return True
        return super().viewportEvent(event)

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Step numbers, lines, tokens, then the scores on the right."""
        painter = QPainter(self.viewport())
        if not self._cells:
            paint_empty(painter, self.viewport().rect(), self._palette, *self._empty)
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        left = self.horizontalScrollBar().value()
        room = self.viewport().width() - LEFT_PX - self._right_px()
        steps = range(left // COLUMN_PX, min(len(self._cells), (left + room) // COLUMN_PX + 1))
        painter.save()
        painter.setClipRect(QRectF(LEFT_PX, 0, room, self.viewport().height()))
        painter.setPen(QColor(self._palette.secondary))
        for step in steps:
            self._mono.draw(painter, self._box(step, 0).left(), HEAD_PX - 6, str(step))
        painter.setClipRect(QRectF(LEFT_PX, HEAD_PX, room, self.viewport().height() - HEAD_PX))
        for step in steps:
            for beam, cell in self._cells[step].items():
                self._paint_link(painter, step, beam, cell)
        for step in steps:
            for beam, cell in self._cells[step].items():
                self._paint_cell(painter, step, beam, cell)
        painter.restore()
        self._paint_ends(painter)

    def _on_path(self, step: int, beam: int) -> bool:
        return self._path.get(step) == beam

    def _paint_link(self, painter: QPainter, step: int, beam: int, cell: Cell) -> None:
        if step == 0:
            return
        start, end = self._box(step - 1, cell.parent), self._box(step, beam)
        a, b = QPointF(start.right(), start.center().y()), QPointF(end.left(), end.center().y())
        path = QPainterPath(a)
        bend = QPointF(LINK_PX / 2, 0)
        path.cubicTo(a + bend, b - bend, b)
        marked = self._on_path(step, beam) and self._on_path(step - 1, cell.parent)
        colour = QColor(self._palette.accent if marked else self._palette.bar)
        painter.setOpacity(1.0 if beam in self._alive[step] else DEAD)
        painter.setPen(QPen(colour, 2.0 if marked else 1.2))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPath(path)
        painter.setOpacity(1.0)

    def _paint_cell(self, painter: QPainter, step: int, beam: int, cell: Cell) -> None:
        box, palette = self._box(step, beam), self._palette
        painter.setOpacity(1.0 if beam in self._alive[step] else DEAD)
        on_path = self._on_path(step, beam)
        selected = on_path and step == self._selected
        pen = QPen(QColor(palette.accent), 2) if selected else QPen(QColor(palette.accent if on_path else palette.line))
        painter.setPen(pen)
        painter.setBrush(QColor(cell.fill))
        painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 3, 3)
        painter.setPen(QColor(palette.text))
        shown = cell.text.strip() if self._mono.swatches else cell.text
        text = self._mono.elided(shown, box.width() - 8)
        middle = box.center().y() - (1 if cell.progress else 0)
        self._mono.draw(painter, box.left() + 4, middle + self._mono.rise, text)
        each = (box.width() - 6 + PIP_GAP_PX) / max(1, len(cell.progress))
        for number, share in enumerate(cell.progress):  # a bar for each constraint
            pip = QRectF(box.left() + 3 + number * each, box.bottom() - PIP_PX - 1.5, each - PIP_GAP_PX, PIP_PX)
            painter.fillRect(pip, QColor(palette.line))
            painter.fillRect(QRectF(pip.topLeft(), QSizeF(pip.width() * share, PIP_PX)), QColor(palette.accent))
        painter.setOpacity(1.0)

    def _paint_ends(self, painter: QPainter) -> None:
        """Labels in front of the lanes, the scores and notes of the selected step behind them."""
        palette, height = self._palette, self.viewport().height()
        painter.setPen(QColor(palette.secondary))
        rights = [self.viewport().width() - 8]
        for number in range(len(self._titles)):
            rights.append(rights[-1] - (SCORE_PX if number == 0 else self._note_px(number - 1)))
        for right, title in zip(rights, (self.tr("score"), *self._titles), strict=True):
            self._ui.draw_right(painter, right, HEAD_PX - 6, title)
        painter.setClipRect(QRectF(0, HEAD_PX, self.viewport().width(), height - HEAD_PX))
        step = len(self._cells) - 1 if self._selected is None else min(self._selected, len(self._cells) - 1)
        for beam, label in enumerate(self._labels):
            middle = self._box(0, beam).center().y()
            painter.setPen(QColor(palette.secondary))
            self._mono.draw(painter, 6, middle + self._mono.rise, label)
            cell = self._cells[step].get(beam)
            if cell is not None:
                painter.setPen(QColor(palette.text))
                for right, text in zip(rights, (cell.score, *cell.notes), strict=False):
                    self._mono.draw_right(painter, right, middle + self._mono.rise, text)
