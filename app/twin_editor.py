"""The twin editor: what the other run has otherwise, and where it begins. Not modal: a run goes on meanwhile."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.panels.panel import Dispatch
from app.state import plan, select
from app.state.branch_state import TwinChange
from app.state.state import AppState
from app.state.twin_intents import RunTwin, TwinBegin
from app.widgets.cache_row import CacheRow
from app.widgets.choice import Choice
from app.widgets.parameter_row import FIELD_PX, GAP, SLIDER, ParameterRow
from app.widgets.segmented import Segmented
from app.widgets.value_field import ValueField
from core.contract import (
    PARAMETERS,
    CacheSpec,
    GenerationParams,
    Intervention,
    ModelSpec,
    ParameterError,
    check_interventions,
    from_row,
    inactive_reason,
    notation,
    of_row,
    parse_intervention,
    validate,
    words,
)

WIDTH_PX = 520
WHATS = ("parameter", "interventions", "cache", "weights", "model")
DTYPES = ("bf16", "fp32")
SEPARATOR = "; "
BEGINS: tuple[TwinBegin, ...] = ("run", "prompt", "token")
FIRST = "temperature"
TOGETHER = ("beams",)  # groups whose parameters make beams, from which nothing can part


def offered() -> tuple[str, ...]:
    """The parameters in which a twin can differ."""
    names = (n for n in plan.parameter_rows() if PARAMETERS[n].group not in TOGETHER and n != "num_return_sequences")
    first = (FIRST, "top_k", "top_p", "do_sample", "repetition_penalty")
    return (*first, *(n for n in names if n not in first))


class TwinEditor(QDialog):
    """A view of the store."""

    heavy = False

    def __init__(self, dispatch: Dispatch, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("Twin run"))
        self.setModal(False)
        self.setFixedWidth(WIDTH_PX)
        self._dispatch = dispatch
        self._state: AppState | None = None
        self._shown: tuple[object, ...] = ()
        self._name, self._values = FIRST, dict[str, object]()
        self._dtype, self._model, self._begin, self._acts = "", "", 0, ""
        self._cache: CacheSpec | None = None
        self.what = Segmented(
            (self.tr("Parameter"), self.tr("Interventions"), self.tr("Cache"), self.tr("Weights"), self.tr("Model"))
        )
        self.what.setToolTip(self.tr("What the twin has otherwise; all else is the same"))
        self.what.show_choice(0)
        self.what.chosen.connect(self._what_chosen)
        self.pages = QStackedWidget()
        for page in (
            self._parameter_page(),
            self._acts_page(),
            self._cache_page(),
            self._weights_page(),
            self._model_page(),
        ):
            self.pages.addWidget(page)
        self.begin = Segmented((self.tr("New run"), self.tr("End of the prompt"), self.tr("Shown token")))
        tips = (
            self.tr("A new run of the prompt, and its twin beside it from the first token on"),
            self.tr("The run shown stays; its twin begins after the prompt and catches up"),
            self.tr("The run shown stays; its twin parts before the shown token"),
        )
        for button, tip in zip(self.begin.buttons(), tips, strict=True):
            button.setToolTip(tip)
        self.begin.chosen.connect(self._begin_chosen)
        self.note = QLabel()
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        self.note.setWordWrap(True)
        self.note.setProperty("secondary", True)
        self.note.setMinimumHeight(2 * self.note.fontMetrics().lineSpacing())
        self.note.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.go = QPushButton(self.tr("Run twin"))
        self.go.setProperty("primary", True)
        self.go.setToolTip(self.tr("Run both side by side, on the same draws"))
        self.go.clicked.connect(self._run)
        self.cancel = QPushButton(self.tr("Close"))
        self.cancel.setToolTip(self.tr("Close without running anything"))
        self.cancel.clicked.connect(self.close)
        self._lay_out()
        for button in self.findChildren(QPushButton):
            button.setAutoDefault(False)  # Enter is for the field that has the focus

    def _parameter_page(self) -> QWidget:
        page = QWidget()
        self.parameter = Choice("", self.tr("Parameter in which the twin differs"), self._parameter_chosen)
        self.parameter.set_options([(name, name) for name in offered()])
        self._page, self._grid = page, QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(SLIDER, 1)
        self._grid.setColumnMinimumWidth(GAP, 8)
        self.rows: dict[str, ParameterRow] = {}
        box = QVBoxLayout(page)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(8)
        box.addWidget(self.parameter, 0, Qt.AlignmentFlag.AlignLeft)
        box.addLayout(self._grid)
        box.addStretch(1)
        return page

    def _acts_page(self) -> QWidget:
        self.acts = ValueField()
        self.acts.setAlignment(Qt.AlignmentFlag.AlignLeft)
        self.acts.setAccessibleName(self.tr("Interventions of the twin"))
        self.acts.setPlaceholderText(self.tr("none; or heads 3.1 * 0; skip 5.mlp"))
        self.acts.setToolTip(self.tr("What is changed in the model of the twin, one after the other with ; between"))
        self.acts.committed.connect(self._acts_typed)
        return _page(self.acts)

    def _cache_page(self) -> QWidget:
        self.cache = CacheRow(self._cache_chosen, self._cache_refused)
        return _page(self.cache)

    def _weights_page(self) -> QWidget:
        self.weights = Segmented(DTYPES)
        self.weights.setToolTip(self.tr("Precision of the twin’s weights; the same model is loaded once more"))
        self.weights.chosen.connect(lambda index: self._choose(dtype=DTYPES[index]))
        return _page(self.weights)

    def _model_page(self) -> QWidget:
        self.model = Choice("", self.tr("Model of the twin"), lambda key: self._choose(model=key))
        self.name = ValueField()
        self.name.setAccessibleName(self.tr("Name of another model"))
        self.name.setPlaceholderText(self.tr("or a folder, a GGUF file, a hub id"))
        self.name.setToolTip(self.tr("A model with the same vocabulary, by its name"))
        self.name.committed.connect(lambda text: self._choose(model=text.strip()))
        return _page(self.model, self.name)

    def _lay_out(self) -> None:
        bottom = QHBoxLayout()
        bottom.addStretch(1)
        bottom.addWidget(self.cancel)
        bottom.addWidget(self.go)
        box = QVBoxLayout(self)
        box.setContentsMargins(16, 16, 16, 16)
        box.setSpacing(8)
        for title, widget in (
            (self.tr("What differs"), self.what),
            ("", self.pages),
            (self.tr("Begins at"), self.begin),
        ):
            if title:
                box.addWidget(QLabel(title))
            box.addWidget(widget)
        box.addWidget(self.note)
        box.addLayout(bottom)

    def open_for(self, state: AppState) -> None:
        """Show the editor for what is there now."""
        self._begin = 0 if state.run is None or state.run.has_beams else 1
        self._values, self._dtype, self._model, self._shown, self._cache = {}, "", "", (), None
        off = of_row(tuple(act.intervention for act in state.acting.acts if not act.on), self._row(state))
        self._acts = "" if state.acting.interventions else SEPARATOR.join(map(notation, off))
        self.render(state)
        self.show()
        self.activateWindow()
        self.parameter.setFocus()

    # the state

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """The values in force, and what can be done."""
        self._state = state
        run = None if state.run is None else (state.run.branch, state.run.has_beams, select.step_index(state))
        chosen = (self.what.group.checkedId(), self._name, dict(self._values), self._begin, self._dtype, self._model)
        shown = (
            state.overrides,
            state.model,
            state.models,
            state.acting.acts,
            run,
            *chosen,
            self._acts,
            self._cache,
            state.cache,
        )
        if shown == self._shown:
            return
        self._shown = shown
        self._show_parameter(state)
        model = self._model_now(state)
        self.model.set_options([("", self.tr("choose one…")), *plan.draft_models(state)])
        self.model.show_key(self._model)
        self.name.show_text(self._model)
        self.acts.show_text(self._acts)
        self.cache.show_spec(self._cache or self._cache_now(state))
        dtype = self._dtype or next((d for d in DTYPES if model is None or d != model[1]), DTYPES[0])
        self._dtype = dtype
        self.weights.show_choice(DTYPES.index(dtype))
        can = (True, state.run is not None, run is not None and run[2] is not None)
        for button, on in zip(self.begin.buttons(), can, strict=True):
            button.setEnabled(on)
        if not can[self._begin]:
            self._begin = 0
        self.begin.show_choice(self._begin)
        text, ready = self._say(state)
        self.note.setText(text)
        self.go.setEnabled(ready)

    def hidden(self) -> None:
        """Nothing is asked for here."""

    def _show_parameter(self, state: AppState) -> None:
        self.parameter.show_key(self._name)
        if self._name not in self.rows:
            parameter = PARAMETERS[self._name]
            row = ParameterRow(parameter, self._page, self._grid, len(self.rows), self._change, self._reset)
            row.field.setMinimumWidth(FIELD_PX)
            self.rows[self._name] = row
        for name, row in self.rows.items():
            row.set_visible(name == self._name)
        now = self._now(state)
        value = self._values.get(self._name, getattr(now, self._name))
        self.rows[self._name].show_value(
            value,
            changed=value != getattr(now, self._name),
            pending=False,
            default=self.tr("The run shown has {0}.").format(plan.written(getattr(now, self._name))),
            most=state.model.max_positions if state.model and self._name.endswith("_new_tokens") else None,
        )

    def _now(self, state: AppState) -> GenerationParams:
        return select.params(state)

    def _model_now(self, state: AppState) -> tuple[ModelSpec, str] | None:
        model = state.model if state.run is None or self._begin == 0 else state.run.model
        return None if model is None else (model.spec, model.dtype)

    def _change_asked(self, state: AppState) -> TwinChange | None:
        """What is chosen; None where it is nothing."""
        model = self._model_now(state)
        match WHATS[self.what.group.checkedId()]:
            case "parameter":
                now = getattr(self._now(state), self._name)
                value = self._values.get(self._name, now)
                return None if value == now else TwinChange(MappingProxyType({self._name: value}))
            case "interventions":
                asked = from_row(parsed(self._acts), self._row(state))
                return None if asked == self._acts_now(state) else TwinChange(interventions=asked)
            case "cache" if self._cache not in (None, self._cache_now(state)):
                return TwinChange(cache=self._cache)
            case "weights" if model is not None and self._dtype != model[1]:
                return TwinChange(model=replace(model[0], dtype=self._dtype))
            case "model" if model is not None and self._model and self._model != model[0].name:
                return TwinChange(model=replace(model[0], name=self._model))
            case _:
                return None

    def _acts_now(self, state: AppState) -> tuple[Intervention, ...]:
        if self._begin == 0 or state.run is None:
            return state.acting.interventions
        return from_row(of_row(select.interventions(state.run), self._row(state)), self._row(state))

    def _row(self, state: AppState) -> int:
        """That the positions meant here are of: a twin is of one row, and its notation names none."""
        return 0 if self._begin == 0 else select.listed_row(state.run)

    def _cache_now(self, state: AppState) -> CacheSpec:
        return state.cache if self._begin == 0 or state.run is None else state.run.plan.cache.spec

    def _say(self, state: AppState) -> tuple[str, bool]:
        """What would be run, or why it cannot; and whether it can."""
        if state.model is None:
            return self.tr("Load a model first."), False
        if state.run is not None and state.run.has_beams and self._begin:
            return self.tr("Beams are chosen together, so no twin can part from this run; take a new run."), False
        if self._begin == 0 and select.params(state).num_beams > 1:
            return self.tr("Beams are chosen together, so they have no twin; set num_beams to 1."), False
        change = self._change_asked(state)
        if change is None:
            return self.tr("Choose what the twin has otherwise."), False
        now = self._now(state)
        parts = [f"{n} {plan.written(getattr(now, n))} ↔ {plan.written(v)}" for n, v in change.params.items()]
        if change.model is not None:
            parts.append(self.tr("the twin runs on {0}, {1}").format(change.model.name, change.model.dtype))
        if change.cache is not None:
            parts.append(self.tr("cache {0} ↔ {1}").format(self._cache_now(state).words(), change.cache.words()))
        if change.interventions is not None:
            sides = [
                ", ".join(map(words, one)) or self.tr("none") for one in (self._acts_now(state), change.interventions)
            ]
            parts.append(self.tr("interventions {0} ↔ {1}").format(*sides))
        text = ", ".join(parts) + self.tr("; the same draws.")
        idle = next((inactive_reason(n, now.replace(change.params)) for n in change.params), "")
        return (f"{text} {idle}" if idle else text), True

    # what the user does

    def _refresh(self) -> None:
        self._shown = ()
        if self._state is not None:
            self.render(self._state)

    def _what_chosen(self, index: int) -> None:
        self.pages.setCurrentIndex(index)
        self._refresh()

    def _begin_chosen(self, index: int) -> None:
        self._begin = index
        self._refresh()

    def _parameter_chosen(self, name: str) -> None:
        self._name = name
        self._refresh()

    def _choose(self, *, dtype: str | None = None, model: str | None = None) -> None:
        self._dtype = self._dtype if dtype is None else dtype
        self._model = self._model if model is None else model
        self._refresh()

    def _acts_typed(self, text: str) -> None:
        try:
            asked = parsed(text)
            info = None if self._state is None else self._state.model
            if info is not None:
                check_interventions(asked, info.title, info.layers, info.heads, info.hidden_size, 1)
        except ParameterError as error:
            self._refresh()
            self.note.setText(error.message)
        else:
            self._acts = SEPARATOR.join(map(notation, asked))
            self._refresh()

    def _cache_chosen(self, spec: CacheSpec) -> None:
        self._cache = spec
        self._refresh()

    def _cache_refused(self, name: str, text: str) -> None:
        self._refresh()
        self.note.setText(self.tr("{0} cannot be “{1}”; it takes a whole number of positions.").format(name, text))

    def _change(self, name: str, value: object, _gesture: int | None) -> None:
        try:
            self._values |= validate({name: value})
        except ParameterError as error:
            self._refresh()
            self.note.setText(error.message)
        else:
            self._refresh()

    def _reset(self, name: str) -> None:
        self._values.pop(name, None)
        self._refresh()

    def _run(self) -> None:
        state = self._state
        change = None if state is None else self._change_asked(state)
        if change is not None:
            self._dispatch(RunTwin(change, BEGINS[self._begin]))
            self.close()


def parsed(text: str) -> tuple[Intervention, ...]:
    """Interventions out of their notation, `;` between them. Raises `ParameterError`."""
    return tuple(parse_intervention(part) for part in text.split(";") if part.strip())


def _page(*widgets: QWidget) -> QWidget:
    """The widgets from the top down; a choice is as wide as it needs to be."""
    page = QWidget()
    box = QVBoxLayout(page)
    box.setContentsMargins(0, 0, 0, 0)
    box.setSpacing(8)
    for widget in widgets:
        box.addWidget(widget, 0, Qt.AlignmentFlag.AlignLeft if isinstance(widget, Choice) else Qt.AlignmentFlag(0))
    box.addStretch(1)
    return page
