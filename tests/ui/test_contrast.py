"""Every text that the window paints itself is readable on what it is painted on: 4.5:1, in every theme.

Texts are caught where they are painted; the ground is the most frequent colour of their box in the finished picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PySide6.QtCore import QPointF, QRectF
from PySide6.QtGui import QFontMetricsF, QImage, QPainter
from PySide6.QtWidgets import QApplication, QWidget

from app.panels.attention_questions import FOCUS_SLOT, THUMBNAILS_SLOT
from app.state import intents as i
from app.state import select
from app.theme.colormaps import contrast
from app.theme.palette import ThemeName
from app.widgets.text_cache import TextCache
from tests.ui import synthetic
from tests.ui.harness import Driven, driven

READABLE = 4.5
Rgb = tuple[int, int, int]
Painted = tuple[QWidget, QRectF, Rgb, float, str]  # where, its box, colour, opacity, text

pytestmark = pytest.mark.usefixtures("qapp")


@contextmanager
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Painted]]:
    """Every text painted inside the block."""
    found: list[Painted] = []
    draw, draw_text = TextCache.draw, QPainter.drawText

    def note(painter: QPainter, box: QRectF, text: str) -> None:
        device = painter.device()
        if isinstance(device, QWidget) and text.strip():
            colour = painter.pen().color()
            opacity = painter.opacity() * colour.alphaF()
            place = painter.worldTransform().mapRect(box)
            found.append((device, place, (colour.red(), colour.green(), colour.blue()), opacity, text))

    def noting_draw(self: TextCache, painter: QPainter, x: float, baseline: float, text: str) -> None:
        rise = 2 * self.rise
        note(painter, QRectF(x, baseline - rise, self.width(text), rise), text)
        draw(self, painter, x, baseline, text)

    def noting_text(self: QPainter, *args: Any) -> Any:
        text = args[-1]
        if isinstance(args[0], QPointF):
            metrics = QFontMetricsF(self.font())
            rise = metrics.capHeight()
            note(self, QRectF(args[0].x(), args[0].y() - rise, metrics.horizontalAdvance(text), rise), text)
        else:
            note(self, QRectF(args[0]), text)
        return draw_text(self, *args)

    monkeypatch.setattr(TextCache, "draw", noting_draw)
    monkeypatch.setattr(QPainter, "drawText", noting_text)
    yield found
    monkeypatch.undo()


def ground(picture: QImage, box: QRectF) -> Rgb | None:
    """The most frequent colour of a box; None outside of the picture."""
    cut = box.toAlignedRect().intersected(picture.rect())
    if cut.isEmpty():
        return None
    part = picture.copy(cut).convertToFormat(QImage.Format.Format_RGB888)
    rows = np.frombuffer(part.constBits(), np.uint8).reshape(part.height(), -1)[:, : 3 * part.width()]
    colours, counts = np.unique(rows.reshape(-1, 3), axis=0, return_counts=True)
    red, green, blue = colours[counts.argmax()].tolist()
    return red, green, blue


def seen(colour: Rgb, opacity: float, under: Rgb) -> Rgb:
    red, green, blue = (round(c * opacity + u * (1 - opacity)) for c, u in zip(colour, under, strict=True))
    return red, green, blue


def unreadable(painted: list[Painted], window: QWidget, picture: QImage) -> list[str]:
    found = []
    for widget, box, colour, opacity, text in painted:
        if not widget.isVisibleTo(window) or not widget.isEnabled():
            continue
        place = QRectF(box)
        place.translate(QPointF(widget.mapTo(window, widget.rect().topLeft())))
        under = ground(picture, place)
        if under is None:
            continue
        ratio = contrast(seen(colour, opacity, under), under)
        if ratio < READABLE:
            owner = widget if type(widget) is not QWidget else widget.parentWidget()
            found.append(f"{type(owner).__name__}: {text[:30]!r} {colour} ({opacity:.2f}) on {under}: {ratio:.2f}")
    return sorted(set(found))


def filled(one: Driven, theme: ThemeName, change: i.Intent | None) -> None:
    """A run with tokens, candidates, attention and cache, made without a model."""
    bench = synthetic.Bench(synthetic.state(60))
    bench.state = replace(bench.state, theme=theme)
    one.store.state = bench.state
    one.frames(2)
    for slot in (FOCUS_SLOT, THUMBNAILS_SLOT):
        if slot in one.state.asked:
            bench.state = one.state
            bench.answer(slot)
            one.store.state = bench.state
    if change is not None:
        one.do(change)
    one.frames(4)


@pytest.mark.parametrize("theme", get_args(ThemeName))
@pytest.mark.parametrize(
    "change", [None, i.SelectStep(7), i.SetColour("surprisal")], ids=["newest", "selected", "surprisal"]
)
def test_painted_text_is_readable(
    theme: ThemeName, change: i.Intent | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driven(tmp_path / "settings.json") as one:
        filled(one, theme, change)
        if change is None:
            one.panel("output")._choose_colour("attention")
            one.frames(3)
        with caught(monkeypatch) as painted:
            picture = one.window.grab().toImage()
        QApplication.processEvents()
        widgets = {
            type(widget.parentWidget() if type(widget) is QWidget else widget).__name__ for widget, *_ in painted
        }
        assert {"TokenFlow", "CandidateBars", "Heatmap", "LayerBars", "SeriesPlot", "Thumbnails"} <= widgets
        assert len(painted) > 150
        assert unreadable(painted, one.window, picture) == []


@pytest.mark.parametrize("theme", get_args(ThemeName))
def test_text_of_the_lens_is_readable_on_every_colour(
    theme: ThemeName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driven(tmp_path / "settings.json") as one:
        for intent in (i.SetTheme(theme), i.SetLayout("attention"), i.Run()):
            one.do(intent)
        one.until(lambda: not select.is_active(one.state))
        one.window.workspace.cards["lens"].toggleViewAction().trigger()
        panel, texts = one.panel("lens"), set()
        for page in range(3):
            panel.tabs.setCurrentIndex(page)
            one.frames(12)
            with caught(monkeypatch) as painted:
                picture = one.window.grab().toImage()
            QApplication.processEvents()
            texts |= {text for *_, text in painted}
            assert unreadable(painted, one.window, picture) == [], page
        assert any(text.startswith("parts of the logit") for text in texts), sorted(texts)
        assert {"emb", "bias", "rnd", "out", "attention", "residual"} <= texts
