"""The positions that the heatmap covers: a few named ranges, and one of the user's own."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtWidgets import QWidget

from app.panels.attention_questions import WHOLE, Span
from app.widgets.choice import Choice

NEWEST = 64


class RangeChoice(Choice):
    """Calls `chosen_span(start, stop)`; a range made by dragging is shown as its own option."""

    def __init__(self, chosen_span: Callable[[int, int | None], None], parent: QWidget | None = None) -> None:
        super().__init__("", "", self._choose, parent)
        self.set_label(self.tr("positions"))
        tip = self.tr("Positions of the heatmap; drag over its rows for a range of your own")
        self.setAccessibleName(tip)
        self.setToolTip(tip)
        self._chosen_span = chosen_span
        self._span: Span = WHOLE
        self._prompt_tokens = self._fed = 0

    def show_span(self, span: Span, prompt_tokens: int, fed: int) -> None:
        """The range in force, for a prompt of so many tokens and so many positions fed."""
        self._span, self._prompt_tokens, self._fed = span, prompt_tokens, fed
        options = [
            ("all", self.tr("all")),
            ("prompt", self.tr("prompt")),
            ("generated", self.tr("generated")),
            ("last", self.tr("last {0}").format(NEWEST)),
        ]
        key = next((name for name, one in self._named().items() if one == span and name != "last"), "own")
        if key == "own":
            stop = fed if span[1] is None else min(fed, span[1])
            options.append((key, f"{span[0]:,} – {stop:,}"))
        self.set_options(options)
        self.show_key(key)

    def _named(self) -> dict[str, Span]:
        first = self._prompt_tokens - 1  # the query that chose the first token
        newest = max(0, self._fed - NEWEST)
        return {"all": WHOLE, "prompt": (0, first + 1), "generated": (first, None), "last": (newest, None)}

    def _choose(self, key: str) -> None:
        self._chosen_span(*self._named().get(key, self._span))
