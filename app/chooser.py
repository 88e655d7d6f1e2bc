"""The model chooser: every source in one list, and what a model would take before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QModelIndex, Qt, Slot
from PySide6.QtGui import QStandardItem, QStandardItemModel
from PySide6.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListView,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from app import asking
from app.panels.panel import Dispatch
from app.state.intents import ChooseModel, LookAt, OfferModels
from app.state.model_facts import NEW_TITLES, facts, new_name
from app.state.state import AppState, ModelChoice, Preview
from app.theme import fonts
from app.widgets.model_facts import ModelFacts
from app.widgets.parameter_text import MOST_SEED, whole_number
from app.widgets.segmented import Segmented
from app.widgets.value_field import ValueField
from app.widgets.visible_text import plain_tip

Catalogue = Callable[[], tuple[ModelChoice, ...]]
NAME_ROLE = Qt.ItemDataRole.UserRole + 1
SIZE_PX = (760, 520)
LIST_PX = 290


class ModelChooser(QDialog):
    """Not modal: a run goes on while the user looks around. A view of the store."""

    heavy = False

    def __init__(self, dispatch: Dispatch, catalogue: Catalogue, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("Choose a model"))
        self.setModal(False)
        self.resize(*SIZE_PX)
        self._dispatch = dispatch
        self._catalogue = catalogue
        self._listed: tuple[object, ...] = ()
        self._shown: Preview | None = None
        self._busy = False
        self._make_list()
        self._make_fields()
        self._make_new()
        self.facts = ModelFacts()
        self.load = QPushButton(self.tr("Load"))
        self.load.setProperty("primary", True)
        self.load.setToolTip(self.tr("Load this model; the one in use stays until it is ready"))
        self.load.clicked.connect(self._load)
        self.cancel = QPushButton(self.tr("Close"))
        self.cancel.setToolTip(self.tr("Close without loading anything"))
        self.cancel.clicked.connect(self.close)
        self._lay_out()
        self._say_hint()

    def _make_list(self) -> None:
        self.model = QStandardItemModel(self)
        self.list = QListView()
        self.list.setModel(self.model)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.setAccessibleName(self.tr("Models"))
        self.list.setAccessibleDescription(self.tr("Choosing one shows what it would take"))
        self.list.setFixedWidth(LIST_PX)
        self.list.selectionModel().currentChanged.connect(self._picked)
        self.list.doubleClicked.connect(lambda _index: self._load())

    def _make_fields(self) -> None:
        self.name = QLineEdit()
        self.name.setAccessibleName(self.tr("Name of a model"))
        self.name.setPlaceholderText(self.tr("Hub id org/name or org/name@revision, a folder, a GGUF file"))
        self.name.setToolTip(self.tr("A hub id, a folder or a GGUF file; Enter shows what it would take"))
        self.name.returnPressed.connect(self._typed)
        self.folder = QPushButton(self.tr("Open folder…"))
        self.folder.setToolTip(self.tr("A folder with a model in transformers format"))
        self.folder.clicked.connect(self.open_folder)
        self.gguf = QPushButton(self.tr("Open GGUF…"))
        self.gguf.setToolTip(self.tr("A GGUF file; it is converted once"))
        self.gguf.clicked.connect(self.open_gguf)
        for button in (self.folder, self.gguf):
            button.setAutoDefault(False)

    def _make_new(self) -> None:
        self.new = QWidget()
        self.sizes = Segmented((self.tr("small"), self.tr("medium"), self.tr("large")))
        self.sizes.setAccessibleName(self.tr("Size of the new model"))
        self.sizes.show_choice(0)
        self.sizes.chosen.connect(self._new_changed)
        for button in self.sizes.buttons():
            button.setToolTip(self.tr("Layers and width of the new model"))
            button.setAutoDefault(False)
        self.seed = ValueField()
        self.seed.setAccessibleName(self.tr("Seed of the weights"))
        self.seed.setToolTip(self.tr("Seed of the random weights"))
        self.seed.setFixedWidth(72)
        self.seed.show_text("0")
        self.seed.committed.connect(self._seed_typed)
        row = QHBoxLayout(self.new)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.sizes, 1)
        row.addWidget(QLabel(self.tr("seed")))
        row.addWidget(self.seed)
        self.new.hide()
        self._seed = 0
        self._size = 0

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        for widget in (self.name, self.folder, self.gguf):
            top.addWidget(widget)
        right = QVBoxLayout()
        right.setSpacing(10)
        right.addWidget(self.new)
        right.addWidget(self.facts, 1)
        middle = QHBoxLayout()
        middle.setSpacing(16)
        middle.addWidget(self.list)
        middle.addLayout(right, 1)
        bottom = QHBoxLayout()
        bottom.addStretch(1)
        bottom.addWidget(self.cancel)
        bottom.addWidget(self.load)
        box = QVBoxLayout(self)
        box.setContentsMargins(16, 16, 16, 16)
        box.setSpacing(12)
        box.addLayout(top)
        box.addLayout(middle, 1)
        box.addLayout(bottom)

    def open_on(self, name: str | None = None) -> None:
        """Show the chooser with what is there now; `name` is looked at."""
        self._dispatch(OfferModels(self._catalogue()))
        self.show()
        self.activateWindow()
        if name is None:
            self.list.setFocus()
        else:
            self.look_at(name)

    def look_at(self, name: str) -> None:
        """Ask what this model would take."""
        self._busy = True
        self.list.clearSelection()
        self._busy = False
        self.new.hide()
        self.name.setText(name)
        self._ask(name)
        self.load.setFocus()

    def _ask(self, name: str) -> None:
        self._shown = None
        self.load.setEnabled(False)  # at once: Enter must not load what was shown before
        self._dispatch(LookAt(name))

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Follow the sources and the answer."""
        listed = (state.models, state.recent_models)
        if listed != self._listed:
            self._listed = listed
            self._fill(state)
        if state.preview is not self._shown:
            self._shown = state.preview
            self._show_preview(state.preview)

    def hidden(self) -> None:
        """Nobody looks any more."""
        self._dispatch(LookAt(None))

    def _fill(self, state: AppState) -> None:
        self._busy = True
        self.model.clear()
        groups = (
            (self.tr("Comes with Tokenglass"), [m for m in state.models if m.group == "shipped"]),
            (self.tr("Recent"), _recent(state)),
            (self.tr("Hugging Face cache, on this disk"), [m for m in state.models if m.group == "cached"]),
            (self.tr("New, with random weights"), [ModelChoice(new_name(f, 0, 0), t) for f, t in NEW_TITLES.items()]),
        )
        for title, choices in groups:
            if choices:
                self.model.appendRow(_heading(title))
            for choice in choices:
                self.model.appendRow(_item(choice))
        self._busy = False

    def _show_preview(self, preview: Preview | None) -> None:
        self.load.setEnabled(preview is not None and preview.answer is not None)
        if preview is None:
            self._say_hint()
        elif preview.answer is not None:
            self.facts.show_facts(facts(preview.answer))
        elif preview.error is not None:
            self.facts.show_sentence(_short(preview.spec.name), preview.error.message, error=True)
        else:
            self.facts.show_sentence(_short(preview.spec.name), self.tr("Looking at it…"))

    def _say_hint(self) -> None:
        self.load.setEnabled(False)
        self.facts.show_sentence("", self.tr("Choose a model to see what it would take."))

    @Slot(QModelIndex, QModelIndex)
    def _picked(self, index: QModelIndex, _before: QModelIndex) -> None:
        name = index.data(NAME_ROLE)
        if self._busy or not name:
            return
        new = str(name).startswith("new:")
        self.new.setVisible(new)
        self.name.setText("")
        self._ask(self._new_name(str(name)) if new else str(name))

    def _new_name(self, name: str) -> str:
        return new_name(name.removeprefix("new:"), self._size, self._seed)

    @Slot(int)
    def _new_changed(self, size: int) -> None:
        self._size = size
        self._look_at_new()

    @Slot(str)
    def _seed_typed(self, text: str) -> None:
        seed = whole_number(text, 0, MOST_SEED)
        if seed is not None:
            self._seed = seed
            self.seed.show_text(str(self._seed))
            self._look_at_new()

    def _look_at_new(self) -> None:
        name = self.list.currentIndex().data(NAME_ROLE)
        if name:
            self._ask(self._new_name(str(name)))

    @Slot()
    def _typed(self) -> None:
        if self.name.text().strip():
            self.look_at(self.name.text().strip())

    @Slot()
    def open_folder(self) -> None:
        """Ask for a folder, then look at it."""
        asking.open_folder(self, self.tr("Open a folder with a transformers model"), self.open_on)

    @Slot()
    def open_gguf(self) -> None:
        """Ask for a GGUF file, then look at it."""
        asking.open_file(self, self.tr("Open a GGUF file"), self.open_on, self.tr("GGUF files (*.gguf)"))

    @Slot()
    def _load(self) -> None:
        if self._shown is not None and self._shown.answer is not None:
            self._dispatch(ChooseModel(name=self._shown.spec.name))
            self.close()


def _recent(state: AppState) -> list[ModelChoice]:
    known = {m.name for m in state.models}
    return [ModelChoice(n, _short(n), n) for n in state.recent_models if n not in known]


def _short(name: str) -> str:
    """The last part of a path; hub ids and new models as they are."""
    return Path(name).name if Path(name).is_absolute() else name


def _heading(text: str) -> QStandardItem:
    item = QStandardItem(text)
    item.setFlags(Qt.ItemFlag.NoItemFlags)
    item.setFont(fonts.ui(fonts.SMALL_PX, bold=True))
    return item


def _item(choice: ModelChoice) -> QStandardItem:
    item = QStandardItem(choice.title)
    item.setData(choice.name, NAME_ROLE)
    item.setEnabled(choice.available)
    item.setToolTip(plain_tip(choice.description if choice.available else choice.reason))
    item.setAccessibleDescription(choice.description if choice.available else choice.reason)
    return item
