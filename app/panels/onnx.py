"""The loaded model as an ONNX graph: as it was described, as it is exported, and whether it says the same."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QStackedWidget,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from app import asking
from app.panels import onnx_tables
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.desk_intents import AskOnnx, CancelGraph, CheckGraph, ExportGraph
from app.state.desk_state import OnnxDesk
from app.state.state import AppState
from app.theme.palette import Palette
from app.widgets.choice import Choice
from app.widgets.elided_label import ElidedLabel
from app.widgets.segmented import Segmented
from app.widgets.table_data import Table
from app.widgets.table_view import TableView
from core.contract import OnnxCheck


class OnnxPanel(Panel):
    """Asks for the description of the loaded model, exports and checks it."""

    name = "onnx"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = "ONNX"
        self._shown: tuple[object, ...] = ()
        self._asked_for: int | None = None
        self._desk = OnnxDesk()
        self._check: OnnxCheck | None = None
        self._past = True
        self._opset: int | None = None
        self._palette: Palette | None = None
        self.past = Segmented((self.tr("with past"), self.tr("without")))
        self.past.setAccessibleName(self.tr("With keys and values of the past as inputs, or without"))
        self.past.setToolTip(self.tr("Whether keys and values of the past are inputs of the graph"))
        self.past.show_choice(0)
        self.past.chosen.connect(self._past_chosen)
        self.opset = Choice(self.tr("opset"), self.tr("Opset of the graph that is exported"), self._opset_chosen)
        self.legacy, self.current = QLabel(), QLabel()
        self.table = TableView(self.tr("The graph as it was described and as it is exported"), wraps=True)
        forms = QWidget(self)
        column = QVBoxLayout(forms)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        for label in (self.legacy, self.current):
            label.setProperty("secondary", True)
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setWordWrap(True)
            column.addWidget(label)
        column.addWidget(self.table, 1)
        self.note = QLabel()
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        self.note.setWordWrap(True)
        self.checks = TableView(self.tr("onnxruntime against the model"), wraps=True)
        self.pages = QStackedWidget()
        self.pages.addWidget(forms)
        self.pages.addWidget(self.checks)
        self.tabs = QTabBar()
        self.tabs.setAccessibleDescription(self.tr("The description of the graph, or how the export compares"))
        self.tabs.setProperty("underline", True)
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setAccessibleName(self.tr("View of the graph"))
        self.tabs.addTab(self.tr("Descriptions"))
        self.tabs.addTab(self.tr("Check"))
        self.tabs.currentChanged.connect(self.pages.setCurrentIndex)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(8)
        box.addWidget(self.tabs)
        box.addWidget(self.pages, 1)
        box.addWidget(self.note)
        box.addLayout(self._make_footer())

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.past, self.opset)

    def _make_footer(self) -> QHBoxLayout:
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(self.tr("Progress of the export"))
        self.stage = ElidedLabel()
        self.stage.setProperty("secondary", True)
        self.cancel = QPushButton(self.tr("Cancel"))
        self.cancel.setToolTip(self.tr("Give up the export"))
        self.cancel.clicked.connect(lambda: self.dispatch(CancelGraph()))
        self.check = QPushButton(self.tr("Check file…"))
        self.check.setToolTip(self.tr("Compare a graph exported before with the loaded model"))
        self.check.clicked.connect(self.choose_check)
        self.export = QPushButton(self.tr("Export…"))
        self.export.setProperty("primary", True)
        self.export.setToolTip(self.tr("Write the graph in a process of its own, then compare it in onnxruntime"))
        self.export.clicked.connect(self.choose_export)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.stage, 2)
        row.addWidget(self.bar, 1)
        row.addStretch(0)
        row.addWidget(self.cancel)
        row.addWidget(self.check)
        row.addWidget(self.export)
        return row

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Ask once for each model, then show what is known of it."""
        palette = select.palette(state)
        if palette is not self._palette:
            self._palette = palette
            for view in (self.table, self.checks):
                view.set_palette(palette)
        model_id = state.model.model_id if state.model is not None else None
        if model_id is not None and model_id != self._asked_for:
            self._asked_for = model_id
            self.dispatch(AskOnnx())
            return
        shown = (state.onnx, model_id, self._past, self._opset)
        if shown == self._shown:
            return
        self._shown, self._desk = shown, state.onnx
        self._show(state.onnx, model_id)

    def _show(self, desk: OnnxDesk, model_id: int | None) -> None:
        found = desk.description if desk.description and desk.description.model_id == model_id else None
        self.subtitle = found.title if found is not None else ""
        self.pages.setVisible(found is not None)
        outcome = desk.outcome if desk.outcome_model == model_id else None
        if found is not None:
            self.opset.set_options([(str(n), str(n)) for n in found.opsets])
            opset = self._opset or found.default_opset
            self.opset.show_key(str(opset))
            pair = found.pairs[0 if self._past else 1]
            exported = outcome.export if outcome is not None else None
            if exported is not None and exported.past == self._past and exported.opset == opset:
                current = onnx_tables.read_back(pair.current, exported)
            else:
                current = onnx_tables.with_opset(pair.current, opset)
            self.legacy.setText(onnx_tables.facts_line(pair.legacy))
            self.current.setText(onnx_tables.facts_line(current))
            self.table.show_table(onnx_tables.pair_table(pair.legacy, current))
        texts = onnx_tables.notes(desk, found, outcome, model_id)
        self.note.setText("\n".join(texts.lines))
        self.note.setVisible(bool(texts.lines))
        self.note.setProperty("error", texts.error)
        self.note.style().polish(self.note)
        check = outcome.check if outcome is not None else None
        self.tabs.setTabEnabled(1, check is not None)
        if check is not self._check:
            self._check = check
            self.checks.show_table(Table((), 0, None) if check is None else onnx_tables.check_table(check))
            self.tabs.setCurrentIndex(0 if check is None else 1)
        self._show_progress(desk, found is not None and not found.missing)

    def _show_progress(self, desk: OnnxDesk, possible: bool) -> None:
        working = desk.working
        for widget in (self.bar, self.stage, self.cancel):
            widget.setVisible(working is not None)
        self.export.setEnabled(possible and working is None)
        self.check.setEnabled(possible and working is None)
        if working is not None:
            self.stage.setText(self.tr("Cancelling…") if working.cancelling else working.stage)
            self.cancel.setEnabled(not working.cancelling)
            self.bar.setRange(0, 100 if working.fraction is not None else 0)
            self.bar.setValue(round(100 * (working.fraction or 0)))

    @Slot(int)
    def _past_chosen(self, index: int) -> None:
        self._past = index == 0
        self._show(self._desk, self._asked_for)

    def _opset_chosen(self, key: str) -> None:
        self._opset = int(key)
        self._show(self._desk, self._asked_for)

    @Slot()
    def choose_export(self) -> None:
        """Ask for a file, then export."""
        asking.save_file(self, self.tr("Export the graph"), self._export, "model.onnx", "ONNX (*.onnx)")

    def _export(self, path: str) -> None:
        found = self._desk.description
        if found is not None:
            self.dispatch(ExportGraph(path, self._opset or found.default_opset, self._past))

    @Slot()
    def choose_check(self) -> None:
        """Ask for a file exported before, then check it."""
        asking.open_file(self, self.tr("Check a graph"), lambda path: self.dispatch(CheckGraph(path)), "ONNX (*.onnx)")
