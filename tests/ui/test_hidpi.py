"""The program on screens of other pixel densities: a real run, in a process of its own for each scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 1024, 640


@pytest.mark.parametrize(
    "scale", [pytest.param(1.0, marks=pytest.mark.slow), pytest.param(1.5, marks=pytest.mark.slow), 2.0]
)
def test_the_window_is_whole_and_sharp_at_every_scale(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "window.png"
    environment = os.environ | {"QT_SCALE_FACTOR": str(scale), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ui.hidpi", str(path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    wanted = [WIDTH * scale, HEIGHT * scale]
    assert facts["ratio"] == scale
    for shown in ("text", "image"):
        assert facts[shown] == {"size": wanted, "clipped": []}
    saved = QImage(str(path))
    assert [saved.width(), saved.height()] == wanted
    assert facts["heatmap"]["cells"] > 50
    assert facts["heatmap"]["blurred"] == 0
    assert facts["canvas"]["cells"] > 50
    assert (facts["canvas"]["blurred"], facts["canvas"]["wrong"]) == (0, 0)
