"""The list of candidates: token, probability before and after the pipeline as bars and numbers."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QContextMenuEvent,
    QFont,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QMenu, QToolTip, QWidget

from app.state.texts import tr
from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets import numbers
from app.widgets.candidate_rows import CandidateRow, bar_top
from app.widgets.empty import paint_empty
from app.widgets.text_cache import TextCache, colour_of
from app.widgets.visible_text import one_line

ROW_PX, HEAD_PX = 20, 18
DENSE_ROW_PX, DENSE_HEAD_PX = 15, 16
PAD_PX, GAP_PX, SCROLL_PX = 6, 10, 10
NUMBER = "0.000"


class CandidateBars(QAbstractScrollArea):
    """Rows of candidates; only the visible ones are painted. `forced` has the token that is wanted instead."""

    forced = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalScrollBar().setRange(0, 0)
        self._rows: tuple[CandidateRow, ...] = ()
        self._pointed: int | None = None  # the token under the pointer or reached by keyboard
        self._top = 1.0
        self.viewport().setMouseTracking(True)
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self._empty = ("", "")
        self.fill_menu: Callable[[QMenu, CandidateRow], None] = lambda menu, row: None
        self._small, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self._stage_px = self._small.width("typical_p")
        self._mono = TextCache(_token_font(dense=False))
        self._row_px, self._head_px = ROW_PX, HEAD_PX
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self._colours = {
            name: QColor(getattr(palette, name))
            for name in ("text", "secondary", "accent", "accent_soft", "muted", "bar", "line", "surface")
        }
        self.viewport().update()

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""
        if on != self._mono.swatches:
            self._mono.swatches = on
            self.viewport().update()

    def set_dense(self, dense: bool) -> None:
        """Lower rows in smaller type, for a low panel."""
        row_px = DENSE_ROW_PX if dense else ROW_PX
        if row_px != self._row_px:
            self._row_px, self._head_px = row_px, DENSE_HEAD_PX if dense else HEAD_PX
            swatches, self._mono = self._mono.swatches, TextCache(_token_font(dense))
            self._mono.swatches = swatches
            self._fit()
            self.viewport().update()

    def set_empty(self, title: str, hint: str) -> None:
        """What to say while there is no step."""
        self._empty = (title, hint)
        self.viewport().update()

    def set_rows(self, rows: tuple[CandidateRow, ...]) -> None:
        """Show the candidates of a step."""
        self._rows = rows
        if all(row.token_id != self._pointed for row in rows):
            self._pointed = None
        self._top = bar_top(rows)
        self._fit()
        self.viewport().update()

    def _fit(self) -> None:
        """The bar counts rows: none is ever cut."""
        bar = self.verticalScrollBar()
        bar.setPageStep(max(1, (self.viewport().height() - self._head_px) // self._row_px))
        bar.setRange(0, max(0, len(self._rows) - bar.pageStep()))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Other rows fit."""
        self._fit()

    def scrollContentsBy(self, dx: int, dy: int) -> None:
        """Few rows are visible: paint them again, the head stays."""
        self.viewport().update()

    def sizeHint(self) -> QSize:
        """Eight candidates."""
        return QSize(320, HEAD_PX + 8 * ROW_PX)

    def minimumSizeHint(self) -> QSize:
        """Five candidates in low rows."""
        return QSize(220, DENSE_HEAD_PX + 5 * DENSE_ROW_PX)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Head and visible rows."""
        painter = QPainter(self.viewport())
        painter.fillRect(event.rect(), self._colours["surface"])
        if not self._rows:
            paint_empty(painter, self.viewport().rect(), self._palette, *self._empty)
            return
        width = self.width() - SCROLL_PX  # the same with and without the scroll bar
        shown = self._visible()
        for i, row in enumerate(shown):
            self._paint_row(painter, row, self._head_px + i * self._row_px, width)
        if len(shown) > 1 and shown[-1] is not self._rows[self.verticalScrollBar().value() + len(shown) - 1]:
            y = self._head_px + (len(shown) - 1) * self._row_px
            painter.fillRect(0, y, width, 1, self._colours["line"])
        self._paint_head(painter, width)

    def _visible(self) -> list[CandidateRow]:
        """The rows in view; the chosen one takes the place of the last where it would be further down."""
        bar = self.verticalScrollBar()
        stop = bar.value() + bar.pageStep()
        shown = list(self._rows[bar.value() : stop])
        below = next((row for row in self._rows[stop:] if row.chosen), None)
        if below is not None and shown:
            shown[-1] = below
        return shown

    def _columns(self, width: int) -> tuple[float, float, float, float]:
        """Right end of the tokens, right end of the bars, of the raw numbers, of the final numbers."""
        final = width - PAD_PX
        raw = final - self._stage_px - GAP_PX
        bars = raw - self._mono.width(NUMBER) - GAP_PX
        return PAD_PX + max(76.0, min(132.0, width * 0.24)), bars, raw, final

    def _paint_head(self, painter: QPainter, width: int) -> None:
        tokens, _, raw, final = self._columns(width)
        painter.fillRect(QRectF(0, 0, width, self._head_px), self._colours["surface"])
        painter.setPen(self._colours["secondary"])
        baseline = self._head_px - 6.0
        preview = self._rows[0].preview
        names = (self.tr("before"), self.tr("after")) if preview else (self.tr("raw"), self.tr("final"))
        room = raw - max(self._mono.width(NUMBER), self._ui.width(names[0]) + GAP_PX) - tokens - GAP_PX
        top = f"{self._top:g}"
        axes = self.tr("probability, 0 – {0}").format(top), f"0 – {top}", f"≤ {top}"
        self._ui.draw(painter, tokens + GAP_PX, baseline, next((a for a in axes if self._ui.width(a) <= room), ""))
        for right, text in zip((raw, final), names, strict=True):
            self._ui.draw_right(painter, right, baseline, text)

    def _paint_row(self, painter: QPainter, row: CandidateRow, y: int, width: int) -> None:
        c = self._colours
        tokens, bars, raw_right, final_right = self._columns(width)
        if row.chosen:
            painter.fillRect(QRectF(0, y, width, self._row_px), c["accent_soft"])
        elif row.token_id == self._pointed:
            painter.setPen(QPen(c["accent"], 1))
            painter.drawRect(QRectF(0.5, y + 0.5, width - 1, self._row_px - 1))
        left, room = tokens + GAP_PX, max(8.0, bars - tokens - GAP_PX)
        scale = room / self._top
        thin, thick = (3, 5) if self._row_px == DENSE_ROW_PX else (5, 6)
        top = y + (self._row_px - thin - thick - 1) // 2
        if row.preview:  # the ghost of before behind what would be
            painter.fillRect(QRectF(left, top - 1, max(1.0, row.raw * scale), thin + thick + 3), c["muted"])
            top -= (thin + 1) // 2
        else:
            painter.fillRect(QRectF(left, top, max(1.0, row.raw * scale), thin), c["muted"])
        if row.killed_by is None:
            bar = QRectF(left, top + thin + 1, max(1.0, row.final * scale), thick)
            painter.fillRect(bar, c["accent" if row.chosen else "bar"])
        killed = row.killed_by is not None
        baseline = y + self._row_px / 2 + self._mono.rise
        number_px = self._mono.width(NUMBER)
        painter.setPen(c["secondary" if killed else "text"])
        piece = self._mono.elided(one_line(row.piece), tokens - PAD_PX)
        self._mono.draw(painter, PAD_PX, baseline, piece)
        if killed:
            middle = round(baseline - self._mono.rise * 0.8)
            left = PAD_PX + (self._mono.width("#") if self._mono.swatches and colour_of(row.piece) else 0.0)
            painter.drawLine(round(left), middle, round(PAD_PX + self._mono.width(piece)), middle)
        self._mono.draw(painter, raw_right - number_px, baseline, numbers.probability(row.raw))
        if row.killed_by is None:
            self._mono.draw(painter, final_right - number_px, baseline, numbers.probability(row.final))
        else:
            stage = self._small.elided(row.killed_by, self._stage_px + 1)
            self._small.draw_right(painter, final_right, baseline, stage)

    def row_at(self, y: float) -> CandidateRow | None:
        """The candidate at a height of the viewport."""
        shown, index = self._visible(), int((y - self._head_px) // self._row_px)
        return shown[index] if 0 <= index < len(shown) else None

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """What can be done with the candidate under the pointer; by keyboard with the chosen one."""
        row = self.row_at(event.pos().y())
        if event.reason() == QContextMenuEvent.Reason.Keyboard:
            row = next((r for r in self._rows if r.chosen), None)
        if row is None:
            return
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.fill_menu(menu, row)
        menu.popup(event.globalPos())

    def point_at(self, token_id: int | None) -> None:
        """Mark a candidate that would be forced."""
        if token_id != self._pointed:
            self._pointed = token_id
            self.viewport().update()
        other = any(row.token_id == token_id and not row.chosen for row in self._rows)
        self.viewport().setCursor(Qt.CursorShape.PointingHandCursor if other else Qt.CursorShape.ArrowCursor)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """What a click would force."""
        row = self.row_at(event.position().y())
        self.point_at(None if row is None else row.token_id)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click on another candidate wants that one."""
        row = self.row_at(event.position().y())
        if row is not None and event.button() == Qt.MouseButton.LeftButton and not row.chosen:
            self.forced.emit(row.token_id)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Up and down point at a candidate, Enter forces it."""
        ids = [row.token_id for row in self._rows]
        moves = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}
        move = moves.get(Qt.Key(event.key()))
        if move is not None and ids:
            at = ids.index(self._pointed) + move if self._pointed in ids else 0
            at = max(0, min(len(ids) - 1, at))
            bar = self.verticalScrollBar()
            bar.setValue(min(at, max(bar.value(), at - bar.pageStep() + 1)))
            self.point_at(ids[at])
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._pointed is not None:
            if any(row.token_id == self._pointed and not row.chosen for row in self._rows):
                self.forced.emit(self._pointed)
        else:
            super().keyPressEvent(event)

    def viewportEvent(self, event: QEvent) -> bool:
        """All numbers of a candidate."""
        if event.type() == QEvent.Type.Leave:
            self.point_at(None)
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            row = self.row_at(event.pos().y())
            QToolTip.showText(event.globalPos(), tooltip(row) if row else "", self.viewport())
            return True
        return super().viewportEvent(event)


def _token_font(dense: bool) -> QFont:
    font = fonts.mono(fonts.SMALL_PX if dense else fonts.BODY_PX)
    font.setFamilies([fonts.MONO_FAMILY, fonts.UI_FAMILY])  # Inter has the whitespace marks
    return font


def tooltip(row: CandidateRow) -> str:
    """One candidate in full, as escaped rich text."""
    final = tr("removed by {0}").format(row.killed_by) if row.killed_by else tr("final {0}").format(f"{row.final:.6f}")
    lines = [f"id {row.token_id}", tr("raw {0}").format(f"{row.raw:.6f}"), final]
    if row.preview:
        changed = tr("after the interventions {0}").format(f"{row.final:.6f}")
        lines = [f"id {row.token_id}", tr("before {0}").format(f"{row.raw:.6f}"), changed]
    if row.chosen:
        lines.append(tr("chosen"))
    else:
        lines.append(tr("click: a branch grows from here with this token"))
    piece = escape(one_line(row.piece[:200]))
    return f"<p style='white-space:pre'><b>{piece}</b><br>" + "<br>".join(map(escape, lines)) + "</p>"
