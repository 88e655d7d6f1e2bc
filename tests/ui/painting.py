"""Painting in a real window with tiny-imagegpt: what the tests of the canvas have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app import pictures
from app.state import intents as i
from app.state import select
from tests.ui.harness import Driven
from tests.ui.real import live, opened

MODEL = "tiny-imagegpt"
LEFT = Qt.MouseButton.LeftButton
ROWS = 14  # given: 32 pixels are painted
HERE = {"device": "cpu", "dtype": "fp32"}


@contextmanager
def painting(folder: Path) -> Iterator[Driven]:
    """A window with the Image layout and the model loaded."""
    with opened(folder / "settings.ini", MODEL, (1440, 900)) as driven:
        driven.do(i.SetLayout("image"))
        live(driven, lambda: driven.state.draft.image.token_ids is not None)
        yield driven


def click(qtbot: QtBot, canvas: object, pixel: int) -> None:
    qtbot.mouseClick(canvas, LEFT, pos=canvas.pixel_rect(pixel).center().toPoint())  # type: ignore[attr-defined]


def settle(one: Driven) -> None:
    for _ in range(3):
        one.frames(3)
        live(one, lambda: not any(select.is_waiting(one.state, slot) for slot in one.state.asked))
    one.frames(3)


def run(one: Driven, qtbot: QtBot) -> None:
    """Give some rows with a click, and run to the end."""
    click(qtbot, one.panel("canvas").start.canvas, ROWS * 16)
    qtbot.keyClick(one.window, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    live(one, lambda: one.state.run is not None and one.state.run.finish is not None)
    settle(one)


def colours(canvas: object) -> np.ndarray:
    """What the canvas shows, (H · W, 3)."""
    return pictures.pixels_of(canvas.picture())[:, :, :3].reshape(-1, 3)  # type: ignore[attr-defined]
