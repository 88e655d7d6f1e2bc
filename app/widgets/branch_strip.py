"""The branches of a run as lanes over its length: where each parts, by which token, and what it holds in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QObject, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QContextMenuEvent,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QLineEdit, QMenu, QToolTip, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.text_cache import TextCache
from app.widgets.visible_text import plain_tip

LANE_PX, MOST_LANES = 24, 5  # more are scrolled
PAD_PX, DOT_PX, GAP_PX = 8, 8, 12
NAME_PX, NARROW_NAME_PX, MEMORY_PX, TOKEN_PX = 112, 86, 76, 132
NARROW_PX = 420
NAME_SHARE = 1 / 3  # of the width, at most, for long names


@dataclass(frozen=True, slots=True)
class BranchLane:
    """One branch. parent: the lane above that it comes from. begins, ends: its own tokens, as positions.

    token, probability: of its first own token, as shown; empty before there is one. going: it has not ended.
    """

    branch_id: int
    name: str
    colour: int
    parent: int | None
    begins: int
    ends: int
    token: str
    probability: str
    memory: str
    tooltip: str
    going: bool


class BranchStrip(QAbstractScrollArea):
    """Emits what the user wants of a branch; the lane in use is framed."""

    chosen = Signal(int)  # branch
    moved = Signal(int)  # lanes further down
    renamed = Signal(int, str)
    deleted = Signal(int)
    compared = Signal(int)  # with the one in use

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._lanes: tuple[BranchLane, ...] = ()
        self._current, self._length = 0, 1
        self._selected: int | None = None
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self._field = QLineEdit(self.viewport())
        self._field.setAccessibleName(self.tr("Name of the branch"))
        self._field.setAccessibleDescription(self.tr("Enter keeps it, Esc leaves it as it was"))
        self._longest_name = 0.0
        self._field.setFont(fonts.ui(fonts.SMALL_PX))
        self._field.returnPressed.connect(self._keep_name)
        self._field.editingFinished.connect(self._field.hide)
        self._field.installEventFilter(self)
        self._field.hide()
        self._named = 0
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.viewport().update()

    def show_lanes(self, lanes: Sequence[BranchLane], current: int, selected: int | None) -> None:
        """These branches, the one in use, and the position selected in it."""
        moved = current != self._current or len(lanes) != len(self._lanes)
        before, self._lanes = self._lanes, tuple(lanes)
        named = max((self._ui.width(lane.name) for lane in lanes), default=0.0) + GAP_PX
        if named != self._longest_name:
            self._longest_name, moved = named, True
        longest = max((lane.ends for lane in lanes), default=1)
        step = 1 << max(4, longest.bit_length() - 3)  # so that lines do not move with every token
        length = -(-max(1, longest) // step) * step
        changed = [number for number, (old, new) in enumerate(zip(before, self._lanes, strict=False)) if old != new]
        if moved or length != self._length or selected != self._selected:
            self.viewport().update()
        for number in changed:  # while tokens come, the lane in use is the only one
            self.viewport().update(self._box(number).toAlignedRect())
        self._length, self._current = length, current
        self._selected = selected
        height = LANE_PX * max(1, min(MOST_LANES, len(lanes)))
        if height != self.height():
            self.setFixedHeight(height)
        self._fit()
        row = self._row_in_use()
        if moved and row is not None:
            bar = self.verticalScrollBar()
            bar.setValue(min(row * LANE_PX, max(bar.value(), (row + 1) * LANE_PX - self.viewport().height())))

    def _row_in_use(self) -> int | None:
        return next((n for n, lane in enumerate(self._lanes) if lane.branch_id == self._current), None)

    def sizeHint(self) -> QSize:
        """All lanes, or the most that are shown at once."""
        return QSize(420, LANE_PX * max(1, min(MOST_LANES, len(self._lanes))))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The scroll bar follows."""
        self._fit()

    def _fit(self) -> None:
        bar, height = self.verticalScrollBar(), self.viewport().height()
        bar.setPageStep(height)
        bar.setSingleStep(LANE_PX)
        bar.setRange(0, max(0, len(self._lanes) * LANE_PX - height))

    # where things are

    def _box(self, row: int) -> QRectF:
        return QRectF(0, row * LANE_PX - self.verticalScrollBar().value(), self.viewport().width(), LANE_PX)

    def _track(self) -> tuple[float, float]:
        """Left and right end of what stands for the length."""
        width = self.viewport().width()
        name: float = NAME_PX if width >= NARROW_PX else NARROW_NAME_PX
        name = max(name, min(self._longest_name, NAME_SHARE * width))
        return PAD_PX + DOT_PX + 6 + name, width - PAD_PX - MEMORY_PX - GAP_PX

    def _x(self, position: int) -> float:
        left, right = self._track()
        return left + max(0.0, right - left) * position / self._length

    def lane_at(self, point: QPointF) -> BranchLane | None:
        """The lane under a point of the viewport."""
        row = int(point.y() + self.verticalScrollBar().value()) // LANE_PX
        return self._lanes[row] if 0 <= row < len(self._lanes) else None

    # mouse and keyboard

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click goes to the branch."""
        lane = self.lane_at(event.position())
        if lane is not None and event.button() == Qt.MouseButton.LeftButton and lane.branch_id != self._current:
            self.chosen.emit(lane.branch_id)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """A double click on a name changes it."""
        lane = self.lane_at(event.position())
        if lane is not None and event.position().x() < self._track()[0]:
            self.edit_name(lane.branch_id)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Up and down go to the neighbours, F2 renames, Delete deletes."""
        moves = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}
        key = Qt.Key(event.key())
        if key in moves:
            self.moved.emit(moves[key])
        elif key == Qt.Key.Key_F2:
            self.edit_name(self._current)
        elif key == Qt.Key.Key_Delete:
            self.deleted.emit(self._current)
        else:
            super().keyPressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """What can be done with the lane under the pointer, or with the one in use."""
        by_mouse = event.reason() == QContextMenuEvent.Reason.Mouse
        lane = self.lane_at(QPointF(event.pos())) if by_mouse else None
        branch_id = self._current if lane is None else lane.branch_id
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        go = menu.addAction(self.tr("Go to this branch"), lambda: self.chosen.emit(branch_id))
        go.setEnabled(branch_id != self._current)
        compare = menu.addAction(self.tr("Compare with the branch in use"), lambda: self.compared.emit(branch_id))
        compare.setEnabled(branch_id != self._current)
        menu.addAction(self.tr("Rename…"), lambda: self.edit_name(branch_id))
        menu.addAction(self.tr("Delete"), lambda: self.deleted.emit(branch_id))
        menu.popup(event.globalPos())

    def edit_name(self, branch_id: int) -> None:
        """A field over the name of a branch."""
        row = next((n for n, lane in enumerate(self._lanes) if lane.branch_id == branch_id), None)
        if row is None:
            return
        self._named = branch_id
        left = PAD_PX + DOT_PX + 2
        self._field.setGeometry(left, int(self._box(row).top()) + 1, int(self._track()[0]) - left, LANE_PX - 2)
        self._field.setText(self._lanes[row].name)
        self._field.selectAll()
        self._field.show()
        self._field.setFocus(Qt.FocusReason.OtherFocusReason)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Esc leaves the name as it was; it does not end the run."""
        if isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape:
            if event.type() == QEvent.Type.ShortcutOverride:
                event.accept()
            elif event.type() == QEvent.Type.KeyPress:
                self._field.hide()
                self.setFocus(Qt.FocusReason.OtherFocusReason)
            return True
        return bool(super().eventFilter(watched, event))

    def _keep_name(self) -> None:
        self.renamed.emit(self._named, self._field.text())
        self._field.hide()
        self.setFocus(Qt.FocusReason.OtherFocusReason)

    def viewportEvent(self, event: QEvent) -> bool:
        """Everything about a branch."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            lane = self.lane_at(QPointF(event.pos()))
            QToolTip.showText(event.globalPos(), "" if lane is None else plain_tip(lane.tooltip), self.viewport())
            return True
        return super().viewportEvent(event)

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Frames, lines, then what is written on them."""
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        row = self._row_in_use()
        if row is not None and len(self._lanes) > 1:
            box = self._box(row).adjusted(0.5, 0.5, -0.5, -0.5)
            painter.fillRect(box, QColor(self._palette.accent_soft))
            painter.setPen(QPen(QColor(self._palette.accent), 1))
            painter.drawRect(box)
        damaged = QRectF(event.rect())
        for number, lane in enumerate(self._lanes):
            top = self._box(number if lane.parent is None else lane.parent).united(self._box(number))
            if top.intersects(damaged):
                self._paint_line(painter, number, lane)
        for number, lane in enumerate(self._lanes):
            if self._box(number).intersects(damaged):
                self._paint_words(painter, number, lane)

    def _colour(self, lane: BranchLane) -> QColor:
        return QColor(self._palette.categorical[lane.colour % len(self._palette.categorical)])

    def _paint_line(self, painter: QPainter, row: int, lane: BranchLane) -> None:
        colour, middle = self._colour(lane), self._box(row).center().y()
        begins, ends = self._x(lane.begins), self._x(lane.ends)
        painter.setPen(QPen(colour, 1.5))
        if lane.parent is not None:
            painter.drawLine(QPointF(begins, self._box(lane.parent).center().y()), QPointF(begins, middle))
        painter.setPen(QPen(colour, 3, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap))
        painter.drawLine(QPointF(begins, middle), QPointF(max(ends, begins + 1), middle))
        if lane.going:
            painter.setPen(QPen(colour, 1.5))
            painter.setBrush(QColor(self._palette.surface))
            painter.drawEllipse(QPointF(ends, middle), 3, 3)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.drawEllipse(QPointF(PAD_PX + DOT_PX / 2, middle), DOT_PX / 2, DOT_PX / 2)
        painter.setBrush(Qt.BrushStyle.NoBrush)

    def _paint_words(self, painter: QPainter, row: int, lane: BranchLane) -> None:
        palette, box = self._palette, self._box(row)
        left, right = self._track()
        middle, begin = box.center().y(), PAD_PX + DOT_PX + 6
        painter.setPen(QColor(palette.text))
        self._ui.draw(painter, begin, middle + self._ui.rise, self._ui.elided(lane.name, left - begin - GAP_PX))
        painter.setPen(QColor(palette.secondary))
        self._mono.draw_right(painter, box.right() - PAD_PX, middle + self._mono.rise, lane.memory)
        if lane.token:
            self._paint_token(painter, lane, middle, left, right)
        if lane.branch_id == self._current and self._selected is not None:
            painter.setPen(QPen(QColor(palette.accent), 2))
            painter.setBrush(QColor(palette.surface))
            painter.drawRect(QRectF(self._x(self._selected) - 2, middle - 7, 4, 14))

    def _paint_token(self, painter: QPainter, lane: BranchLane, middle: float, left: float, right: float) -> None:
        """The token where it parts and its probability, on the line, or before it where there is no room."""
        number = self._mono.width(lane.probability)
        text = self._mono.elided(lane.token, TOKEN_PX - number - 20)
        width = self._mono.width(text) + number + 18
        at = self._x(lane.begins) + 6
        if at + width > right:
            at = max(left, self._x(lane.begins) - width - 6)
        chip = QRectF(at, middle - 9, width, 18)
        painter.setPen(QPen(self._colour(lane), 1))
        painter.setBrush(QColor(self._palette.surface))
        painter.drawRoundedRect(chip, 3, 3)
        painter.setPen(QColor(self._palette.text))
        self._mono.draw(painter, chip.left() + 6, middle + self._mono.rise, text)
        painter.setPen(QColor(self._palette.secondary))
        self._mono.draw_right(painter, chip.right() - 5, middle + self._mono.rise, lane.probability)
