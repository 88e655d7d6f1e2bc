"""The summaries of heads as they arrive: which layers are known, what each head does."""

from __future__ import annotations

from app.panels.attention_words import LETTERS
from app.panels.looking_tables import KINDS
from app.state.texts import tr
from app.widgets import numbers
from core.contract import HeadsAnswer


class HeadSummaries:
    """By layer: the newest answer that has it, and its place in that answer."""

    def __init__(self) -> None:
        self.by_layer: dict[int, tuple[HeadsAnswer, int]] = {}
        self.seen: dict[int, int] = {}  # layer → positions its summary covers
        self.version = 0

    def clear(self) -> None:
        """Another run."""
        self.by_layer.clear()
        self.seen.clear()
        self.version += 1

    def take(self, answer: HeadsAnswer) -> None:
        """Keep the layers of an answer."""
        for index, layer in enumerate(answer.query.layers):
            self.by_layer[layer] = answer, index
            self.seen[layer] = answer.rows[1]
        self.version += 1

    def letters(self) -> dict[tuple[int, int], str]:
        """A letter for every head that is found to be a sink, an induction or a previous-token head."""
        kinds = {
            (layer, head): answer.kind(index, head)
            for layer, (answer, index) in self.by_layer.items()
            for head in range(answer.first.shape[1])
        }
        return {place: LETTERS[kind] for place, kind in kinds.items() if kind}

    def tooltip(self, layer: int, head: int) -> str:
        """What is known of a head, plain text."""
        lines = [tr("Layer {0}, head {1}").format(layer, head)]
        if layer in self.by_layer:
            answer, index = self.by_layer[layer]
            kind = answer.kind(index, head)
            if kind:
                lines[0] += f" · {tr(KINDS[kind])}"
            lines.append(tr("entropy {0} bits").format(numbers.significant(float(answer.entropy_bits[index, head]))))
            for name, values in (
                (tr("on position 0"), answer.first),
                (tr("on the token before"), answer.previous),
                (tr("induction"), answer.induction),
            ):
                value = float(values[index, head])
                lines.append(f"{name} {value:.3f}" if value == value else f"{name} –")
        return "\n".join([*lines, tr("Ctrl+click joins several heads, Shift+click mutes one")])
