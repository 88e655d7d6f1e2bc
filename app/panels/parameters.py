"""Parameters: a row each, the mode switch, the seed, and the plan that follows from them."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app import asking
from app.drops import take
from app.files import write_text
from app.panels.panel import Dispatch, Panel
from app.state import modes, plan, presets, select
from app.state.intents import (
    Announce,
    ApplyPreset,
    ChooseMode,
    RemovePreset,
    ResetParameter,
    ResetParameters,
    SavePreset,
    SetCache,
    SetGrammar,
    SetModeText,
    SetParameter,
    SetSeed,
    ShowMore,
)
from app.state.state import AppState, Preset
from app.theme import fonts
from app.widgets.cache_row import CacheRow
from app.widgets.constraint_row import ConstraintRow
from app.widgets.late_menu import LateMenu
from app.widgets.mode_row import ModeRow
from app.widgets.modified_dot import ModifiedDot
from app.widgets.parameter_row import DOT, FIELD, FIELD_PX, GAP, NAME, SLIDER, ParameterRow, explanation
from app.widgets.parameter_text import MOST_SEED, shortened, whole_number
from app.widgets.plan_table import PlanTable
from app.widgets.scroll_column import ScrollColumn
from app.widgets.segmented import Segmented
from app.widgets.value_field import ValueField
from app.widgets.visible_text import plain_label
from core.contract import PARAMETERS, CacheSpec, GenerationPlan, Grammar, ParameterError, plan_summary, validate

SEED_BITS = 16  # a thrown seed stays short enough to be read aloud


class ParametersPanel(Panel):
    """Emits changes of parameters; shows the values in force, what was changed and what is pending."""

    name = "parameters"
    margins = (0, 0, 4, 8)  # the dots stand in the card's padding

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Parameters")
        self._shown: tuple[object, ...] = ()
        self._state: AppState | None = None
        self._planned: GenerationPlan | None = None
        self._presets: tuple[Preset, ...] = ()
        self.reset_all = QPushButton()
        self.reset_all.setProperty("link", True)
        self.reset_all.setCursor(Qt.CursorShape.PointingHandCursor)
        self.reset_all.setToolTip(self.tr("Every parameter back to its default"))
        self.reset_all.clicked.connect(self._reset_all)
        self.reset_all.hide()
        scroll = ScrollColumn(self)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(scroll)
        host = QWidget()
        self._grid = QGridLayout(host)
        self._grid.setContentsMargins(0, 0, 8, 0)
        self._grid.setHorizontalSpacing(0)
        self._grid.setVerticalSpacing(1)
        self._grid.setColumnStretch(SLIDER, 1)
        self._grid.setColumnMinimumWidth(GAP, 8)
        self._host = host
        self.mode_row = ModeRow(self._mode_picked, self._mode_text)
        scroll.column.addWidget(self.mode_row)
        self._add_mode()
        self._places = {name: place for place, name in enumerate(plan.parameter_rows(), start=1)}
        self.rows: dict[str, ParameterRow] = {}  # made when they are first seen
        self._seen: frozenset[str] = frozenset()
        last = len(self._places) + 1
        self._add_more(last)
        self._add_seed(last + 1)
        self.presets = LateMenu(
            self.tr("Presets"),
            self.tr("Sets of parameters as GenerationConfig JSON; drop a file to import it"),
            self._fill,
        )
        self._grid.addWidget(self.presets, last + 2, NAME, 1, 2, Qt.AlignmentFlag.AlignLeft)
        scroll.column.addWidget(host)
        self.cache = CacheRow(self._keep, self._refuse_size)
        scroll.column.addWidget(self.cache)
        self.constraint = ConstraintRow(self._constrain)
        scroll.column.addWidget(self.constraint)
        scroll.column.addWidget(self._plan_title())
        self.plan_problem = QLabel()
        self.plan_problem.setTextFormat(Qt.TextFormat.PlainText)
        self.plan_problem.setWordWrap(True)
        self.plan_problem.setProperty("error", True)
        self.plan_problem.setContentsMargins(12, 0, 8, 0)
        self.plan_problem.hide()
        scroll.column.addWidget(self.plan_problem)
        self.plan = PlanTable()
        scroll.column.addWidget(self.plan)
        scroll.column.addStretch(1)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.reset_all,)

    def _fill(self, menu: QMenu) -> None:
        for preset in self._presets:
            menu.addAction(plain_label(preset.name), partial(self.dispatch, ApplyPreset(preset.name)))
        menu.addSeparator()
        menu.addAction(self.tr("Save as preset…"), self.save_preset)
        remove = menu.addMenu(self.tr("Remove"))
        remove.setEnabled(bool(self._presets))
        for preset in self._presets:
            remove.addAction(plain_label(preset.name), partial(self.dispatch, RemovePreset(preset.name)))
        menu.addAction(self.tr("Import…"), self.import_preset)
        menu.addAction(self.tr("Export…"), self.export_preset)

    @Slot()
    def save_preset(self) -> None:
        """Ask for a name, then save the parameters in force under it."""
        asking.name(self, self.tr("Save as preset"), self.tr("Name"), self._save)

    def _save(self, name: str) -> None:
        self.dispatch(SavePreset(name[: presets.LONGEST_NAME]))

    @Slot()
    def import_preset(self) -> None:
        """Ask for a file, then add and apply it."""
        asking.open_file(
            self,
            self.tr("Import a preset"),
            lambda path: take(Path(path), self.dispatch, lambda _name: None),
            self.tr("Presets (*.json)"),
        )

    @Slot()
    def export_preset(self) -> None:
        """Ask for a file, then write the parameters in force to it."""
        asking.save_file(
            self,
            self.tr("Export the parameters"),
            self._export,
            "generation_config.json",
            self.tr("Presets (*.json)"),
        )

    def _export(self, path: str) -> None:
        if self._state is None:
            return
        try:
            write_text(Path(path), presets.write(presets.values_in_force(self._state)))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            self.dispatch(Announce("error", f"“{path}” cannot be written: {why}."))

    def _add_mode(self) -> None:
        self.mode_dot = ModifiedDot()
        self.mode_dot.setAccessibleName(self.tr("Reset {0}").format("do_sample"))
        self.mode_dot.clicked.connect(self._reset_mode)
        self.mode_name = QLabel("do_sample")
        self.mode = Segmented((self.tr("greedy"), self.tr("sample")))
        self.mode.setAccessibleName("do_sample")
        self.mode.chosen.connect(self._mode_chosen)
        self._grid.addWidget(self.mode_dot, 0, DOT)
        self._grid.addWidget(self.mode_name, 0, NAME)
        self._grid.addWidget(self.mode, 0, SLIDER, 1, 3)

    def _add_more(self, row: int) -> None:
        self.more = QPushButton()
        self.more.setProperty("link", True)
        self.more.setToolTip(self.tr("Show the rarely used parameters, too, or fold them away"))
        self.more.clicked.connect(self._toggle_more)
        self._grid.addWidget(self.more, row, NAME, 1, 4, Qt.AlignmentFlag.AlignLeft)

    @Slot()
    def _toggle_more(self) -> None:
        self.dispatch(ShowMore(self._state is not None and not self._state.more))

    def _mode_picked(self, key: str) -> None:
        self.dispatch(ChooseMode(key))

    def _mode_text(self, field: str, text: str) -> None:
        self.dispatch(SetModeText(field, text))

    def _add_seed(self, row: int) -> None:
        tip = self.tr("The same seed, prompt and parameters give the same text. Takes effect with the next run.")
        name = QLabel("seed")
        name.setToolTip(tip)
        self.seed = ValueField()
        self.seed.setAccessibleName("seed")
        self.seed.setToolTip(tip)
        self.seed.setFixedWidth(FIELD_PX)
        self.seed.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.seed.committed.connect(self._seed_committed)
        self.seed.stepped.connect(self._seed_stepped)
        self.dice = QToolButton()
        self.dice.setText("⚄")
        self.dice.setFont(fonts.ui(fonts.LARGE_PX))
        self.dice.setProperty("plain", True)
        self.dice.setToolTip(self.tr("Throw another seed"))
        self.dice.setAccessibleName(self.tr("Throw another seed"))
        self.dice.clicked.connect(self._throw)
        self._grid.addWidget(name, row, NAME)
        self._grid.addWidget(self.dice, row, SLIDER, Qt.AlignmentFlag.AlignRight)
        self._grid.addWidget(self.seed, row, FIELD)

    def _plan_title(self) -> QWidget:
        line = QWidget()
        row = QHBoxLayout(line)
        row.setContentsMargins(12, 8, 0, 4)
        title = QLabel(self.tr("Plan"))
        title.setFont(fonts.ui(bold=True))
        why = QLabel(self.tr("why these values"))
        why.setProperty("secondary", True)
        row.addWidget(title)
        row.addWidget(why)
        row.addStretch(1)
        return line

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Rows, mode and seed when one of them changed; the plan compares for itself."""
        self._show_plan(state)
        self.constraint.show_grammar(state.grammar)
        self.cache.show_spec(state.cache)
        self._state, self._presets = state, state.presets
        waiting = state.pending, state.waiting
        relevant = (state.model, state.overrides, *waiting, state.seed, state.mode_texts, state.more)
        if len(relevant) == len(self._shown) and all(a is b for a, b in zip(relevant, self._shown, strict=True)):
            return
        self._shown = relevant
        self._seed = state.seed
        params, defaults = select.params(state), select.defaults(state)
        mode = modes.current(state)
        self.mode_row.show_mode(mode, modes.explained(state), state.mode_texts, plan.draft_models(state))
        self._show_rows(plan.shown_rows(state))
        self.more.setText(self.tr("Fewer parameters") if state.more else self.tr("All parameters"))
        for name in self._seen:
            row = self.rows[name]
            row.show_value(
                getattr(params, name),
                changed=name in state.overrides,
                pending=name in state.pending,
                waiting=state.waiting.get(name, ""),
                default=plan.default_source(state.model, name, getattr(defaults, name)),
                most=state.model.max_positions if state.model and name.endswith("_new_tokens") else None,
            )
        self._show_mode(state, params.mode)
        self.seed.show_text(str(state.seed))
        self._show_header(state, params.mode)

    def _show_rows(self, wanted: frozenset[str]) -> None:
        if wanted == self._seen:
            return
        for name in sorted(wanted - self.rows.keys(), key=self._places.__getitem__):
            parameter, place = PARAMETERS[name], self._places[name]
            self.rows[name] = ParameterRow(parameter, self._host, self._grid, place, self._change, self._reset)
        for name, row in self.rows.items():
            row.set_visible(name in wanted)
        self._seen = wanted

    def _show_plan(self, state: AppState) -> None:
        found, problem = plan.plan(state), plan.problem(state)
        if found is not self._planned:
            self._planned = found
            self.plan.show_plan(() if found is None else plan_summary(found))
        if problem != self.plan_problem.text():
            self.plan_problem.setText(problem)
            self.plan_problem.setVisible(bool(problem))

    def _show_mode(self, state: AppState, mode: str) -> None:
        self.mode.show_choice(int(select.params(state).samples))
        changed = "do_sample" in state.overrides
        waiting = state.waiting.get("do_sample", "")
        self.mode_dot.show_state(changed, "do_sample" in state.pending or bool(waiting))
        tip = explanation(
            PARAMETERS["do_sample"], plan.default_source(state.model, "do_sample", select.defaults(state).do_sample)
        )
        tip = f"{waiting}\n\n{tip}" if waiting else tip
        self.mode.setToolTip(tip)
        self.mode_name.setToolTip(tip)

    def _show_header(self, state: AppState, mode: str) -> None:
        # Other modes are named by the row below.
        self.subtitle = {"sample": self.tr("sampling"), "greedy_search": self.tr("greedy")}.get(mode, "")
        count = len(state.overrides)
        self.reset_all.setVisible(count > 0)
        self.reset_all.setText(self.tr("{0} changed · reset").format(count))
        waits = self.tr("next run") if state.waiting else ""
        self.header_right = self.tr("pending") if state.pending else waits

    def _constrain(self, grammar: Grammar | None) -> None:
        self.dispatch(SetGrammar(grammar))

    def _keep(self, spec: CacheSpec) -> None:
        self.dispatch(SetCache(spec))

    def _refuse_size(self, name: str, text: str) -> None:
        message = self.tr("{0} of the cache cannot be “{1}”; it takes a whole number.")
        self.dispatch(Announce("error", message.format(name, text)))

    def _change(self, name: str, value: object, gesture: int | None) -> None:
        try:
            validate({name: value})
        except ParameterError as error:
            self.dispatch(Announce("error", error.message))
        else:
            self.dispatch(SetParameter(name, value, gesture))

    def _reset(self, name: str) -> None:
        self.dispatch(ResetParameter(name))

    @Slot()
    def _reset_mode(self) -> None:
        self.dispatch(ResetParameter("do_sample"))

    @Slot()
    def _reset_all(self) -> None:
        self.dispatch(ResetParameters())

    @Slot(int)
    def _mode_chosen(self, index: int) -> None:
        self.dispatch(SetParameter("do_sample", index == 1))

    @Slot(str)
    def _seed_committed(self, text: str) -> None:
        seed = whole_number(text, 0, MOST_SEED)
        if seed is not None:
            self.dispatch(SetSeed(seed))
        else:
            message = self.tr("seed cannot be “{0}”; it takes a whole number from 0 to 2⁶³ − 1.")
            self.dispatch(Announce("error", message.format(shortened(text))))

    @Slot(int)
    def _seed_stepped(self, direction: int) -> None:
        self.dispatch(SetSeed(min(MOST_SEED, self._seed + direction)))

    @Slot()
    def _throw(self) -> None:
        self.dispatch(SetSeed(secrets.randbits(SEED_BITS)))
