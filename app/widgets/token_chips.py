"""A draft's tokens as small chips on a few lines; what does not fit is counted."""

from __future__ import annotations

import html

from PySide6.QtCore import QEvent, QRectF, QSize, Qt
from PySide6.QtGui import QHelpEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.theme import fonts
from app.widgets.visible_text import one_line
from core.contract import PromptRow

LINE_PX = 20
CHIP_PX = 17
GAP_PX = 4
PAD_PX = 3
LONGEST = 24  # characters drawn of one token


class TokenChips(QWidget):
    """Paints what fits into `lines` lines, at a cost that does not grow with the prompt."""

    def __init__(self, lines: int = 2, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._lines = lines
        self._row: PromptRow | None = None
        self._stale = False
        self._boxes: list[tuple[QRectF, str, int]] = []  # chip, text, token index
        self.setFont(fonts.mono(fonts.SMALL_PX))
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(self.tr("Tokens of the prompt"))

    def sizeHint(self) -> QSize:
        return QSize(120, self._lines * LINE_PX)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()

    def show_row(self, row: PromptRow | None, stale: bool) -> None:
        """Show these tokens; stale ones (the text has changed since) are painted paler."""
        if row is self._row and stale == self._stale:
            return
        if row is not self._row:
            self._row = row
            self.setAccessibleDescription(" ".join(row.pieces[:50]) if row else "")
            self._place()
        self._stale = stale
        self.update()

    @property
    def hidden_tokens(self) -> int:
        """Tokens that did not fit."""
        return (len(self._row.pieces) if self._row else 0) - len(self._boxes)

    def _place(self) -> None:
        self._boxes = []
        if self._row is None:
            return
        metrics = self.fontMetrics()
        more = metrics.horizontalAdvance("+999,999 ")
        x, line = 0.0, 0
        for index, piece in enumerate(self._row.pieces):
            text = one_line(piece)
            text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
            width = metrics.horizontalAdvance(text) + 2 * PAD_PX
            last = line == self._lines - 1
            if x + width > self.width() - (more if last else 0) and x > 0:
                if last:
                    break
                x, line = 0.0, line + 1
            self._boxes.append((QRectF(x, line * LINE_PX + 1, width, CHIP_PX), text, index))
            x += width + GAP_PX

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._place()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colours = self.palette()
        for box, text, _ in self._boxes:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setOpacity(0.3 if self._stale else 1.0)  # of the chip; its text stays readable
            painter.setBrush(colours.alternateBase())
            painter.drawRoundedRect(box, 3, 3)
            painter.setOpacity(1.0)
            painter.setPen(colours.placeholderText().color())
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)
        if self._boxes and self.hidden_tokens:
            end = self._boxes[-1][0]
            painter.drawText(QRectF(end.right() + GAP_PX, end.top(), 200, CHIP_PX), 0x80, f"+{self.hidden_tokens:,}")

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            hit = next((index for box, _, index in self._boxes if box.contains(event.pos())), None)
            if hit is None or self._row is None:
                QToolTip.hideText()
            else:
                tip = f"{one_line(self._row.pieces[hit])}\n{self.tr('token id {0}').format(self._row.token_ids[hit])}"
                QToolTip.showText(event.globalPos(), html.escape(tip).replace("\n", "<br>"), self)
            return True
        return super().event(event)
