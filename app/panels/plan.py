"""The plan: what the ten steps of `generate()` decide for this run, each with its reason; live before a run, too."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from app.panels.panel import Dispatch, Panel
from app.state import plan, select
from app.state.state import AppState
from app.theme.palette import ThemeName
from app.widgets.plan_section import PlanSection
from app.widgets.scroll_column import ScrollColumn
from core.contract import GenerationPlan, plan_steps


class PlanPanel(Panel):
    """Ten sections that unfold; those with warnings say so in their heading."""

    name = "plan"
    heavy = True  # words are laid out anew when the plan changes
    margins = (8, 0, 4, 8)

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Plan")
        self._shown: GenerationPlan | None = None
        self._theme: ThemeName | None = None
        self.sections: list[PlanSection] = []
        self.message = QLabel()
        self.message.setTextFormat(Qt.TextFormat.PlainText)
        self.message.setWordWrap(True)
        self.message.setContentsMargins(4, 0, 8, 4)
        self.fold = QPushButton()
        self.fold.setProperty("link", True)
        self.fold.setToolTip(self.tr("Show or hide the decisions of every step"))
        self.fold.clicked.connect(self._fold_all)
        self.fold.hide()
        self._area = ScrollColumn(self)
        self._area.column.setSpacing(2)
        self._area.column.addWidget(self.message)
        self._area.column.addStretch(1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._area)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.fold,)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Follow the plan, the reason there is none, and the theme."""
        found, problem = plan.plan(state), plan.problem(state)
        self._say(found, problem)
        self.subtitle = self._which(state)
        if found is self._shown and state.theme == self._theme:
            return
        self._shown, self._theme = found, state.theme
        for section in self.sections:
            section.setVisible(found is not None)
        self.fold.setVisible(found is not None)
        if found is None:
            return
        steps, colours = plan_steps(found), select.palette(state)
        while len(self.sections) < len(steps):
            section = PlanSection()
            section.heading.toggled.connect(self._name_fold)
            self.sections.append(section)
            self._area.column.insertWidget(len(self.sections), section)
        for section, step in zip(self.sections, steps, strict=True):
            section.show_step(step, colours)
        self._name_fold()

    def _which(self, state: AppState) -> str:
        if plan.plan(state) is None:
            return ""
        return self.tr("of this run") if select.is_active(state) else self.tr("of the next run")

    def _say(self, found: GenerationPlan | None, problem: str) -> None:
        """The reason why nothing can run, or what will appear here."""
        empty = self.tr("What a run will do, and why, appears here. Load a model in the toolbar.")
        text = problem or (empty if found is None else "")
        if text == self.message.text():
            return
        self.message.setText(text)
        self.message.setVisible(bool(text))
        self.message.setProperty("error", bool(problem))
        self.message.setProperty("secondary", not problem)
        self.message.style().polish(self.message)

    @Slot()
    def _name_fold(self) -> None:
        folded = not any(section.heading.isChecked() for section in self.sections)
        self.fold.setText(self.tr("Unfold all") if folded else self.tr("Fold all"))

    @Slot()
    def _fold_all(self) -> None:
        unfold = not any(section.heading.isChecked() for section in self.sections)
        for section in self.sections:
            section.unfold(unfold)
