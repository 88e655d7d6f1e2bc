"""Numbers as the window writes them: three significant digits, a fixed width, units in powers of 1000."""

from __future__ import annotations

import math


def probability(value: float) -> str:
    """Five characters for any probability: `0.491`, `1.000`, ` 4e-5`, `    0`."""
    if value >= 0.0005:
        return f"{min(value, 1.0):.3f}"
    if value <= 0.0:
        return "    0"
    exponent = math.floor(math.log10(value))
    digit = round(value / 10.0**exponent)
    if digit == 10:
        digit, exponent = 1, exponent + 1
    return f"{digit}e{exponent}".rjust(5)


def percent(value: float) -> str:
    """A probability as it is read aloud: `62 %`, `0.4 %`, `below 0.1 %`."""
    share = 100.0 * value
    if share >= 9.95:
        return f"{share:.0f} %"
    return f"{share:.1f} %" if share >= 0.1 else ("0 %" if share <= 0.0 else "below 0.1 %")


def significant(value: float) -> str:
    """Three significant digits without an exponent: `0.03`, `1.92`, `19.2`, `192`, `1,920`."""
    size = abs(value)
    if size < 9.995:
        return f"{value:.2f}"
    if size < 99.95:
        return f"{value:.1f}"
    return f"{value:,.0f}"


def byte_count(count: float) -> str:
    """`960 B`, `23.0 kB`, `1.40 MB`: powers of 1000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{significant(size)} {unit}"
        size /= 1000.0
    return f"{significant(size)} TB"


def duration(ms: float) -> str:
    """`120 ms`, `45 s`, `3 min 20 s`, `2 h 5 min`, `3 days`."""
    if ms < 999.5:
        return f"{ms:.0f} ms"
    seconds = round(ms / 1000.0)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400:,} days"
