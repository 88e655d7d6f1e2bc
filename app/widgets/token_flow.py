"""The token flow: wrapped tokens as coloured chips, painted only where something changed.

Appending costs O(new tokens): the new chips are laid out behind the last one and only their lines are painted;
following the newest line moves the pixels that are there already. Painting costs O(visible tokens).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QContextMenuEvent,
    QHelpEvent,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QApplication, QFrame, QMenu, QToolTip, QWidget

from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.flow_layout import FlowLayout
from app.widgets.flow_painter import LINE_PX, MARGIN_PX, NO_FILL, FlowPainter, Marks

RIGHT_PX = 26  # room for the dot of the newest token, and for the scroll bar, whose coming must not break lines anew

Levels = NDArray[np.int16]


class TokenFlow(QAbstractScrollArea):
    """Prompt tokens in secondary text, then generated tokens filled by a level in [0, 255] of the token map."""

    clicked = Signal(int)  # token, prompt tokens included
    copied = Signal(str)
    follow_changed = Signal(bool)  # whether the view scrolls along with the newest token

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)  # lets Qt scroll by moving pixels
        self.viewport().setMouseTracking(True)
        self.set_palette(LIGHT)
        self._layout = FlowLayout(self._paint.metrics, self._paint.measure)
        self._plain: list[str] = []  # what each token copies as
        self._marks = Marks()
        self._pressed: tuple[QPoint, int] | None = None
        self._follow = True
        self._empty = ("", "")
        self.tooltip: Callable[[int], str] = lambda token: ""
        self.more: Callable[[QMenu, int], None] = lambda menu, token: None  # what else can be done with a token
        self.verticalScrollBar().setRange(0, 0)
        self.verticalScrollBar().valueChanged.connect(self._scrolled)

    # what is shown

    @property
    def tokens(self) -> int:
        """Tokens shown, prompt included."""
        return len(self._plain)

    @property
    def following(self) -> bool:
        """Whether the view scrolls along with the newest token."""
        return self._follow

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        before = getattr(self, "_paint", None)
        self._paint = FlowPainter(palette)
        self._paint.set_swatches(before is not None and before.swatches)
        self.viewport().update()

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""
        if on != self._paint.swatches:
            self._paint.set_swatches(on)
            self.viewport().update()

    def set_empty(self, title: str, hint: str) -> None:
        """What to say while there is no token."""
        if (title, hint) != self._empty:
            self._empty = (title, hint)
            self.viewport().update()

    def clear(self) -> None:
        """Forget every token and follow again."""
        self._layout.clear()
        self._plain = []
        self._marks = Marks()
        self._pressed = None
        self._set_follow(True)
        self._fit_scroll_bar()
        self.viewport().update()

    def set_prompt(self, pieces: Sequence[str]) -> None:
        """Start over with a prompt."""
        self.clear()
        self.append(pieces, np.full(len(pieces), NO_FILL, np.int16))
        self._marks.prompt_tokens = len(pieces)

    def append(self, shown: Sequence[str], levels: Levels, plain: Sequence[str] | None = None) -> None:
        """Add tokens behind the last one. O(new tokens).

        shown: the text of each chip, empty inside an unfinished character. levels: fills (-1: none).
        plain: what copying gives, where that differs from what is shown (special tokens).
        """
        if not shown:
            return
        damaged = self._layout.line_of(self.tokens - 1) if self.tokens else 0
        self._layout.append(shown)
        self._plain.extend(shown if plain is None else plain)
        self._marks.fills.extend(levels.tolist())
        self._update_lines(max(0, damaged - 1), self._layout.lines)  # the dot may stand a line above
        self._fit_scroll_bar()
        if self._follow:
            self.verticalScrollBar().setValue(self.verticalScrollBar().maximum())

    def set_levels(self, levels: Levels) -> None:
        """Replace the fills of every token. O(tokens): for another quantity, not for a frame."""
        if len(levels) != self.tokens:
            raise ValueError(f"{len(levels)} levels for {self.tokens} tokens")
        fills = array("h", levels.astype(np.int16).tobytes())
        if fills.tobytes() != self._marks.fills.tobytes():  # arrays compare number by number
            self._marks.fills = fills
            self.viewport().update()

    def set_underlines(self, levels: Levels | None) -> None:
        """A bar under each token, its height the level in [0, 255]; None draws none. Tokens beyond it have none."""
        values = array("h", b"" if levels is None else levels.astype(np.int16).tobytes())
        if values.tobytes() != self._marks.underlines.tobytes():
            self._marks.underlines = values
            self.viewport().update()

    def set_compared(self, same: NDArray[np.bool_] | None, parted: int | None = None, colour: str = "") -> None:
        """Tokens that another text has, too, are quiet, the others marked in `colour`; None compares with nothing.

        same: as far as both texts go. parted: the first token that differs.
        """
        marks, after = self._marks, b"" if same is None else same.astype(np.uint8).tobytes()
        if (after, parted, colour) == (marks.same, marks.parted, marks.colour):
            return
        first = 0
        if (parted, colour) == (marks.parted, marks.colour) and after.startswith(marks.same) and self.tokens:
            first = self._layout.line_of(min(len(marks.same), self.tokens - 1))
        marks.same, marks.parted, marks.colour = after, parted, colour
        self._update_lines(first, self._layout.lines)

    @property
    def top_token(self) -> int:
        """The first token of the first line in view."""
        shown = self._layout.on_line(min(self.verticalScrollBar().value(), self._layout.lines - 1))
        return shown[0].token if shown else 0

    def scroll_to(self, token: int) -> None:
        """The line of this token becomes the first one in view, as far as there are lines below it."""
        if self.tokens:
            self.verticalScrollBar().setValue(self._layout.line_of(min(token, self.tokens - 1)))

    def set_struck(self, tokens: frozenset[int], gone: frozenset[int] = frozenset()) -> None:
        """A line through these tokens, two through those that are gone."""
        struck = tokens - gone
        if (struck, gone) != (self._marks.struck, self._marks.gone):
            self._marks.struck, self._marks.gone = struck, gone
            self.viewport().update()

    def set_source(self, copied: tuple[int, int], matched: tuple[tuple[int, int], ...]) -> None:
        """Dots around the tokens that a draft copied, a bar over those by which it found them; [start, stop) each."""
        marks = self._marks
        if (copied, matched) == (marks.copied, marks.matched):
            return
        spans = (marks.copied, copied, *marks.matched, *matched)
        marks.copied, marks.matched = copied, matched
        for line in {self._layout.line_of(t) for start, stop in spans for t in range(start, min(stop, self.tokens))}:
            self._update_lines(line, line + 1)

    def set_selected(self, token: int | None) -> None:
        """Frame a token and bring it into view; None frames none."""
        if token == self._marks.selected:
            return
        self._update_token(self._marks.selected)
        self._update_token(token)
        self._marks.selected = token
        if token is not None and token < self.tokens:
            self._ensure_visible(self._layout.line_of(token))

    def follow(self) -> None:
        """Scroll to the newest token and stay there."""
        self._set_follow(True)
        self.verticalScrollBar().setValue(self.verticalScrollBar().maximum())

    def text(self, first: int, last: int) -> str:
        """The plain text of a range of tokens, both ends included."""
        return "".join(self._plain[first : last + 1])

    def token_rect(self, token: int) -> QRect:
        """Where a token's first fragment is in the viewport; empty for an unfinished character."""
        places = self._layout.of_token(token)
        if not places:
            return QRect()
        line, fragment = places[0]
        return QRectF(MARGIN_PX + fragment.x, self._y(line), fragment.width, LINE_PX).toAlignedRect()

    def token_at(self, point: QPoint) -> int | None:
        """The token under a point of the viewport."""
        return self._layout.at(point.x() - MARGIN_PX, (point.y() - self._y(0)) // LINE_PX)

    # scrolling

    def _y(self, line: int) -> int:
        return (line - self.verticalScrollBar().value()) * LINE_PX

    def _fit_scroll_bar(self) -> None:
        """The bar counts lines: no line is ever cut at the upper edge."""
        bar, shown = self.verticalScrollBar(), max(1, self.viewport().height() // LINE_PX)
        bar.setPageStep(shown)
        follow = self._follow
        bar.setMaximum(max(0, self._layout.lines - shown))
        self._set_follow(follow)  # a shrinking range moves the value, which is not the user scrolling

    def _scrolled(self, value: int) -> None:
        self._set_follow(value >= self.verticalScrollBar().maximum())

    def _set_follow(self, follow: bool) -> None:
        if follow != self._follow:
            self._follow = follow
            self.follow_changed.emit(follow)

    def _ensure_visible(self, line: int) -> None:
        bar = self.verticalScrollBar()
        if not bar.value() <= line < bar.value() + bar.pageStep():
            bar.setValue(line - bar.pageStep() // 3)

    def scrollContentsBy(self, dx: int, dy: int) -> None:
        """Move what is painted already; Qt asks for the rest."""
        self.viewport().scroll(0, dy * LINE_PX)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Break the lines for the new width; a followed end stays in view."""
        follow = self._follow
        self._layout.resize(self.width() - MARGIN_PX - RIGHT_PX)
        self._fit_scroll_bar()
        if follow:
            self.follow()

    def sizeHint(self) -> QSize:
        """A few lines of a comfortable length."""
        return QSize(480, 8 * LINE_PX)

    # painting

    def _update_lines(self, first: int, stop: int) -> None:
        self.viewport().update(0, self._y(first), self.viewport().width(), (stop - first) * LINE_PX)

    def _update_token(self, token: int | None) -> None:
        if token is None or token >= self.tokens:
            return
        line = self._layout.line_of(token)
        places = self._layout.of_token(token)
        self._update_lines(line, (places[-1][0] if places else line) + 1)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The lines that the damaged rectangle touches."""
        painter = QPainter(self.viewport())
        rect = event.rect()
        painter.fillRect(rect, self._paint.surface)
        if not self.tokens:
            paint_empty(painter, self.viewport().rect(), self._palette, *self._empty)
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        top = self._y(0)
        first = max(0, (rect.top() - top) // LINE_PX)
        last = min(self._layout.lines - 1, (rect.bottom() - top) // LINE_PX)
        for line in range(first, last + 1):
            self._paint.paint_line(painter, self._layout.on_line(line), top + line * LINE_PX, self._marks)
        if last == self._layout.lines - 1 and self.tokens > self._marks.prompt_tokens:
            newest = self._layout.on_line(last)  # empty where the newest token ended its line
            x = newest[-1].x + newest[-1].width if newest else 0.0
            self._paint.paint_dot(painter, x, top + last * LINE_PX)

    # mouse and keyboard

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A press may become a click or the marking of a range."""
        point = event.position().toPoint()
        token = self.token_at(point)
        if event.button() == Qt.MouseButton.LeftButton:
            self._mark(None)
            self._pressed = None if token is None else (point, token)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Mark a range while dragging, else show what a click would select."""
        point = event.position().toPoint()
        token = self.token_at(point)
        if not (self._pressed and event.buttons() & Qt.MouseButton.LeftButton):
            self._hover(token)
            return
        start, first = self._pressed
        dragged = (point - start).manhattanLength() >= QApplication.startDragDistance()
        if token is not None and (dragged or self._marks.marked):
            self._mark((min(first, token), max(first, token)))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A press and release on one token is a click."""
        if event.button() == Qt.MouseButton.LeftButton and self._pressed and self._marks.marked is None:
            token = self.token_at(event.position().toPoint())
            if token == self._pressed[1]:
                self.clicked.emit(token)
        self._pressed = None

    def _mark(self, marked: tuple[int, int] | None) -> None:
        if marked != self._marks.marked:
            self._marks.marked = marked
            self.viewport().update()

    def _hover(self, token: int | None) -> None:
        if token != self._marks.hovered:
            self._update_token(self._marks.hovered)
            self._update_token(token)
            self._marks.hovered = token

    def viewportEvent(self, event: QEvent) -> bool:
        """Tooltips of tokens."""
        if event.type() == QEvent.Type.Leave:
            self._hover(None)
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            token = self.token_at(event.pos())
            text = "" if token is None else self.tooltip(token)
            if token is not None and text:
                QToolTip.showText(event.globalPos(), text, self.viewport(), self.token_rect(token))
            else:
                QToolTip.hideText()
            return True
        return super().viewportEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Copy and select all; the rest scrolls."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy()
        elif event.matches(QKeySequence.StandardKey.SelectAll) and self.tokens:
            self._mark((0, self.tokens - 1))
        else:
            super().keyPressEvent(event)

    def copy(self) -> None:
        """The marked tokens, else the whole output, as plain text."""
        first, last = self._marks.marked or (self._marks.prompt_tokens, self.tokens - 1)
        self._to_clipboard(self.text(first, last))

    def _to_clipboard(self, text: str) -> None:
        QApplication.clipboard().setText(text)
        self.copied.emit(text)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """What can be done with the token; copy what is marked, the output, or everything."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        by_mouse = event.reason() == QContextMenuEvent.Reason.Mouse
        token = self.token_at(event.pos()) if by_mouse else self._marks.selected
        if token is not None:
            self.more(menu, token)
        if self._marks.marked:
            menu.addAction(self.tr("Copy selection"), self.copy)
        first, last = self._marks.prompt_tokens, self.tokens - 1
        output = menu.addAction(self.tr("Copy output"), lambda: self._to_clipboard(self.text(first, last)))
        both = menu.addAction(self.tr("Copy prompt and output"), lambda: self._to_clipboard(self.text(0, last)))
        output.setEnabled(first <= last)
        both.setEnabled(last >= 0)
        menu.popup(event.globalPos())
