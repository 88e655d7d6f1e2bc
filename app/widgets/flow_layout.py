"""Where each token of a token flow stands: incremental line breaking over token widths, no Qt.

A token never moves once it is placed: lines break between tokens, so that text which streams in does not jump.
A token is one fragment, or several where it holds line breaks or is wider than a line. Only the starts of the lines
are kept; a line ends where the running sum of the widths does, which bisection finds, so another width costs
O(lines · log tokens). Fragments are made for the lines somebody looks at.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from app.widgets.visible_text import Part, parts


@dataclass(frozen=True, slots=True)
class FlowMetrics:
    """Distances in px. cell: one character. pad: inside a chip, left and right. gap: between two chips.

    space: extra gap for one leading space; several leading spaces take a cell each, so that code stays aligned.
    """

    cell: float
    pad: float = 3.0
    gap: float = 1.0
    space: float = 7.0

    def lead(self, spaces: int) -> float:
        """Width of so many leading spaces."""
        return self.space if spaces == 1 else self.cell * spaces


class Fragment(NamedTuple):
    """A chip on a line: `x` is its left edge, `lead` leading spaces stand in front of it."""

    token: int
    text: str
    x: float
    width: float
    lead: int
    quiet: bool


class FlowLayout:
    """Lines of fragments for a growing list of tokens. `append` costs O(new tokens), `resize` O(lines)."""

    def __init__(self, metrics: FlowMetrics, measure: Callable[[str], float], width: float = 400.0) -> None:
        self._metrics = metrics
        self._measure = measure
        self._widths: dict[str, float] = {}
        self.width = width
        self.clear()

    def clear(self) -> None:
        """Forget every token."""
        self._parts: list[Part] = []
        self._part_token: list[int] = []
        self._part_width: list[float] = []  # of the chip: text and padding
        self._sums = [0.0]  # part → room taken by the parts before it, side by side
        self._breaks: list[int] = []  # parts that end in a line break
        self._token_part: list[int] = []  # token → its first part
        self._start_lines()

    def _start_lines(self) -> None:
        self._line_part: list[int] = [0]  # line → its first part
        self._line_char: list[int] = [0]  # line → where in that part it begins: a part may fill several lines
        self._made: dict[int, list[Fragment]] = {}

    @property
    def lines(self) -> int:
        """Number of lines, at least 1."""
        return len(self._line_part)

    def append(self, texts: Iterable[str]) -> None:
        """Place more tokens after the last one; an empty text takes no room (an unfinished character)."""
        m = self._metrics
        for text in texts:
            token = len(self._token_part)
            self._token_part.append(len(self._parts))
            for part in parts(text):
                width = self._text_width(part.text) + 2 * m.pad
                if part.breaks:
                    self._breaks.append(len(self._parts))
                self._parts.append(part)
                self._part_token.append(token)
                self._part_width.append(width)
                self._sums.append(self._sums[-1] + m.lead(part.lead) + width + m.gap)
        self._made.pop(self.lines - 1, None)
        self._break_lines()

    def resize(self, width: float) -> None:
        """Break the lines for another width."""
        if width != self.width:
            self.width = width
            self._start_lines()
            self._break_lines()

    # breaking lines

    def _break_lines(self) -> None:
        """Lines from the last one on, until everything has a place."""
        while self._line_part[-1] < len(self._parts):
            after = self._line_after(self._line_part[-1], self._line_char[-1])
            if after is None:
                return
            self._line_part.append(after[0])
            self._line_char.append(after[1])

    def _line_after(self, part: int, char: int) -> tuple[int, int] | None:
        """Where the line that begins here ends; None where everything left fits."""
        x, width = self._first_x(part, char), self._rest_width(part, char)
        if x + width > self.width:
            rest = self._parts[part].text[char:]
            fits = self._fitting(rest, self.width - x - 2 * self._metrics.pad)
            if fits < len(rest):
                return part, char + fits
        if self._parts[part].breaks:
            return part + 1, 0
        limit = self._sums[part + 1] + self.width - x - width
        too_far = bisect_right(self._sums, limit, part + 2) - 1  # the first part that does not fit behind the first
        nth = bisect_left(self._breaks, part)
        if nth < len(self._breaks) and self._breaks[nth] < too_far:
            return self._breaks[nth] + 1, 0
        return (too_far, 0) if too_far < len(self._parts) else None

    def _first_x(self, part: int, char: int) -> float:
        """Where the first chip of a line stands: behind its indentation, unless that was a space between two words."""
        m, first = self._metrics, self._parts[part]
        wrapped = part > 0 and not self._parts[part - 1].breaks
        if char or (wrapped and first.lead == 1):
            return 0.0
        x = m.lead(first.lead)
        indentation_fills = x + 2 * m.pad + m.cell > self.width
        return 0.0 if indentation_fills else x

    def _rest_width(self, part: int, char: int) -> float:
        if not char:
            return self._part_width[part]
        return self._text_width(self._parts[part].text[char:]) + 2 * self._metrics.pad

    def _fitting(self, text: str, room: float) -> int:
        """How many characters of the text fit; at least one."""
        fits = max(1, min(len(text), int(room / self._metrics.cell)))
        while fits > 1 and self._text_width(text[:fits]) > room:
            fits -= 1
        return fits

    def _text_width(self, text: str) -> float:
        if text.isascii():
            return len(text) * self._metrics.cell
        width = self._widths.get(text)
        if width is None:
            width = self._widths[text] = self._measure(text)
        return width

    # looking

    def on_line(self, line: int) -> list[Fragment]:
        """The fragments of a line, left to right."""
        made = self._made.get(line)
        if made is None:
            made = self._made[line] = self._fragments(line)
        return made

    def _fragments(self, line: int) -> list[Fragment]:
        m, part, char = self._metrics, self._line_part[line], self._line_char[line]
        if part >= len(self._parts):
            return []
        last = line + 1 == self.lines
        stop, stop_char = (len(self._parts), 0) if last else (self._line_part[line + 1], self._line_char[line + 1])
        x, first = self._first_x(part, char), self._parts[part]
        if stop == part:  # the part goes on on the next line
            text = first.text[char:stop_char]
            width = self._text_width(text) + 2 * m.pad
        else:
            text, width = first.text[char:], self._rest_width(part, char)
        made = [Fragment(self._part_token[part], text, x, width, 0 if char else first.lead, first.quiet)]
        for i in range(part + 1, stop):
            p = self._parts[i]
            x += width + m.gap + m.lead(p.lead)
            width = self._part_width[i]
            made.append(Fragment(self._part_token[i], p.text, x, width, p.lead, p.quiet))
        return made

    def of_token(self, token: int) -> list[tuple[int, Fragment]]:
        """(line, fragment) of every fragment of a token."""
        first = self._token_part[token]
        stop = self._token_part[token + 1] if token + 1 < len(self._token_part) else len(self._parts)
        if first == stop:
            return []
        lines = range(self._line_of_part(first), bisect_right(self._line_part, stop - 1))
        return [(line, f) for line in lines for f in self.on_line(line) if f.token == token]

    def line_of(self, token: int) -> int:
        """The line where a token begins (an unfinished character: where it would stand)."""
        return self._line_of_part(self._token_part[token])

    def _line_of_part(self, part: int) -> int:
        line = bisect_left(self._line_part, part)
        return line if line < self.lines and self._line_part[line] == part else line - 1

    def at(self, x: float, line: int) -> int | None:
        """The token at a place, its leading space included; None beside the text."""
        if not 0 <= line < self.lines:
            return None
        for fragment in self.on_line(line):
            if fragment.x - self._metrics.lead(fragment.lead) <= x < fragment.x + fragment.width + self._metrics.gap:
                return fragment.token
        return None
