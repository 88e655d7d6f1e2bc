"""The Cache lab: experiments with the loaded model, one click each; plots, a table of the same numbers, findings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QPixmap, QResizeEvent
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from app import asking
from app.exports import png_of
from app.files import write_bytes, write_text
from app.panels import tables
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.desk_intents import CancelExperiment, PickExperiment, SizeExperiment, StartExperiment
from app.state.desk_state import CacheLab
from app.state.intents import Announce
from app.state.state import AppState
from app.state.texts import tr
from app.widgets.choice import Choice
from app.widgets.elided_label import ElidedLabel
from app.widgets.focus_ring import FocusRing
from app.widgets.lab_fields import LabFields
from app.widgets.late_menu import LateMenu
from app.widgets.line_plot import Line, LinePlot, Plot
from app.widgets.scroll_column import ScrollColumn
from app.widgets.twin import Twin, TwinStack
from core.contract import EXPERIMENT_MEANINGS, EXPERIMENT_TITLES, EXPERIMENTS, LabResult

FINDINGS_PX = 96  # at most; more is scrolled
WORDY_PX = 380  # from this height on a line says what the experiment is about; below it the chooser's tooltip does


class CacheLabPanel(Panel):
    """Asks for experiments and shows what they find, while they run."""

    name = "cachelab"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Cache lab")
        self._lab: CacheLab | None = None
        self._ready = False
        self._theme = ""
        self.choice = Choice("", self.tr("Experiment"), self._picked)
        self.choice.set_options([(name, tr(EXPERIMENT_TITLES[name])) for name in EXPERIMENTS])
        self.meaning = ElidedLabel()
        self.meaning.setProperty("secondary", True)
        self.sizes = LabFields(lambda name, text: self.dispatch(SizeExperiment(name, text)))
        self.plot = LinePlot()
        self.plot.setAccessibleName(self.tr("What the experiment measured"))
        self.plot.setAccessibleDescription(self.tr("Nothing was measured yet"))
        self.plot.set_empty(
            self.tr("What the experiment measures appears here"),
            self.tr("Press Run experiment; it uses the loaded model and the prompt."),
        )
        FocusRing(self.plot)
        self.twins = TwinStack(self.title, self.plot, (Twin(self.tr("Measurements"), (self.plot,)),), self)
        self.twins.turned.connect(self._show_table)
        self.findings = self._label()
        self.findings.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.findings.setAccessibleName(self.tr("What the experiment found"))
        self._scroll = ScrollColumn(self)
        self._scroll.column.addWidget(self.findings)
        self._scroll.column.addStretch(1)
        self._scroll.setMaximumHeight(FINDINGS_PX)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.meaning)
        box.addWidget(self.sizes)
        box.addWidget(self.twins, 1)
        box.addWidget(self._scroll)
        box.addLayout(self._make_footer())

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.choice)

    @staticmethod
    def _label() -> QLabel:
        label = QLabel()
        label.setTextFormat(Qt.TextFormat.PlainText)
        label.setWordWrap(True)
        return label

    def resizeEvent(self, event: QResizeEvent) -> None:
        line = self.findings.fontMetrics().lineSpacing()  # whole lines, so that none is cut
        lines = max(2, min(FINDINGS_PX, self.height() // 4) // line)
        self._scroll.setMaximumHeight(lines * line + 1)
        self.meaning.setVisible(self.height() >= WORDY_PX)

    def _make_footer(self) -> QHBoxLayout:
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, 1000)
        self.bar.setAccessibleName(self.tr("Progress of the experiment"))
        self.stage = ElidedLabel()
        self.stage.setProperty("secondary", True)
        self.export = LateMenu(self.tr("Export"), self.tr("Write the numbers or the picture to a file"), self._fill)
        self.stop = QPushButton(self.tr("Stop experiment"))
        self.stop.setToolTip(self.tr("Give the experiment up; what was measured stays"))
        self.stop.clicked.connect(lambda: self.dispatch(CancelExperiment()))
        self.start = QPushButton(self.tr("Run experiment"))
        self.start.setProperty("primary", True)
        self.start.setToolTip(
            self.tr("On the loaded model, with the prompt as it is, of a batch the first; beside no run")
        )
        self.start.clicked.connect(lambda: self.dispatch(StartExperiment()))
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.stage, 2)
        row.addWidget(self.bar, 1)
        row.addStretch(0)
        for widget in (self.export, self.stop, self.start):
            row.addWidget(widget)
        return row

    def _fill(self, menu: QMenu) -> None:
        menu.addAction(self.tr("Numbers as CSV…"), self.export_csv)
        menu.addAction(self.tr("Picture as PNG…"), self.export_png)

    def _picked(self, key: str) -> None:
        self.dispatch(PickExperiment(next(name for name in EXPERIMENTS if name == key)))

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """The experiment in progress, or the last one."""
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            self.plot.set_palette(palette)
            self.twins.set_palette(palette)
        ready = state.model is not None and not select.is_active(state)
        if state.cache_lab is self._lab and ready == self._ready:
            return
        before, self._lab, self._ready = self._lab, state.cache_lab, ready
        self._show(state.cache_lab, before)

    def _show(self, lab: CacheLab, before: CacheLab | None) -> None:
        self.choice.show_key(lab.name)
        self.sizes.show_experiment(lab.asked)
        self.meaning.setText(tr(EXPERIMENT_MEANINGS[lab.name]))
        self.choice.setToolTip(tr(EXPERIMENT_MEANINGS[lab.name]))
        working = lab.working
        for widget in (self.bar, self.stage, self.stop):
            widget.setVisible(working is not None)
        self.start.setVisible(working is None)
        self.start.setEnabled(self._ready)
        self.export.setEnabled(working is None and lab.result is not None)
        if working is not None:
            self.stage.setText(self.tr("Stopping…") if working.cancelling else working.stage)
            self.stop.setEnabled(not working.cancelling)
            self.bar.setValue(round(1000 * (working.fraction or 0)))
        if before is None or lab.result is not before.result or lab.name != before.name:
            self._show_result(lab.result)
        self._show_findings(lab)

    def _show_result(self, result: LabResult | None) -> None:
        self.subtitle = "" if result is None else f"{result.model} · {result.dtype}"
        plots = () if result is None else tuple(Plot(tr(n.title), n.unit, tr(n.x_name), n.log) for n in result.lanes)
        lines = () if result is None else tuple(Line(s.name, s.lane, s.x, s.y) for s in result.series)
        self.plot.show_lines(plots, lines)
        self.plot.setAccessibleDescription(tr("Nothing was measured yet") if result is None else _told(result))
        self._show_table()

    def _show_findings(self, lab: CacheLab) -> None:
        marks = {True: "✓ ", False: "✗ ", None: ""}
        lines = [] if lab.result is None else [marks[f.holds] + f.text for f in lab.result.findings]
        if lab.stopped:
            lines.append(self.tr("Stopped before its end."))
        if lab.error is not None:
            lines.append(lab.error.message)
        self.findings.setText("\n".join(lines))
        self._scroll.setVisible(bool(lines))

    def _show_table(self) -> None:
        if self.twins.shown is None:
            return
        result = None if self._lab is None else self._lab.result
        shown = None if result is None or not result.tables else tables.lab_table(result.tables[0], id(result))
        self.twins.show_table(shown)

    @Slot()
    def export_csv(self) -> None:
        """Ask for a file, then write the table."""
        result = None if self._lab is None else self._lab.result
        if result is None:
            return
        write = partial(self._write, result=result)
        asking.save_file(self, self.tr("Export the numbers"), write, f"{result.name}.csv", "CSV (*.csv)")

    def _write(self, path: str, result: LabResult) -> None:
        try:
            write_text(Path(path), "\n".join(table.as_csv() for table in result.tables))
        except OSError as error:
            self._cannot(path, error.strerror or str(error))

    @Slot()
    def export_png(self) -> None:
        """Ask for a file, then write the plots as they are seen."""
        result = None if self._lab is None else self._lab.result
        if result is None:
            return
        write = partial(self._paint, seen=self.plot.grab())
        asking.save_file(self, self.tr("Export the picture"), write, f"{result.name}.png", "PNG (*.png)")

    def _paint(self, path: str, seen: QPixmap) -> None:
        try:
            write_bytes(Path(path), png_of(seen.toImage()))
        except OSError as error:
            self._cannot(path, error.strerror or str(error))

    def _cannot(self, path: str, reason: str) -> None:
        self.dispatch(Announce("error", self.tr("“{0}” cannot be written: {1}.").format(path, reason)))


def _told(result: LabResult) -> str:
    """The plots in words: where each line begins and ends."""
    parts = []
    for series in result.series:
        if series.x:
            lane = result.lanes[series.lane]
            parts.append(
                tr("{0}: {1} from {2} to {3} {4} over {5} points").format(
                    lane.title, series.name, f"{series.y[0]:.3g}", f"{series.y[-1]:.3g}", lane.unit, len(series.x)
                )
            )
    return ". ".join(parts)
