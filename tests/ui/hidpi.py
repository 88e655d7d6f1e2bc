"""The whole program at the scale that QT_SCALE_FACTOR asks for: `python -m tests.ui.hidpi OUT.png`, facts as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from PySide6.QtCore import QRectF
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QWidget

from app.offscreen import Stage, stage
from app.state import intents as i
from tests.ui.harness import clipped

SIZE = (1024, 640)


def pixels(image: QImage) -> np.ndarray:
    """(H, W) words 0xRRGGBB in device pixels."""
    image = image.convertToFormat(QImage.Format.Format_RGB32)
    words = np.frombuffer(image.constBits(), np.uint32).reshape(image.height(), image.bytesPerLine() // 4)
    return words[:, : image.width()] & 0xFFFFFF


def blurred(picture: np.ndarray, cells: list[QRectF], scale: float) -> int:
    """Of these squares (logical pixels), those that are not of one colour up to a device pixel from their edges."""
    found = 0
    for cell in cells:
        top, left = (int(np.ceil(v * scale)) + 1 for v in (cell.top(), cell.left()))
        bottom, right = (int(np.floor(v * scale)) - 1 for v in (cell.bottom(), cell.right()))
        inside = picture[top:bottom, left:right]
        assert inside.size, cell
        found += len(np.unique(inside)) > 1
    return found


def grabbed(widget: QWidget) -> np.ndarray:
    """The widget as it is on the screen, in device pixels."""
    return pixels(widget.grab().toImage())


def window_facts(scene: Stage) -> dict[str, Any]:
    """What is drawn where it should not be, and how large the picture of the window is."""
    shown = scene.window.grab()
    return {"size": shown.size().toTuple(), "clipped": clipped(scene.window)}


def heatmap_facts(scene: Stage) -> dict[str, Any]:
    """Every cell but those with a mark is of one colour."""
    heatmap: Any = scene.window.workspace.cards["attention"].panel.heatmap  # type: ignore[attr-defined]
    g, side = heatmap._geometry, heatmap._matrix.side
    scale = heatmap.devicePixelRatioF()
    cells = [
        QRectF(g.left + c * g.cell_px, g.top + r * g.cell_px, g.cell_px, g.cell_px)
        for r in range(side - 2)
        for c in range(r)
    ]
    return {"cells": len(cells), "blurred": blurred(grabbed(heatmap), cells, scale)}


def canvas_facts(scene: Stage) -> dict[str, Any]:
    """Every given pixel but those next to the line is a square of its colour."""
    canvas: Any = scene.window.workspace.cards["canvas"].panel.result.canvas  # type: ignore[attr-defined]
    scale, width = canvas.devicePixelRatioF(), canvas.picture().width()
    given = canvas._given // width * width - 2 * width
    cells = [canvas.pixel_rect(pixel) for pixel in range(given)]
    picture, image = grabbed(canvas), pixels(canvas.picture())
    wrong = 0
    for pixel, cell in enumerate(cells):
        middle = cell.center() * scale
        wrong += int(picture[int(middle.y()), int(middle.x())] != image.flat[pixel])
    return {"cells": len(cells), "blurred": blurred(picture, cells, scale), "wrong": wrong}


def main(path: str) -> None:
    """A text, then a picture."""
    with stage("tiny-gpt2", "everything", SIZE) as scene:
        scene.load()
        scene.run("Once upon a time there was", 8)
        scene.settle()
        facts = {"ratio": scene.window.devicePixelRatioF(), "text": window_facts(scene)}
        scene.window.grab().save(path)
        facts["heatmap"] = heatmap_facts(scene)
        scene.store.dispatch(i.ChooseModel(name="tiny-imagegpt"))
        scene.wait(lambda s: s.model is not None and s.model.image is not None, 60.0, "the image model")
        scene.store.dispatch(i.SetLayout("image"))
        scene.settle()
        scene.run(None, 6)
        scene.settle()
        facts |= {"image": window_facts(scene), "canvas": canvas_facts(scene)}
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
