"""Bytes as sentences say them."""

from __future__ import annotations


def byte_count(count: int) -> str:
    """Three significant digits, powers of 1000: `960 B`, `513 kB`, `1.08 GB`."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while abs(value) >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}" if value < 999.5 else f"{value:,.0f} {units[0]}"
