"""Interventions: what is changed in the model from the next token on, and a form to add more."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QPushButton, QToolButton, QWidget

from app.panels.panel import Dispatch, Panel
from app.state import deleting, select
from app.state.acting_intents import (
    AddIntervention,
    ChangeIntervention,
    RemoveIntervention,
    ShowPreview,
    SwitchIntervention,
)
from app.state.acting_state import Act
from app.state.intents import Announce
from app.state.state import AppState
from app.state.texts import tr
from app.widgets.kind_form import FormField, FormKind, FormToggle, KindForm, number
from app.widgets.switch_list import SwitchEntry, SwitchList, form_and_list
from core.contract import (
    DeletePositions,
    Intervention,
    MutePositions,
    ParameterError,
    ScaleHeads,
    SkipPart,
    Steer,
    parse_positions,
    words,
)


class InterventionsPanel(Panel):
    """A form, and the list of everything that was added."""

    name = "interventions"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Interventions")
        self._state: AppState | None = None
        self.form = KindForm(self.tr("Add an intervention"), _kinds(lambda: self._row), self._add, self)
        self.list = SwitchList(self.tr("Interventions"), self)
        self.list.set_empty(
            self.tr(
                "Nothing is changed in the model. Right-click a head in Attention or a token in Output, or add an "
                "intervention here; it acts from the next token on."
            )
        )
        self.list.switched.connect(lambda number, on: dispatch(SwitchIntervention(number, on)))
        self.list.removed.connect(lambda number: dispatch(RemoveIntervention(number)))
        self.list.valued.connect(self._valued)
        self.preview = QToolButton(self)
        self.preview.setText(self.tr("preview"))
        self.preview.setCheckable(True)
        self.preview.setProperty("plain", True)
        tip = self.tr("Candidates show what the interventions would change at the shown step, by one more forward pass")
        self.preview.setToolTip(tip)
        self.preview.setAccessibleName(self.tr("Preview at the candidates"))
        self.preview.setAccessibleDescription(tip)
        self.preview.clicked.connect(lambda on: dispatch(ShowPreview(on)))
        self.toggle = FormToggle(self.form, self)
        self.clear = QPushButton(self.tr("Clear all"))
        self.clear.setProperty("link", True)
        self.clear.setToolTip(self.tr("Remove every intervention"))
        self.clear.clicked.connect(lambda: dispatch(RemoveIntervention(None)))
        form_and_list(self.form, self.list, self)
        self._shown: tuple[object, ...] = ()
        self._theme = ""

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.toggle, self.preview)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.clear,)

    @property
    def _row(self) -> int:
        return select.listed_row(self._state.run if self._state else None)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        if state.theme != self._theme:
            self._theme = state.theme
            accent = select.palette(state).accent
            self.preview.setStyleSheet(f"QToolButton:checked {{ color: {accent} }}")
            self.toggle.set_accent(accent)
        acts, run = state.acting.acts, state.run
        final = frozenset(act.act_id for act in acts if deleting.is_final(act, run))
        shown = (acts, state.acting.epoch, state.acting.preview, select.is_active(state), final)
        if shown == self._shown:
            return
        self._shown = shown
        acting = state.acting
        pending = tr("from the next token") if acting.epoch is not None else ""
        self.list.show_entries([_entry(act, pending if act.on else "", act.act_id in final) for act in acts])
        self.clear.setEnabled(len(acts) > len(final))
        self.toggle.fit(self.height(), not acting.acts)
        self.preview.setChecked(acting.preview)
        count = len(acting.interventions)
        self.header_right = tr("{0} on").format(count) if count else ""

    def resizeEvent(self, event: QResizeEvent) -> None:
        self.toggle.fit(self.height(), not self.list.rows)

    def _add(self, thing: object) -> None:
        if isinstance(thing, Intervention):
            self.dispatch(AddIntervention(thing))

    def _valued(self, number: int, text: str) -> None:
        act = next((a for a in self._state.acting.acts if a.act_id == number), None) if self._state else None
        if act is None:
            return
        try:
            value = float(text)
        except ValueError:
            self.dispatch(Announce("error", self.tr("“{0}” is not a number; the intervention stays.").format(text)))
            return
        one = act.intervention
        if isinstance(one, ScaleHeads):
            self.dispatch(ChangeIntervention(number, replace(one, factor=value)))
        elif isinstance(one, Steer):
            self.dispatch(ChangeIntervention(number, replace(one, scale=value)))


def _entry(act: Act, note: str, final: bool) -> SwitchEntry:
    one = act.intervention
    value, name = None, ""
    if isinstance(one, ScaleHeads):
        value, name = f"{one.factor:g}", tr("Factor, 0 mutes")
    elif isinstance(one, Steer):
        value, name = f"{one.scale:g}", tr("Scale of the vector")
    why = tr("Deleted keys and values do not come back; go back to a token before that to have them") if final else ""
    note = note or (tr("no undo") if final else "")
    return SwitchEntry(act.act_id, words(one), act.on, note, value=value, value_name=name, final=why)


def _kinds(row: Callable[[], int]) -> tuple[FormKind, ...]:
    layer = FormField(tr("layer"), tr("Layer, counted from 0"), "0")
    parts = (("attention", tr("attention")), ("mlp", tr("MLP")))
    heads = FormField(tr("heads"), tr("Heads, such as 1,4"), "", hint="1,4")
    factor = FormField("×", tr("Factor, 0 mutes"), "0")
    toward = FormField("", tr("Prompt to steer toward, or token ids such as [12, 7]"), "", True, tr("toward a prompt"))
    away = FormField("", tr("Prompt to steer away from, may be empty"), "", True, tr("away from one"))
    scale = FormField("×", tr("Scale of the vector"), "4")
    positions = FormField(tr("positions"), tr("Positions, such as 3, 5-7"), "", True, "3, 5-7")
    gone = FormField(tr("positions"), tr("Positions to delete from the cache for good"), "", True, "3, 5-7")
    return (
        FormKind("heads", tr("scale heads"), (layer, heads, factor), _heads),
        FormKind("skip", tr("skip"), (layer, FormField("", tr("Part of the layer"), "mlp", options=parts)), _skip),
        FormKind("steer", tr("steer"), (layer, toward, away, scale), _steer),
        FormKind("mute", tr("mute positions"), (positions,), lambda texts: MutePositions(row(), _positions(texts))),
        FormKind("delete", tr("delete positions"), (gone,), lambda texts: DeletePositions(row(), _positions(texts))),
    )


def _heads(texts: Sequence[str]) -> Intervention:
    try:
        heads = parse_positions(texts[1])
    except ValueError:
        raise ParameterError(tr("Name heads by their numbers, such as 1,4.")) from None
    return ScaleHeads(_layer(texts[0]), heads, number(texts[2], tr("The factor")))


def _skip(texts: Sequence[str]) -> Intervention:
    return SkipPart(_layer(texts[0]), "mlp" if texts[1] == "mlp" else "attention")


def _steer(texts: Sequence[str]) -> Intervention:
    scale = number(texts[3], tr("The scale"))
    if not texts[1].strip():
        raise ParameterError(tr("Steering needs a prompt to steer toward; write one."))
    return Steer(_layer(texts[0]), scale, _prompt(texts[1]), _prompt(texts[2]))


def _prompt(text: str) -> str | tuple[int, ...]:
    """Token ids in brackets, else a text as it is."""
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(ids, list) and ids and all(type(i) is int for i in ids):
        return tuple(ids)
    return text


def _positions(texts: Sequence[str]) -> tuple[int, ...]:
    try:
        return parse_positions(texts[0])
    except ValueError:
        raise ParameterError(tr("Name positions by their numbers, such as 3, 5-7.")) from None


def _layer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ParameterError(tr("The layer is a whole number, counted from 0.")) from None
