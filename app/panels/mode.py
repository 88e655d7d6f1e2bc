"""What the mode did at the step shown: candidates compared, layers contrasted, tokens drafted, guidance applied."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.panels import tables
from app.panels.panel import Dispatch, Panel
from app.panels.pixels import show_swatches
from app.state import select
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.widgets import numbers
from app.widgets.detail_rows import DetailRow, DetailRows, Quantity
from app.widgets.focus_ring import FocusRing
from app.widgets.readout import Readout
from app.widgets.twin import Twin, TwinStack
from app.widgets.visible_text import one_line, plain_tip
from core.contract import AssistedDetail, ContrastiveDetail, DolaDetail, GuidanceDetail, StepSnapshot

Shown = tuple[str, tuple[Quantity, ...], list[DetailRow], tuple[str, ...]]  # first title, columns, rows, words


class ModePanel(Panel):
    """Shows the detail of one step."""

    name = "mode"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Mode")
        self.rows = DetailRows()
        self.rows.setAccessibleName(self.tr("What the mode did at this step"))
        FocusRing(self.rows)
        self._say_empty(None)
        self.words = Readout(numbers=False, parent=self)
        self.twins = TwinStack(self.title, self.rows, (Twin(self.title, (self.rows,)),), self)
        self.twins.turned.connect(self._show_table)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.words)  # in the title bar of a narrow card there is no room for it
        box.addWidget(self.twins)
        self._shown: tuple[object, ...] = ()
        self._theme = ""

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button,)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """As many words as fit."""
        self.words.set_room(self.width())

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Follow the step shown."""
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            for widget in (self.rows, self.twins, self.words):
                widget.set_palette(palette)
        show_swatches(state, self.rows)
        run, index = state.run, select.step_index(state)
        shown = (None if run is None else run.key, index)
        if shown == self._shown:
            return
        self._shown = shown
        found = None if run is None or index is None else detail_rows(run, run.step(index))
        if found is None:
            self._say_empty(run)
            self.subtitle = ""
            self.rows.show_rows("", (), ())
            self._say("")
        else:
            name, quantities, rows, words = found
            self.subtitle = run.plan.mode.replace("_", " ") if run is not None else ""
            self.rows.show_rows(name, quantities, rows)
            self._say(*words)
        self.rows.setAccessibleDescription(self.describe())
        self._show_table()

    def _say_empty(self, run: RunView | None) -> None:
        what = self.tr("What a mode does at each step appears here")
        if run is not None and run.count:
            what = self.tr("{0} adds nothing at this step").format(run.plan.mode.replace("_", " ").capitalize())
        self.rows.set_empty(what, self.tr("Choose contrastive search, DoLa, a draft or guidance as the mode, and run."))

    def _say(self, *words: str) -> None:
        self.words.set_wordings(*words)
        self.words.setToolTip(plain_tip(words[0]))
        self.words.setVisible(bool(words[0]))

    def describe(self) -> str:
        """The words above, and the first rows."""
        if not self.rows.rows:
            return self.tr("Nothing to show for this step.")
        titles = [quantity.title for quantity in self.rows.quantities]
        said = [self.words.whole] if self.words.whole else []
        for row in self.rows.rows[:5]:
            values = ", ".join(f"{title} {text}" for title, text in zip(titles, row.texts, strict=True) if text)
            said.append(f"{row.name} {values}")
        return "; ".join(said)

    def _show_table(self) -> None:
        if self.twins.shown is not None:
            rows, key = self.rows.rows, self._shown
            self.twins.show_table(tables.detail_table(self.rows.quantities, rows, key) if rows else None)


def detail_rows(run: RunView, step: StepSnapshot) -> Shown | None:
    """The detail of a step as rows; None where the mode adds nothing."""
    match step.detail:
        case ContrastiveDetail():
            return _contrastive(step, step.detail)
        case DolaDetail():
            return _dola(step.detail)
        case AssistedDetail():
            return _assisted(run, step, step.detail)
    return None if step.guidance is None else _guidance(step, step.guidance)


def _contrastive(step: StepSnapshot, detail: ContrastiveDetail) -> Shown:
    columns = (
        Quantity(tr("probability"), 0.0, 1.0),
        Quantity(tr("penalty"), 0.0, 1.0),
        Quantity(tr("score"), -1.0, 1.0),
    )
    rows = []
    each = zip(detail.token_ids, detail.pieces, detail.probability, detail.penalty, detail.score, strict=True)
    for token, piece, probability, penalty, score in each:
        values = (float(probability), float(penalty), float(score) if math.isfinite(score) else None)
        texts = (
            numbers.probability(values[0]),
            f"{values[1]:.3f}",
            f"{values[2]:.3f}" if values[2] is not None else tr("killed"),
        )
        rows.append(DetailRow(one_line(piece), values, texts, int(token) == step.token_id, values[2] is None))
    words = (tr("score = (1 − α) · probability − α · penalty"), tr("probability against sameness"), "")
    return tr("candidate"), columns, rows, words


