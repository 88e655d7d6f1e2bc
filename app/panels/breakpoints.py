"""Breakpoints: conditions that stop the run between two tokens, how often they did, and a form to add more."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QPushButton, QWidget

import core
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.acting import stopped_text
from app.state.acting_intents import AddBreakpoint, RemoveBreakpoint, SwitchBreakpoint
from app.state.acting_state import Break
from app.state.state import AppState
from app.state.texts import tr
from app.widgets.kind_form import FormField, FormKind, FormToggle, KindForm, number, whole
from app.widgets.switch_list import SwitchEntry, SwitchList, form_and_list
from core.contract import (
    AttentionAbove,
    Breakpoint,
    CacheAbove,
    EntropyAbove,
    EveryTokens,
    ProbabilityBelow,
    RankAbove,
    TextMatches,
    TokenIn,
    check_breakpoint,
    condition,
)

UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


class BreakpointsPanel(Panel):
    """A form, and the list of everything that was added."""

    name = "breakpoints"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Breakpoints")
        self._state: AppState | None = None
        self.form = KindForm(self.tr("Add a breakpoint"), _kinds(), self._add, self)
        self.list = SwitchList(self.tr("Breakpoints"), self)
        self.list.set_empty(
            self.tr(
                "The run stops nowhere by itself. Add a condition: the run pauses after the token that meets it, and "
                "everything can be looked at and changed before it goes on."
            )
        )
        self.list.switched.connect(lambda number, on: dispatch(SwitchBreakpoint(number, on)))
        self.list.removed.connect(lambda number: dispatch(RemoveBreakpoint(number)))
        self.toggle = FormToggle(self.form, self)
        self.clear = QPushButton(self.tr("Clear all"))
        self.clear.setProperty("link", True)
        self.clear.setToolTip(self.tr("Remove every breakpoint"))
        self.clear.clicked.connect(lambda: dispatch(RemoveBreakpoint(None)))
        form_and_list(self.form, self.list, self)
        self._shown: tuple[object, ...] = ()
        self._theme = ""

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.toggle,)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.clear,)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        if state.theme != self._theme:
            self._theme = state.theme
            self.toggle.set_accent(select.palette(state).accent)
        run = state.run
        shown = (state.acting.breaks, state.acting.hits, run is not None, run is not None and run.finish is not None)
        if shown == self._shown:
            return
        self._shown = shown
        self.list.show_entries([_entry(one, state) for one in state.acting.breaks])
        self.clear.setEnabled(bool(state.acting.breaks))
        self.toggle.fit(self.height(), not state.acting.breaks)
        self.subtitle = stopped_text(state)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self.toggle.fit(self.height(), not self.list.rows)

    def _add(self, thing: object) -> None:
        if isinstance(thing, Breakpoint):
            self.dispatch(AddBreakpoint(thing))


def _entry(one: Break, state: AppState) -> SwitchEntry:
    stopped = any(hit.breakpoint == one.breakpoint for hit in state.acting.hits)
    return SwitchEntry(one.break_id, condition(one.breakpoint), one.on, _note(one, state, stopped), stopped)


def _note(one: Break, state: AppState, stopped: bool) -> str:
    """What became of it in the run shown."""
    if one.problem:
        return one.problem
    if stopped:
        return tr("stopped here")
    if one.hits:
        return tr("1 hit") if one.hits == 1 else tr("{0} hits").format(one.hits)
    if not one.on or state.run is None:
        return ""
    return tr("not yet") if select.is_active(state) else tr("never in this run")


def _kinds() -> tuple[FormKind, ...]:
    def field(label: str, name: str, first: str) -> FormField:
        return FormField(label, name, first)

    attention = (
        field(tr("layer"), tr("Layer, counted from 0"), "0"),
        field(tr("head"), tr("Head, counted from 0"), "0"),
        field(tr("position"), tr("Position that is looked at"), "0"),
        field(">", tr("Weight"), "0.5"),
    )
    units = tuple((unit, unit) for unit in UNITS)
    cache = (field(">", tr("Size of the KV cache"), "1"), FormField("", tr("Unit"), "MB", options=units))
    pattern = FormField("", tr("Regular expression, found at the end of the text"), "", True, "[.!?]$")
    tokens = FormField(tr("ids"), tr("Token ids, such as 13, 198"), "", True, "13, 198")
    return (
        FormKind("entropy", tr("entropy"), (field(">", tr("Entropy in bits"), "5"),), _entropy),
        FormKind("probability", tr("probability"), (field("<", tr("Probability of the chosen token"), "0.01"),), _low),
        FormKind("rank", tr("rank"), (field(">", tr("Rank of the chosen token, 0 is the likeliest"), "10"),), _rank),
        FormKind("text", tr("text matches"), (pattern,), _text),
        FormKind("token", tr("token is one of"), (tokens,), _tokens),
        FormKind("attention", tr("attention"), attention, _attention),
        FormKind("cache", tr("KV cache"), cache, _cache),
        FormKind("every", tr("every"), (field("", tr("Number of tokens"), "16"),), _every),
    )


def _checked(one: Breakpoint) -> Breakpoint:
    check_breakpoint(one)
    return one


def _entropy(texts: Sequence[str]) -> Breakpoint:
    return _checked(EntropyAbove(number(texts[0], tr("The entropy"))))


def _low(texts: Sequence[str]) -> Breakpoint:
    return _checked(ProbabilityBelow(number(texts[0], tr("The probability"))))


def _rank(texts: Sequence[str]) -> Breakpoint:
    return _checked(RankAbove(whole(texts[0], tr("The rank"))))


def _text(texts: Sequence[str]) -> Breakpoint:
    one = _checked(TextMatches(texts[0]))
    core.check_pattern(texts[0])
    return one


def _tokens(texts: Sequence[str]) -> Breakpoint:
    parts = texts[0].replace(",", " ").split()
    return _checked(TokenIn(tuple(whole(part, tr("A token id")) for part in parts)))


def _attention(texts: Sequence[str]) -> Breakpoint:
    layer, head, position = (
        whole(text, what)
        for text, what in zip(texts[:3], (tr("The layer"), tr("The head"), tr("The position")), strict=True)
    )
    return _checked(AttentionAbove(layer, head, position, number(texts[3], tr("The weight"))))


def _cache(texts: Sequence[str]) -> Breakpoint:
    return _checked(CacheAbove(round(number(texts[0], tr("The size")) * UNITS[texts[1]])))


def _every(texts: Sequence[str]) -> Breakpoint:
    return _checked(EveryTokens(whole(texts[0], tr("The number of tokens"))))
