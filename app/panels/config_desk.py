"""The configuration of a model as a form, what it adds up to, and a model of random weights made of it."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QBoxLayout,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QStackedWidget,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from app import asking
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.config_facts import config_facts, written
from app.state.desk_intents import ChangeConfig, OpenConfig, ResetConfig, SaveConfigured, SetWeightSeed
from app.state.desk_state import ConfigDesk
from app.state.intents import ChooseModel
from app.state.model_facts import NEW_TITLES
from app.state.state import AppState
from app.theme import fonts
from app.widgets.choice import Choice
from app.widgets.config_form import ConfigForm
from app.widgets.elided_label import ElidedLabel
from app.widgets.keys_page import KeysPage
from app.widgets.model_facts import ModelFacts
from app.widgets.numbers import byte_count
from app.widgets.parameter_text import MOST_SEED, whole_number
from app.widgets.scroll_column import ScrollColumn
from app.widgets.table_data import Column, Table
from app.widgets.table_view import TableView
from app.widgets.value_field import ValueField
from core.contract import ConfigDescription

FIRST = "gpt2"
WIDE_PX = 860  # from this width on the estimate stands beside the form
LOADED = ""


class ConfigPanel(Panel):
    """Emits changes of the configuration; core says what they mean."""

    name = "config"
    margins = (0, 0, 4, 8)  # the dots stand in the card's padding

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Config")
        self._desk: ConfigDesk | None = None
        self._description: ConfigDescription | None = None
        self._model_id: int | None = None
        self._theme = ""
        self.subject = Choice("", self.tr("Which configuration is looked at"), self._open)
        self.open_file = self._link(self.tr("Open…"), self.tr("Open a config.json"))
        self.open_file.clicked.connect(self.choose_file)
        self.reset_all = self._link("", self.tr("Every field back to what it was"))
        self.reset_all.clicked.connect(lambda: self.dispatch(ResetConfig()))
        self.reset_all.hide()
        self._make_pages()
        self.facts = ModelFacts()
        estimate = ScrollColumn()
        estimate.column.setContentsMargins(12, 0, 8, 0)
        estimate.column.addWidget(self.facts)
        body = QWidget(self)
        self._body = QBoxLayout(QBoxLayout.Direction.TopToBottom, body)
        self._body.setContentsMargins(0, 0, 0, 0)
        self._body.setSpacing(8)
        self._body.addWidget(self._left, 5)
        self._body.addWidget(estimate, 4)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(body, 1)
        box.addLayout(self._make_footer())

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.subject,)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.reset_all, self.open_file)

    @staticmethod
    def _link(text: str, tip: str) -> QPushButton:
        button = QPushButton(text)
        button.setProperty("link", True)
        button.setToolTip(tip)
        return button

    def _make_pages(self) -> None:
        self.tabs = QTabBar()
        self.tabs.setAccessibleDescription(
            self.tr("Every field, what differs from the defaults, the file, or what the model returns")
        )
        self.tabs.setProperty("underline", True)
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setUsesScrollButtons(False)
        self.tabs.setAccessibleName(self.tr("View of the configuration"))
        for title in (self.tr("Fields"), self.tr("Differences"), "JSON", self.tr("Outputs")):
            self.tabs.addTab(title)
        self.form = ConfigForm(
            lambda name, value: self.dispatch(ChangeConfig(name, value)), lambda name: self.dispatch(ResetConfig(name))
        )
        self.fields = ScrollColumn()
        self.fields.column.addWidget(self.form)
        self.fields.column.addStretch(1)
        self.differences = TableView(self.tr("Fields that differ from the defaults of the class"))
        self.json = QPlainTextEdit()
        self.json.setReadOnly(True)
        self.json.setTabChangesFocus(True)
        self.json.setFont(fonts.mono(fonts.SMALL_PX))
        self.json.setAccessibleName("config.json")
        self.keys = KeysPage()
        keys = ScrollColumn()
        keys.column.addWidget(self.keys)
        keys.column.addStretch(1)
        self.pages = QStackedWidget()
        for page in (self.fields, self.differences, self.json, keys):
            self.pages.addWidget(page)
        self.tabs.currentChanged.connect(self.pages.setCurrentIndex)
        self._left = QWidget()
        top = QHBoxLayout()
        top.setContentsMargins(12, 0, 0, 0)
        top.addWidget(self.tabs)
        top.addStretch(1)
        column = QVBoxLayout(self._left)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(self.pages, 1)

    def _make_footer(self) -> QHBoxLayout:
        self.seed = ValueField()
        self.seed.setAccessibleName(self.tr("Seed of the weights"))
        self.seed.setToolTip(self.tr("Seed of the random weights"))
        self.seed.setFixedWidth(64)
        self.seed.committed.connect(self._seed_typed)
        self.status = ElidedLabel()
        self.status.setProperty("secondary", True)
        self.save = QPushButton(self.tr("Save as folder…"))
        self.save.setToolTip(self.tr("Write config.json, random weights and generation_config.json into a new folder"))
        self.save.clicked.connect(self.choose_folder)
        self.create_model = QPushButton(self.tr("Create"))
        self.create_model.setProperty("primary", True)
        self.create_model.setToolTip(self.tr("Load a model of random weights with this configuration"))
        self.create_model.clicked.connect(self._create)
        row = QHBoxLayout()
        row.setContentsMargins(12, 0, 8, 0)
        row.setSpacing(8)
        row.addWidget(QLabel(self.tr("seed")))
        row.addWidget(self.seed)
        row.addWidget(self.status, 1)
        row.addWidget(self.save)
        row.addWidget(self.create_model)
        return row

    def resizeEvent(self, event: QResizeEvent) -> None:
        wide = self.width() >= WIDE_PX
        self._body.setDirection(QBoxLayout.Direction.LeftToRight if wide else QBoxLayout.Direction.TopToBottom)
        self.form.set_width(self.width() * 5 // 9 if wide else self.width())

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Ask for the first configuration, and again for that of the model once another one is loaded."""
        if state.theme != self._theme:
            self._theme = state.theme
            self.differences.set_palette(select.palette(state))
        model_id = state.model.model_id if state.model is not None else None
        changed, self._model_id = model_id != self._model_id, model_id
        desk = state.config_desk
        if desk.subject is None or (desk.subject == LOADED and changed):
            self.dispatch(OpenConfig(FIRST if desk.subject is None else LOADED))
            return
        if desk is self._desk and not changed:
            return
        self._desk = desk
        self._show_subject(desk, state)
        self._show_description(desk)
        self._show_status(desk)

    def _show_subject(self, desk: ConfigDesk, state: AppState) -> None:
        options = [(key, title) for key, title in NEW_TITLES.items()]
        options += [(f"new:{key}", self.tr("{0}, small").format(title)) for key, title in NEW_TITLES.items()]
        if state.model is not None:
            options.append((LOADED, state.model.title))
        subject = desk.subject or LOADED
        if subject not in dict(options):
            options.append((subject, Path(subject).name))
        self.subject.set_options(options)
        self.subject.show_key(subject)

    def _show_description(self, desk: ConfigDesk) -> None:
        found = desk.description
        if found is None:
            self.form.show_fields((), frozenset())
            error = desk.error.message if desk.error is not None else ""
            self.facts.show_sentence("", error or self.tr("Looking at it…"), error=bool(error))
        elif found is not self._description or desk.error is not None:
            bad = frozenset(name for problem in found.problems for name in problem.fields)
            self.form.show_fields(found.fields, bad)
            self._show_pages(found)
            if desk.error is not None:
                self.facts.show_sentence(found.title, desk.error.message, error=True)
            else:
                self.facts.show_facts(config_facts(found))
        self._description = found if desk.error is None else None
        ready = found is not None and desk.error is None and found.new_name is not None
        current = desk.answered == desk.generation
        self.create_model.setEnabled(ready and current)
        self.save.setEnabled(ready and current and desk.saving is None)
        self.seed.show_text(str(found.seed) if found is not None else "0")
        self.seed.setEnabled(ready or desk.seed is not None)
        count = len(desk.changes)
        self.reset_all.setVisible(count > 0)
        self.reset_all.setText(self.tr("{0} changed · reset").format(count))
        self.subtitle = found.class_name if found is not None else ""

    def _show_pages(self, found: ConfigDescription) -> None:
        if found.config_json != self.json.toPlainText():
            self.json.setPlainText(found.config_json)
        changed = [field for field in found.fields if field.changed]
        columns = (
            Column(self.tr("field"), [field.name for field in changed], numeric=False),
            Column(self.tr("default of the class"), [written(f.default) for f in changed], numeric=False),
            Column(self.tr("here"), [written(f.value) for f in changed], numeric=False),
        )
        self.differences.show_table(Table(columns, len(changed), (found.subject, id(found))))
        self.tabs.setTabText(1, self.tr("Differences ({0})").format(len(changed)))
        self.keys.show_keys(found.output_keys)

    def _show_status(self, desk: ConfigDesk) -> None:
        text, error = "", False
        if desk.saving is not None:
            share = "" if desk.saving.fraction is None else f" {desk.saving.fraction:.0%}"
            text = (desk.saving.stage or self.tr("Saving")) + share
        elif desk.saved is not None:
            text = self.tr("Saved to {0} ({1})").format(desk.saved.path, byte_count(desk.saved.size_bytes))
        elif desk.save_error is not None:
            text, error = desk.save_error.message, True
        self.status.setText(text)
        self.status.setProperty("error", error)
        self.status.style().polish(self.status)

    def _open(self, subject: str) -> None:
        self.dispatch(OpenConfig(subject))

    @Slot()
    def choose_file(self) -> None:
        """Ask for a config.json, then look at it."""
        asking.open_file(self, self.tr("Open a configuration"), self._open, self.tr("Configurations (*.json)"))

    @Slot()
    def choose_folder(self) -> None:
        """Ask for a new folder, then write the model into it."""
        found = self._description
        if found is None:
            return
        title = self.tr("Save as a model folder")
        asking.save_file(self, title, lambda path: self.dispatch(SaveConfigured(path)), f"new-{found.family}")

    @Slot()
    def _create(self) -> None:
        if self._description is not None and self._description.new_name is not None:
            self.dispatch(ChooseModel(name=self._description.new_name))

    @Slot(str)
    def _seed_typed(self, text: str) -> None:
        seed = whole_number(text, 0, MOST_SEED)
        if seed is not None:
            self.dispatch(SetWeightSeed(seed))
