"""What the comparison says in words and numbers. Pure."""

from __future__ import annotations

import math
from html import escape

from app.panels import tables
from app.panels.compare_steps import ComparedSteps
from app.state import twins
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.state.twins import Pair
from app.widgets import numbers, step_text
from app.widgets.table_data import Column, Table


def empty() -> tuple[str, str]:
    """Title and hint while nothing is compared."""
    return (
        tr("Two branches side by side appear here"),
        tr("Choose Twin run… in the toolbar, or Compare in the menu of a branch."),
    )


def summary(state: AppState, pair: Pair, infinite: bool = False) -> str:
    """What differs and from where on, that later tokens follow different texts, and what an infinite one means."""
    text = twins.summary(state, pair)
    if twins.first_difference(pair) is not None:
        text = tr("{0}, different texts from there on.").format(text)
    if not infinite:
        return text
    return tr("{0} ▲ infinite: the second rules out what the first keeps.").format(text.removesuffix(".") + ".")


def piece_at(run: RunView, position: int) -> str:
    """The token at a position, prompt included; empty where there is none."""
    if position < run.prompt_tokens:
        return run.prompt.pieces[position]
    index = position - run.prompt_tokens
    return run.step(index).piece if index < run.count else ""


def bits(value: float) -> str:
    """A divergence; ∞ where the second rules out what the first keeps."""
    if math.isnan(value):
        return ""
    return "∞" if math.isinf(value) else numbers.significant(value)


def _sign(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def step_line(pair: Pair, steps: ComparedSteps, at: int) -> str:
    """The numbers of a step in a sentence."""
    if at >= steps.count:
        return ""
    position = steps.start + at
    ours, theirs = (step_text.spoken(piece_at(run, position)) for run in (pair.first, pair.second))
    return tr("At step {0} the first says {1}, the second {2}; KL divergence {3} bits.").format(
        at, ours, theirs, bits(float(steps.kl_bits[at]))
    )


def tooltip(pair: Pair, steps: ComparedSteps, at: int) -> str:
    """Both tokens and what each side gave them."""
    position, p = steps.start + at, steps.probability[at]
    lines = [tr("step {0} · KL divergence {1} bits").format(at, bits(float(steps.kl_bits[at])))]
    for side, run in enumerate((pair.first, pair.second)):
        named = step_text.quoted(piece_at(run, position))
        ours, theirs = (numbers.probability(float(value)) for value in p[side])
        lines.append(tr("{0} has {1} in the first, {2} in the second").format(named, ours.strip(), theirs.strip()))
        if pair_says_same(pair, position):
            break
    return "<div style='white-space:pre'>" + "<br>".join(map(escape, lines)) + "</div>"


def pair_says_same(pair: Pair, position: int) -> bool:
    """Whether both have the same token there."""
    same = twins.same_tokens(pair)
    return position < len(same) and bool(same[position])


def steps_table(pair: Pair, steps: ComparedSteps, selected: int | None) -> Table:
    """Every step: both tokens, the divergence, the probability of the first one's token on both sides."""
    places = range(steps.start, steps.start + steps.count)

    def pieces(run: RunView) -> list[str]:
        return [tables.token(piece_at(run, position)) for position in places]

    columns = (
        Column(tr("step"), range(steps.count)),
        Column(tr("first"), pieces(pair.first), numeric=False),
        Column(tr("second"), pieces(pair.second), numeric=False),
        Column(tr("KL, bits"), steps.kl_bits, bits),
        Column(tr("in the first"), steps.probability[:, 0, 0], numbers.probability),
        Column(tr("in the second"), steps.probability[:, 0, 1], numbers.probability),
        Column(tr("Δ probability"), steps.change, _sign),
    )
    chosen = selected if selected is not None and selected < steps.count else None
    return Table(columns, steps.count, (steps.key, steps.count), chosen)
