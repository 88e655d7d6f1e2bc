"""Where each token of a token flow stands: incremental line breaking over token widths, no Qt.

A token never moves once it is placed: lines break between tokens, so that text which streams in does not jump.
A token is one fragment, or several where it holds line breaks or is wider than a line. Columns, not objects:
placing a token, finding a token by its place and finding a place by its token are O(1) or O(log n).
"""

from __future__ import annotations

from bisect import bisect_right
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
    """Lines of fragments for a growing list of tokens; `resize` lays everything out again, `append` only the new."""

    def __init__(self, metrics: FlowMetrics, measure: Callable[[str], float], width: float = 400.0) -> None:
        self._metrics = metrics
        self._measure = measure
        self._widths: dict[str, float] = {}
        self.width = width
        self.texts: list[str] = []
        self.clear()

    def clear(self) -> None:
        """Forget every token."""
        self.texts.clear()
        self._restart()

    def _restart(self) -> None:
        self.fragments: list[Fragment] = []
        self._token_fragment: list[int] = []  # token → index of its first fragment
        self._line_start: list[int] = [0]  # line → index of its first fragment
        self._x = 0.0  # where the last line ends

    @property
    def lines(self) -> int:
        """Number of lines, at least 1."""
        return len(self._line_start)

    def append(self, texts: Iterable[str]) -> None:
        """Place more tokens after the last one; an empty text takes no room (an unfinished character)."""
        for text in texts:
            self.texts.append(text)
            self._place(len(self.texts) - 1, text)

    def resize(self, width: float) -> None:
        """Lay all tokens out for another line width. O(tokens)."""
        if width == self.width:
            return
        self.width = width
        self._restart()
        for token, text in enumerate(self.texts):
            self._place(token, text)

    def _place(self, token: int, text: str) -> None:
        self._token_fragment.append(len(self.fragments))
        for part in parts(text):
            self._place_part(token, part)
            if part.breaks:
                self._new_line()

    def _place_part(self, token: int, part: Part) -> None:
        m = self._metrics
        width = self._text_width(part.text) + 2 * m.pad
        x = self._x + m.lead(part.lead)
        if x + width > self.width and self._x > 0:
            self._new_line()
            x = 0.0 if part.lead == 1 else m.lead(part.lead)
        if x + width > self.width:
            self._place_long(token, part, x)
            return
        self.fragments.append(Fragment(token, part.text, x, width, part.lead, part.quiet))
        self._x = x + width + m.gap

    def _place_long(self, token: int, part: Part, x: float) -> None:
        """A part wider than a line: cut into as many full lines as it needs."""
        m = self._metrics
        lead, rest = part.lead, part.text
        if x + 2 * m.pad + m.cell > self.width:  # indentation alone fills the line
            x = 0.0
        while rest:
            fits = self._fitting(rest, self.width - x - 2 * m.pad)
            head, rest = rest[:fits], rest[fits:]
            width = self._text_width(head) + 2 * m.pad
            self.fragments.append(Fragment(token, head, x, width, lead, part.quiet))
            self._x = x + width + m.gap
            lead = 0
            if rest:
                self._new_line()
                x = 0.0

    def _fitting(self, text: str, room: float) -> int:
        """How many characters of the text fit; at least one."""
        fits = max(1, min(len(text), int(room / self._metrics.cell)))
        while fits > 1 and self._text_width(text[:fits]) > room:
            fits -= 1
        return fits

    def _new_line(self) -> None:
        self._line_start.append(len(self.fragments))
        self._x = 0.0

    def _text_width(self, text: str) -> float:
        if text.isascii():
            return len(text) * self._metrics.cell
        width = self._widths.get(text)
        if width is None:
            width = self._widths[text] = self._measure(text)
        return width

    def on_line(self, line: int) -> list[Fragment]:
        """The fragments of a line, left to right."""
        start = self._line_start[line]
        end = self._line_start[line + 1] if line + 1 < self.lines else len(self.fragments)
        return self.fragments[start:end]

    def of_token(self, token: int) -> list[tuple[int, Fragment]]:
        """(line, fragment) of every fragment of a token."""
        first = self._token_fragment[token]
        last = self._token_fragment[token + 1] if token + 1 < len(self._token_fragment) else len(self.fragments)
        return [(self._line_of_fragment(i), self.fragments[i]) for i in range(first, last)]

    def line_of(self, token: int) -> int:
        """The line where a token begins (an unfinished character: where it would stand)."""
        return min(self._line_of_fragment(self._token_fragment[token]), self.lines - 1)

    def _line_of_fragment(self, index: int) -> int:
        return bisect_right(self._line_start, index) - 1

    def at(self, x: float, line: int) -> int | None:
        """The token at a place, its leading space included; None beside the text."""
        if not 0 <= line < self.lines:
            return None
        for fragment in self.on_line(line):
            if fragment.x - self._metrics.lead(fragment.lead) <= x < fragment.x + fragment.width + self._metrics.gap:
                return fragment.token
        return None
