"""Pictures that are drawings (SVG, PDF): a few lines of them can take hours, so another process draws them.

As a program: `python -m app.vector_pictures FILE` writes height, width and RGBA pixels.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.state.texts import tr

KINDS = frozenset({"svg", "svgz", "pdf"})
MOST_S = 20.0
MOST_SIDE_PX = 1024  # models look at far fewer
MOST_BYTES = 2 << 30
ROOT = Path(__file__).resolve().parents[1]


class NotDrawnError(Exception):
    """A sentence, or nothing where the file is damaged."""


def draw(path: Path) -> NDArray[np.uint8]:
    """(H, W, 4) RGBA, the longer side at most MOST_SIDE_PX. Raises `NotDrawnError`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QT_QPA_PLATFORM": "offscreen"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "app.vector_pictures", str(path.resolve())],
            env=environment, capture_output=True, timeout=MOST_S, check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        said = tr("“{0}” takes longer than {1} s to draw; save it as a PNG first.")
        raise NotDrawnError(said.format(path.name[:60], f"{MOST_S:g}")) from None
    if done.returncode or len(done.stdout) < 8:
        raise NotDrawnError
    height, width = np.frombuffer(done.stdout, "<u4", 2).tolist()
    return np.frombuffer(done.stdout, np.uint8, offset=8).reshape(height, width, 4).copy()


def main(path: str) -> int:
    """The other process."""
    from PySide6.QtGui import QGuiApplication, QImageReader

    from app.pictures import pixels_of

    _limit_memory()
    application = QGuiApplication([])
    reader = QImageReader(path)
    reader.setDecideFormatFromContent(True)
    size = reader.size()
    if not size.isValid() or size.isEmpty():
        return 1
    if max(size.width(), size.height()) > MOST_SIDE_PX:
        share = MOST_SIDE_PX / max(size.width(), size.height())
        size.setWidth(max(1, round(size.width() * share)))
        size.setHeight(max(1, round(size.height() * share)))
        reader.setScaledSize(size)
    image = reader.read()
    del application
    if image.isNull():
        return 1
    pixels = pixels_of(image)
    sys.stdout.buffer.write(np.array(pixels.shape[:2], "<u4").tobytes() + pixels.tobytes())
    return 0


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has none; the time limit stays
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
