"""The benchmark of painting measures what it says; how fast anything is, no test asks."""

from __future__ import annotations

import pytest

from app import image_bench


@pytest.mark.slow
@pytest.mark.usefixtures("qapp")
def test_painting_is_measured_against_generate() -> None:
    found = image_bench._model("tiny-imagegpt", 12, 1)
    assert set(found) == {"pixels/s", "× gen.", "frame ms", "p99 ms", "late p99"}
    assert all(value > 0 for name, value in found.items() if name != "late p99")
