"""The toolbar: model, device and weights; run, pause, step, stop; layout and theme."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qtawesome as qta
from PySide6.QtCore import QSize, Qt, Slot
from PySide6.QtGui import QAction, QActionGroup, QColor, QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QMenu, QToolButton, QWidget

from app.actions import Actions
from app.panels.panel import Dispatch
from app.state.intents import ChooseModel, SetTheme
from app.state.state import AppState, ModelChoice
from app.theme import fonts
from app.theme.palette import PALETTES, Palette
from app.widgets.visible_text import plain_label, plain_tip
from core.contract import ModelSpec

HEIGHT_PX = 44
NARROW_PX = 1200  # a window below it has no room for words that do nothing
DEVICES = ("auto", "cpu", "cuda", "mps")
MOST_RECENT = 6
DTYPES = ("auto", "bf16", "fp32")
ICONS = {"run": "mdi6.play", "pause": "mdi6.pause", "step": "mdi6.step-forward", "stop": "mdi6.stop"}
BRANCH_ICONS = {"rewind": "mdi6.skip-backward", "fork": "mdi6.source-branch", "twin": "mdi6.compare"}


class ToolBar(QWidget):
    """A view of the store, always visible."""

    heavy = False
    calm = True

    def __init__(
        self, actions: Actions, dispatch: Dispatch, panel_actions: Sequence[QAction], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("toolbar")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFixedHeight(HEIGHT_PX)
        self._actions = actions
        self._dispatch = dispatch
        self._shown: tuple[object, ...] = ()
        self._theme: Palette | None = None
        self._paused: bool | None = None
        self.name = QLabel("Tokenglass")
        self.name.setFont(fonts.ui(bold=True))
        self.model = self._menu_button(self.tr("Model"))
        self.model.setMaximumWidth(220)
        self.placement = self._menu_button(self.tr("Device, weights and records"))
        self.buttons = {key: self._button(actions[key], primary=key == "run") for key in ICONS}
        self.branch_buttons = {key: self._button(actions[key]) for key in BRANCH_ICONS}
        for button in self.branch_buttons.values():
            button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonIconOnly)
        self.speed = self._menu_button(self.tr("Reading speed"))
        self.speed.setToolTip(self.tr("Reading speed: slows what is shown, not the model"))
        for key in actions.entries:
            if key.startswith("speed."):
                self.speed.menu().addAction(actions[key])
        self.layout_button = self._menu_button(self.tr("Layout and panels"))
        self.theme = self._button(actions.add("theme.toggle", self.tr("Switch light and dark"), self._toggle_theme))
        self.theme.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonIconOnly)
        self.theme.setAccessibleName(self.tr("Switch light and dark"))
        self._fill_layout_menu(panel_actions)
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 0, 12, 0)
        row.setSpacing(8)
        row.addWidget(self.name)
        row.addWidget(self.model)
        row.addWidget(self.placement)
        row.addSpacing(8)
        for button in (*self.buttons.values(), *self.branch_buttons.values()):
            row.addWidget(button)
        row.addWidget(self.speed)
        row.addStretch(1)
        row.addWidget(self.layout_button)
        row.addWidget(self.theme)

    def _button(self, action: QAction, *, primary: bool = False) -> QToolButton:
        button = QToolButton(self)
        button.setDefaultAction(action)
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        button.setIconSize(QSize(16, 16))
        button.setProperty("control", True)
        button.setProperty("primary", primary)
        button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        button.setAccessibleName(action.text())
        return button

    def _menu_button(self, name: str) -> QToolButton:
        button = QToolButton(self)
        button.setProperty("control", True)
        button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        button.setAccessibleName(name)
        button.setToolTip(name)
        menu = QMenu(button)
        menu.setProperty("checks", True)
        menu.setToolTipsVisible(True)
        button.setMenu(menu)
        return button

    def _fill_layout_menu(self, panel_actions: Sequence[QAction]) -> None:
        menu = self.layout_button.menu()
        for key in self._actions.entries:
            if key.startswith("layout."):
                menu.addAction(self._actions[key])
        menu.addSeparator()
        for action in panel_actions:
            menu.addAction(action)
        menu.addSeparator()
        for key in ("theme.light", "theme.dark", "theme.contrast"):
            menu.addAction(self._actions[key])

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The name, which the window's title has too, gives way to the texts of the buttons."""
        super().resizeEvent(event)
        narrow, row = self.width() < NARROW_PX, self.layout()
        self.name.setHidden(narrow)
        if row is not None:
            row.setSpacing(4 if narrow else 8)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Actions follow every state; menus only when models, spec or layout change."""
        self._actions.show_state(state)
        palette = PALETTES[state.theme]
        if palette is not self._theme:
            self._theme = palette
            self._paint_icons(palette)
        relevant = (
            state.models,
            state.recent_models,
            state.spec,
            state.model,
            state.layout,
            state.loading is None,
            state.pace.limit_tps,
        )
        if relevant == self._shown:
            return
        self._shown = relevant
        self._show_models(state)
        self._show_placement(state)
        limit = state.pace.limit_tps
        self.speed.setText(self.tr("Speed ▾") if limit is None else self.tr("{0}/s ▾").format(f"{limit:g}"))
        layout = self._actions.layout_titles[state.layout]
        self.layout_button.setText(self.tr("{0} ▾").format(layout))

    def _show_models(self, state: AppState) -> None:
        titles = {m.name: m.title for m in state.models}
        spec = state.spec
        title = titles.get(spec.name) or _short(spec.name)
        self.model.setText(f"{plain_label(title)} ▾")
        menu = self.model.menu()
        menu.clear()
        group = QActionGroup(menu)
        for choice in (m for m in state.models if m.group == "shipped"):
            menu.addAction(self._model_action(choice, group, choice.name == spec.name))
        menu.addSeparator()
        shipped = {m.name for m in state.models if m.group == "shipped"}
        for recent in [n for n in state.recent_models if n not in shipped][:MOST_RECENT]:
            choice = ModelChoice(recent, _short(recent), recent)
            menu.addAction(self._model_action(choice, group, recent == spec.name))
        menu.addSeparator()
        for key in ("model.choose", "model.folder", "model.gguf"):
            menu.addAction(self._actions[key])

    def _model_action(self, choice: ModelChoice, group: QActionGroup, current: bool) -> QAction:
        action = QAction(plain_label(choice.title), group)
        action.setCheckable(True)
        action.setChecked(current)
        action.setEnabled(choice.available)
        action.setToolTip(plain_tip(choice.description if choice.available else choice.reason))
        action.triggered.connect(_call(self._dispatch, ChooseModel(name=choice.name)))
        return action

    def _show_placement(self, state: AppState) -> None:
        spec, model = state.spec, state.model
        device, dtype = spec.device, spec.dtype
        if model is not None and state.loading is None:
            device, dtype = model.device, model.dtype
        self.placement.setText(f"{device} · {dtype} ▾")
        menu = self.placement.menu()
        menu.clear()
        self._add_choices(menu, self.tr("Device"), DEVICES, spec, "device")
        menu.addSeparator()
        self._add_choices(menu, self.tr("Weights"), DTYPES, spec, "dtype")
        menu.addSeparator()
        for key in self._actions.entries:
            if key.startswith("records."):
                menu.addAction(self._actions[key])

    def _add_choices(self, menu: QMenu, title: str, choices: Sequence[str], spec: ModelSpec, field: str) -> None:
        heading = menu.addAction(title)
        heading.setEnabled(False)
        group = QActionGroup(menu)
        for choice in choices:
            action = QAction(choice, group)
            action.setCheckable(True)
            action.setChecked(getattr(spec, field) == choice)
            intent = ChooseModel(device=choice) if field == "device" else ChooseModel(dtype=choice)
            action.triggered.connect(_call(self._dispatch, intent))
            menu.addAction(action)

    def _paint_icons(self, palette: Palette) -> None:
        for key, icon in {**ICONS, **BRANCH_ICONS}.items():
            colour = palette.on_accent if key == "run" else palette.text
            disabled = palette.surface if key == "run" else palette.muted
            self._actions[key].setIcon(qta.icon(icon, color=QColor(colour), color_disabled=QColor(disabled)))
        self._actions["theme.toggle"].setIcon(qta.icon("mdi6.circle-half-full", color=QColor(palette.text)))

    @Slot()
    def _toggle_theme(self) -> None:
        dark = self._theme is not None and self._theme.dark
        self._dispatch(SetTheme("light" if dark else "dark"))

    def hidden(self) -> None:
        """Nothing is asked for here."""


def _short(name: str) -> str:
    """The last part of a path or hub id, for the button."""
    if name.startswith("new:"):
        return name.partition("?")[0]
    return name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]


def _call(dispatch: Dispatch, intent: ChooseModel) -> Callable[[], None]:
    return lambda: dispatch(intent)
