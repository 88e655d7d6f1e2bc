"""The window: toolbar, the workspace with its cards, status bar, notices over them."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QSize, Slot
from PySide6.QtGui import (
    QAction,
    QCloseEvent,
    QDragEnterEvent,
    QDropEvent,
    QIcon,
    QImage,
    QResizeEvent,
    QShowEvent,
)
from PySide6.QtWidgets import QApplication, QDialog, QMainWindow, QVBoxLayout, QWidget

from app import drops
from app.actions import Actions, can_branch
from app.chooser import Catalogue, ModelChooser
from app.keeper import Keeper
from app.panels.candidates import CandidatesPanel
from app.panels.output import OutputPanel
from app.panels.panel import Panel
from app.panels.prompt import PromptPanel
from app.panels.statusbar import StatusBar
from app.reach import offers
from app.settings import Settings
from app.state import select
from app.state.intents import ApplyPreset, ChooseModel, DismissNotice, Intent
from app.state.state import AppState
from app.store import Store, View
from app.theme.apply import apply_theme
from app.theme.palette import PALETTES, ThemeName
from app.toolbar import ToolBar
from app.twin_actions import add_twin_actions
from app.twin_editor import TwinEditor
from app.widgets.command_palette import CommandPalette
from app.widgets.notice_bar import NoticeBar
from app.workspace import Workspace

SMALLEST = (1024, 640)
FIRST = (1440, 900)
ICON = Path(__file__).parents[1] / "resources" / "icons" / "tokenglass.svg"
TITLE_BAR_PX = 32  # of the window manager; its frame is not known before the window is shown


class Window(QMainWindow):
    """Arranges what others show; a view of the store for theme and layout."""

    heavy = False

    def __init__(
        self,
        store: Store,
        panels: tuple[Panel, ...],
        settings: Settings,
        catalogue: Catalogue | None = None,
        presets: Path | None = None,
    ) -> None:
        super().__init__()
        self.setWindowTitle("Tokenglass")
        self.setWindowIcon(QIcon(str(ICON)))
        self.setMinimumSize(*SMALLEST)
        self._fit_screen()
        self.store = store
        self._settings = settings
        self._theme: ThemeName | None = None
        self._offered: set[str] = set()
        self._brought: set[str] = set()  # of those, what was opened for a run
        self._arrangement = store.state.arrangement
        self._arranged = False
        self._compared: object = None
        self._config_shown = store.state.config_desk.reveal
        self._apply_theme(store.state.theme)
        central = QWidget()
        self.workspace = Workspace(panels, central)
        self.actions_ = Actions(self, store.dispatch)
        self.actions_.add("palette", self.tr("Commands…"), self.open_palette, ("Ctrl+Shift+P",))
        self.chooser = ModelChooser(store.dispatch, catalogue or (lambda: store.state.models), self)
        self.actions_.add("model.choose", self.tr("Choose a model…"), lambda: self.chooser.open_on(), ("Ctrl+M",))
        reload = self.tr("Load the model again")
        self.actions_.add("model.again", reload, ChooseModel(again=True), (), lambda s: s.model is not None)
        self.actions_.add("model.folder", self.tr("Open folder…"), self.chooser.open_folder, ("Ctrl+O",))
        self.actions_.add("model.gguf", self.tr("Open GGUF…"), self.chooser.open_gguf)
        self._add_branch_actions()
        self.twin_editor = TwinEditor(store.dispatch, self)
        add_twin_actions(self.actions_, lambda: self.twin_editor.open_for(store.state))
        toggles = [card.toggleViewAction() for card in self.workspace.cards.values()]
        self.toolbar = ToolBar(self.actions_, store.dispatch, toggles)
        self.statusbar = StatusBar(store.cost)
        self.statusbar.errors.clicked.connect(self.show_errors)
        self.actions_.add("errors", self.tr("Show errors"), self.show_errors, ("Ctrl+E",))
        self.actions_.add("quit", self.tr("Quit"), self.close, ("Ctrl+Q",))
        self.notices = NoticeBar(store.dispatch, self.workspace)
        errors = self.workspace.cards.get("errors")
        if errors is not None:
            self.notices.errors_listed = errors.isVisible
        box = QVBoxLayout(central)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.toolbar)
        box.addWidget(self.workspace, 1)
        box.addWidget(self.statusbar)
        self.setCentralWidget(central)
        views: list[View] = [
            self,
            self.toolbar,
            *self.workspace.cards.values(),
            self.statusbar,
            self.notices,
            self.chooser,
            self.twin_editor,
        ]
        self.keeper = Keeper(settings, presets, store.dispatch, self)
        views.append(self.keeper)
        for view in views:
            store.add(view)
        self.setAcceptDrops(True)
        self.keeper.begin()
        saved = settings.window()
        if saved is not None:
            self.restoreGeometry(saved[0])

    def _add_branch_actions(self) -> None:
        """Those that need a panel: a token is pointed at, a text is written."""
        add = self.actions_.add
        add("force", self.tr("Force another token…"), self._force_another, ("Ctrl+Shift+T",), can_branch)
        add("edit", self.tr("Edit text here…"), self._edit_text, ("Ctrl+Shift+E",), can_branch)
        add("branch.rename", self.tr("Rename this branch…"), self._rename, (), can_branch)

    def _force_another(self) -> None:
        self._reveal("candidates")
        panel = self.workspace.cards["candidates"].panel
        if isinstance(panel, CandidatesPanel):
            panel.point_at_another()

    def _edit_text(self) -> None:
        self._reveal("output")
        panel = self.workspace.cards["output"].panel
        if isinstance(panel, OutputPanel):
            panel.edit_text()

    def _rename(self) -> None:
        self._reveal("output")
        panel, run = self.workspace.cards["output"].panel, self.store.state.run
        if isinstance(panel, OutputPanel) and run is not None:
            panel.strip.edit_name(run.branch_id)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Theme and layout."""
        if state.theme != self._theme:
            self._apply_theme(state.theme)
        if state.arrangement != self._arrangement:
            self._arrangement = state.arrangement
            self.workspace.arrange(state.layout)
            self._brought.clear()
            self._offered.clear()  # what the run needs is opened in the new arrangement, too
        if state.config_desk.reveal != self._config_shown:
            self._config_shown = state.config_desk.reveal
            self._reveal("config")
        if state.branches.compared != self._compared:
            self._compared = state.branches.compared
            if self._compared is not None:
                self._reveal("compare")
        self._offer(state)

    def _reveal(self, name: str) -> None:
        """Bring a card up, wherever it is."""
        card = self.workspace.cards.get(name)
        if card is None:
            return
        if not card.isVisible():
            card.toggleViewAction().trigger()
        card.raise_()

    def _offer(self, state: AppState) -> None:
        """Open the cards that a kind of run needs, once; who closes one has seen it. Another kind closes them."""
        wanted = select.cards_for(state)
        for name in wanted:
            card = self.workspace.cards.get(name)
            if name not in self._offered and card is not None:
                self._offered.add(name)
                if not card.isVisible():
                    self.workspace.bring_up(name)
                    self._brought.add(name)
        if state.run is not None and state.run.count:
            for name in self._brought.difference(wanted):  # it would stand there empty
                self._brought.discard(name)
                self._offered.discard(name)
                self.workspace.put_away(name)
        for name in select.acting_cards(state):
            if name not in self._offered:
                self._offered.add(name)
                self._reveal(name)

    def hidden(self) -> None:
        """The cards are told for themselves."""

    def _apply_theme(self, theme: ThemeName) -> None:
        self._theme = theme
        app = QApplication.instance()
        if isinstance(app, QApplication):
            apply_theme(app, PALETTES[theme], self)

    @Slot()
    def show_errors(self) -> None:
        """Bring the list of errors up."""
        self._reveal("errors")
        for notice in self.store.state.notices:
            if notice.kind == "error":
                self.store.dispatch(DismissNotice(notice.notice_id))

    @Slot()
    def open_palette(self) -> None:
        """Show every action by name."""
        named = [entry.action for key, entry in self.actions_.entries.items() if key != "palette"]
        toggles = [card.toggleViewAction() for card in self.workspace.cards.values()]
        palette = CommandPalette([*named, *toggles], self)
        palette.add(self._named_actions(palette))
        for before in self.findChildren(CommandPalette):
            if before is not palette:
                before.close()
        palette.show()

    def _named_actions(self, parent: CommandPalette) -> list[QAction]:
        """Presets and recent models, which come and go, and whatever the cards offer."""
        state = self.store.state
        wanted: list[tuple[str, Intent]] = [
            (self.tr("Apply preset {0}").format(p.name), ApplyPreset(p.name)) for p in state.presets
        ]
        wanted += [(self.tr("Load {0}").format(name), ChooseModel(name)) for name in state.recent_models]
        made = []
        for text, intent in wanted:
            action = QAction(text, parent)
            action.triggered.connect(lambda _checked=False, intent=intent: self.store.dispatch(intent))
            made.append(action)
        for offer in offers(self.workspace, self._reveal):
            action = QAction(offer.text, parent)
            action.setEnabled(offer.enabled)
            action.triggered.connect(lambda _checked=False, do=offer.do: do())
            made.append(action)
        return made

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if any(drops.accepts(path) for path in _dropped(event)) or event.mimeData().hasImage():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        paths, prompt = _dropped(event), self.workspace.cards["prompt"].panel
        if not paths and event.mimeData().hasImage() and isinstance(prompt, PromptPanel):
            prompt.open_image(QImage(event.mimeData().imageData()))
        for path in paths:
            drops.take(path, self.store.dispatch, self.chooser.open_on, self.store.state.draft.tab, self.open_picture)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._arranged:
            return
        self._arranged = True
        self.workspace.arrange(self.store.state.layout)
        saved = self._settings.window()
        if saved is not None:
            self.workspace.restore(saved[1])
        self.workspace.cards["prompt"].panel.setFocus()

    def open_picture(self, path: Path) -> None:
        """Begin with a picture file."""
        prompt = self.workspace.cards["prompt"].panel
        if isinstance(prompt, PromptPanel):
            prompt.open_picture(path)

    def focusNextPrevChild(self, forward: bool) -> bool:
        """Tab passes over the cards that another tab covers: Qt takes them for visible."""
        passed: list[QWidget | None] = []
        while super().focusNextPrevChild(forward):
            now = QApplication.focusWidget()
            if self.workspace.shows(now) or now in passed[:1]:  # once around
                return True
            passed.append(now)
        return False

    def _fit_screen(self) -> None:
        """The first size, or what the screen has room for with a title bar above."""
        room = self.screen().availableSize() - QSize(0, TITLE_BAR_PX)
        self.resize(QSize(*FIRST).boundedTo(room).expandedTo(QSize(*SMALLEST)))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.notices.place()

    def closeEvent(self, event: QCloseEvent) -> None:
        self.keeper.render(self.store.state)
        if self._arranged:
            self.keeper.write()
            self._settings.remember(geometry=self.saveGeometry(), cards=self.workspace.save())
        for card in self.workspace.cards.values():
            if card.isFloating():
                card.hide()
        for dialog in self.findChildren(QDialog):
            dialog.close()  # one that stays open would keep the program alive
        self.store.stop()
        super().closeEvent(event)


def _dropped(event: QDropEvent) -> list[Path]:
    """The local files and folders of a drag."""
    return [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
