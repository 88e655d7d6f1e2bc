"""Beams live: lanes with their tokens, parents and scores, and the hypotheses that are complete."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSplitter, QVBoxLayout, QWidget

from app.panels import tables
from app.panels.panel import Dispatch, Panel
from app.panels.pixels import show_swatches
from app.state import select
from app.state.intents import SelectStep, ShowBeam, ShowRow
from app.state.run import RunView
from app.state.state import AppState
from app.theme.colormaps import indices, token_fills
from app.theme.palette import Palette
from app.widgets import numbers, step_text
from app.widgets.beam_lanes import BeamLanes, Cell
from app.widgets.focus_ring import FocusRing
from app.widgets.row_list import RowLine, RowList
from app.widgets.twin import Twin, TwinStack
from app.widgets.visible_text import LINE_BREAK, one_line, visible
from core.contract import BeamDetail, Hypothesis, StepSnapshot


class BeamsPanel(Panel):
    """Emits the choice of a beam at a step, or of a hypothesis."""

    name = "beams"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Beams")
        self.lanes = BeamLanes()
        self.lanes.setAccessibleName(self.tr("Beams as lanes"))
        FocusRing(self.lanes)
        self.lanes.set_empty(
            self.tr("Beams appear here, a lane each"), self.tr("Set num_beams above 1 and press Ctrl+Enter.")
        )
        self.lanes.chosen.connect(self._chosen)
        self.complete = RowList()
        self.complete.setAccessibleName(self.tr("Complete hypotheses, best first"))
        FocusRing(self.complete)
        self.complete.set_empty(
            self.tr("Complete hypotheses appear here"),
            self.tr("A beam is complete at an end token, or when the length is reached."),
        )
        self.complete.chosen.connect(self._hypothesis_chosen)
        split = QSplitter(Qt.Orientation.Vertical)
        split.setChildrenCollapsible(False)
        split.addWidget(self.lanes)
        split.addWidget(self.complete)
        split.setStretchFactor(0, 3)
        split.setStretchFactor(1, 2)
        twins = (
            Twin(self.tr("Beams"), (self.lanes,), None),
            Twin(self.tr("Hypotheses"), (self.complete,), self._hypothesis_chosen),
        )
        self.twins = TwinStack(self.title, split, twins, self)
        self.twins.turned.connect(self._show_table)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.twins)
        self._run: RunView | None = None
        self._selected: int | None = None
        self._key: object = None
        self._theme: Palette | None = None
        self._fills = token_fills(select.palette(AppState()))
        self._ended: list[Hypothesis] = []

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button,)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Follow the run: new steps are added, the path shown is marked."""
        palette = select.palette(state)
        if palette is not self._theme:
            self._theme, self._fills, self._key = palette, token_fills(palette), None
            for widget in (self.lanes, self.complete, self.twins):
                widget.set_palette(palette)
        show_swatches(state, self.lanes, self.complete)
        run = state.run if state.run is not None and state.run.has_beams else None
        selected = select.pinned_index(state) if run is not None else None
        if run is self._run and selected == self._selected and self._key is not None:
            return
        self._run, self._selected = run, selected
        key = ("none",) if run is None else (run.run_id, run.row)
        if key != self._key:
            self._key = key
            self.lanes.clear(() if run is None else self._titles(run))
        if run is not None:
            self._add_steps(run)
            shown = run.count - 1 if selected is None else selected
            self.lanes.show_path(path_of(run), shown, pinned=selected is not None)
        self._show_complete(run)
        self.subtitle = "" if run is None else self._subtitle(run)
        for view in (self.lanes, self.complete):
            view.setAccessibleDescription(self.describe())
        self._show_table()

    def _add_steps(self, run: RunView) -> None:
        steps, count = run.sequences.lanes[run.row], run.params.num_beams
        whole = len(steps) if run.finish is not None else len(steps) - 1 + (len(_beams(steps[-1], count)) == count)
        for step in range(self.lanes.steps, whole):
            at = _beams(steps[step], count)
            cells = {beam: self._cell(one) for beam, one in at.items()}
            self.lanes.add(cells, labels(count, run.params.num_beam_groups))

    def _titles(self, run: RunView) -> tuple[str, ...]:
        """Of what stands beside the scores."""
        if run.params.force_words_ids:
            return self.tr("bank"), self.tr("constraints")
        return (self.tr("penalty"),) if run.params.num_beam_groups > 1 else ()

    def _cell(self, step: StepSnapshot) -> Cell:
        detail = step.detail
        assert isinstance(detail, BeamDetail)
        red, green, blue = self._fills[int(indices(np.exp([step.logprob]))[0])].tolist()
        said = [
            self.tr("{0}, probability {1}").format(one_line(step.piece), numbers.percent(float(np.exp(step.logprob)))),
            self.tr("running score {0}").format(tables.beam_score(detail.score)),
            self.tr("continues beam {0}").format(detail.parent + 1),
        ]
        notes: tuple[str, ...] = ()
        if detail.needed:
            each = tables.constraints(detail)
            said += [self.tr("constraints {0}").format(each), self.tr("bank {0}").format(detail.bank)]
            notes = str(detail.bank), each
        elif detail.penalty or (self._run is not None and self._run.params.num_beam_groups > 1):
            notes = (numbers.significant(detail.penalty),)
            said.append(self.tr("diversity penalty {0}").format(notes[0]))
        fill = red << 16 | green << 8 | blue
        text = one_line(step_text.shown_text(step) or step.piece)
        progress = tuple(a / b for a, b in zip(detail.fulfilled, detail.needed, strict=True))
        return Cell(text, fill, detail.parent, tables.beam_score(detail.score, 2), "\n".join(said), progress, notes)

    def _show_complete(self, run: RunView | None) -> None:
        here = [] if run is None else [e.hypothesis for e in run.sequences.hypotheses if e.hypothesis.row == run.row]
        self._ended = sorted(here, key=lambda h: -h.score)
        shown = -1
        if run is not None:
            own = run.beam, run.count - 1
            shown = next((n for n, h in enumerate(self._ended) if (h.beam, h.index) == own), -1)
        self.complete.show_rows(len(self._ended), self._line, shown)

    def _line(self, number: int) -> RowLine:
        one, run = self._ended[number], self._run
        assert run is not None
        steps = run.sequences.path(one.row, one.beam, one.index)
        levels = indices(np.exp([s.logprob for s in steps])).astype(np.uint8)
        ended = tables.hypothesis_end(run, one)
        text = visible(one.text.replace("\n", LINE_BREAK))
        return RowLine(str(number + 1), text, levels, tables.beam_score(one.score), ended)

    def _subtitle(self, run: RunView) -> str:
        rows = len(run.started.rows)
        mode = run.params.mode.replace("_", " ")
        return mode if rows == 1 else self.tr("{0}, row {1} of {2}").format(mode, run.row + 1, rows)

    def describe(self) -> str:
        """How many beams there are, the best score, how many are complete, in words."""
        run = self._run
        if run is None:
            return self.tr("No beams.")
        newest = run.sequences.lanes[run.row][-1]
        best = max(s.detail.score for s in newest.values() if isinstance(s.detail, BeamDetail))
        return self.tr("{0} beams, best running score {1}, {2} complete.").format(
            len(newest), tables.beam_score(best, 2), len(self._ended)
        )

    def _show_table(self) -> None:
        which, run = self.twins.shown, self._run
        if which is None:
            return
        if run is None:
            self.twins.show_table(None)
        elif which == 0:
            self.twins.show_table(tables.beams_table(run))
        else:
            self.twins.show_table(tables.hypotheses_table(run, self._ended))

    def _chosen(self, step: int, beam: int) -> None:
        run = self._run
        if run is None:
            return
        if path_of(run).get(step) == beam:  # on the sequence shown: only the step is meant
            self.dispatch(SelectStep(step if step < run.count - 1 else None))
            return
        last = len(run.sequences.lanes[run.row]) - 1
        if run.finish is None and step == last and beam == 0:
            self.dispatch(ShowRow(run.row))  # the best one, and it stays so
        else:
            self.dispatch(ShowBeam(run.row, beam, step))

    def _hypothesis_chosen(self, number: int) -> None:
        one = self._ended[number]
        self.dispatch(ShowBeam(one.row, one.beam, one.index))


def _beams(step: dict[int, StepSnapshot], count: int) -> dict[int, StepSnapshot]:
    """The beams that go on; what ended at once has a number beyond theirs, and stands among the hypotheses."""
    return {beam: one for beam, one in sorted(step.items()) if beam < count}


def labels(count: int, groups: int) -> list[str]:
    """What stands in front of the lanes: the beam, with groups `group.beam`. Beams keep it when others have ended."""
    if groups == 1:
        return [str(beam + 1) for beam in range(count)]
    size = count // groups
    return [f"{beam // size + 1}.{beam % size + 1}" for beam in range(count)]


def path_of(run: RunView) -> dict[int, int]:
    """The beam of each step that the sequence shown consists of."""
    return {step.id.index: step.id.beam for step in run.steps()}
