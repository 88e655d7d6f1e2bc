"""What a view says while it has nothing to show: what will appear, and how to get it."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QTextOption

from app.theme import fonts
from app.theme.palette import Palette


def paint_empty(painter: QPainter, rect: QRect, palette: Palette, title: str, hint: str = "") -> None:
    """A title and a hint in the middle of the view, wrapped, as plain text."""
    area = QRectF(rect).adjusted(12, 4, -12, -4)
    option = QTextOption(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
    option.setWrapMode(QTextOption.WrapMode.WordWrap)
    flags = int(Qt.AlignmentFlag.AlignHCenter | Qt.TextFlag.TextWordWrap)
    title_font, hint_font = fonts.ui(fonts.BODY_PX), fonts.ui(fonts.SMALL_PX)
    painter.setFont(title_font)
    title_height = painter.boundingRect(area, flags, title).height()
    painter.setFont(hint_font)
    hint_height = painter.boundingRect(area, flags, hint).height() if hint else 0.0
    top = area.top() + max(0.0, (area.height() - title_height - hint_height - 4) * 0.45)
    painter.setFont(title_font)
    painter.setPen(QColor(palette.text))
    painter.drawText(QRectF(area.left(), top, area.width(), title_height), title, option)
    painter.setFont(hint_font)
    painter.setPen(QColor(palette.secondary))
    painter.drawText(QRectF(area.left(), top + title_height + 4, area.width(), hint_height + 2), hint, option)
