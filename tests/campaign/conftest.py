"""The campaigns' table of figures at the end of the output."""

from __future__ import annotations

import os

import pytest

from tests.campaign import figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, and under which load."""
    if figures.FIGURES:
        terminalreporter.section("campaign figures")
        for line in figures.table():
            terminalreporter.write_line(line)
        if hasattr(os, "getloadavg"):
            terminalreporter.write_line(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
