"""The benchmark of looking measures what it says; how fast anything is, no test asks."""

from __future__ import annotations

import pytest

from app import watching_bench


@pytest.mark.slow
@pytest.mark.usefixtures("qapp")
@pytest.mark.qt_log_ignore("This plugin does not support")  # of windows of their own, offscreen
def test_every_view_is_seen_and_none_and_both_are_measured() -> None:
    found = watching_bench.measure("tiny-gpt2", 24, 1, 40)
    both = found["watching"]
    assert both["every view"]["× nothing"] == both["every view"]["tokens/s"] / both["nothing watched"]["tokens/s"]
    assert "attention.thumbs" in found["views"]
    assert all(view["answers"] > 0 and 0 <= view["% of run"] <= 100 for view in found["views"].values())
    (memory,) = found["memory"].values()
    assert 0 < memory["records MB"] < memory["budget MB"]
    assert watching_bench.resident_bytes() >= 0


def test_the_resident_size_is_read_in_bytes() -> None:
    assert watching_bench._resident(["VmPeak:  9 kB", "VmRSS:\t  120 kB"]) == 120 * 1024
    assert watching_bench._resident([]) == 0