def _dola(detail: DolaDetail) -> Shown:
    most = max(detail.divergence_bits, default=0.0) or 1.0
    rows = [
        DetailRow(tr("layer {0}").format(layer), (bits,), (f"{bits:.3f}",), layer == detail.layer)
        for layer, bits in zip(detail.layers, detail.divergence_bits, strict=True)
    ]
    words = (tr("contrasted with what enters layer {0}").format(detail.layer), tr("layer {0}").format(detail.layer))
    return tr("early layer"), (Quantity(tr("divergence from the last, bits"), 0.0, most),), rows, words


def _assisted(run: RunView, step: StepSnapshot, detail: AssistedDetail) -> Shown:
    """The pass that this token belongs to: every drafted token, with what became of it."""
    steps = _of_pass(run, step, detail.passes)
    columns = (Quantity(tr("model"), 0.0, 1.0), Quantity(tr("draft"), 0.0, 1.0), Quantity("", 0.0, 0.0))
    rows = []
    for place, piece in enumerate(detail.pieces):
        own = next((d for d in steps if d.place == place), None)
        p = None if own is None else own.probability
        q = None if own is None else own.draft_probability
        state = tr("never looked at") if own is None else tr("accepted") if own.accepted else tr("refused")
        texts = ("" if p is None else numbers.probability(p), "" if q is None else numbers.probability(q), state)
        accepted = own is not None and own.accepted
        rows.append(DetailRow(one_line(piece), (p, q, None), texts, place == detail.place, not accepted))
    if not rows:
        rows.append(DetailRow(tr("nothing drafted"), (None, None, None), ("", "", "")))
    return tr("drafted by {0}").format(detail.source), columns, rows, _acceptance(run, step, detail)


def _of_pass(run: RunView, step: StepSnapshot, number: int) -> list[AssistedDetail]:
    """The details of the tokens that came with the same pass."""
    first = step.id.index
    while first > 0 and _pass_of(run.step(first - 1)) == number:
        first -= 1
    found: list[AssistedDetail] = []
    for one in run.steps(first):
        if not isinstance(one.detail, AssistedDetail) or one.detail.passes != number:
            break
        found.append(one.detail)
    return found


def _pass_of(step: StepSnapshot) -> int | None:
    return step.detail.passes if isinstance(step.detail, AssistedDetail) else None


def _acceptance(run: RunView, step: StepSnapshot, detail: AssistedDetail) -> tuple[str, ...]:
    """Acceptance rate and tokens per pass up to this step, and where copied tokens came from."""
    details = [s.detail for s in run.steps()[: step.id.index + 1] if isinstance(s.detail, AssistedDetail)]
    drafted = {d.passes: len(d.drafted) for d in details}
    accepted, tried = sum(d.accepted for d in details), sum(drafted.values())
    per_pass = len(details) / max(1, detail.passes)
    each = numbers.significant(per_pass)
    rate = tr("{0} of {1} drafted tokens accepted, {2} tokens a pass").format(accepted, tried, each)
    short = tr("{0} of {1} accepted").format(accepted, tried)
    if detail.match is None:
        return rate, tr("{0}, {1} a pass").format(short, each), short
    start, stop = detail.match
    where = tr("copied from positions {0}–{1}, {2} matched").format(start, stop - 1, detail.matched)
    narrow = tr("from {0}–{1}, {2} matched").format(start, stop - 1, detail.matched)
    least = tr("copied {0}–{1}; {2}").format(start, stop - 1, short)
    return f"{where}; {rate}", f"{where}; {short}", f"{narrow}; {short}", least


def _guidance(step: StepSnapshot, detail: GuidanceDetail) -> Shown:
    columns = (
        Quantity(tr("prompt"), 0.0, 1.0),
        Quantity(tr("negative"), 0.0, 1.0),
        Quantity(tr("guided"), 0.0, 1.0),
    )
    rows = []
    each: Sequence[tuple[int, str, float, float, float]] = list(
        zip(
            detail.token_ids.tolist(),
            detail.pieces,
            detail.conditional.tolist(),
            detail.unconditional.tolist(),
            detail.guided.tolist(),
            strict=True,
        )
    )
    for token, piece, *logprobs in each:
        values = tuple(math.exp(p) for p in logprobs)
        texts = tuple(numbers.probability(p) for p in values)
        rows.append(DetailRow(one_line(piece), values, texts, token == step.token_id))
    return tr("token"), columns, rows, (tr("guided away from the negative prompt"), tr("guided"))
