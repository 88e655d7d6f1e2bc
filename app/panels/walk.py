"""The walk: one forward pass as a tree of the real modules, the first step beside a later one."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QLabel, QPlainTextEdit, QStackedWidget, QVBoxLayout, QWidget

from app.panels.accessible import Moment, describe_selection
from app.panels.lens_questions import is_busy
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.intents import Announce, AskView, WithdrawView
from app.state.run import RunView
from app.state.state import AppState
from app.theme import fonts
from app.widgets import numbers
from app.widgets.empty_view import EmptyView
from app.widgets.focus_ring import FocusRing
from app.widgets.parameter_text import shortened, whole_number
from app.widgets.readout import Readout, share_room
from app.widgets.value_field import ValueField
from app.widgets.walk_tree import WalkTree, merged
from core.contract import WalkAnswer, WalkQuery

FIRST_SLOT, LATER_SLOT = "walk.first", "walk.later"
DETAIL_PX = 112
TYPE_PX = 76
TYPED = ("gpt2", "imagegpt")  # families that take token types
FIRST_POSITIONS = 256  # of the prompt that one pass feeds at most


class WalkPanel(Panel):
    """Asks only while tokens do not stream, or for one selected step: each answer is a forward pass."""

    name = "walk"
    title = "Walk"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Walk")
        self.tree = WalkTree()
        self.tree.setAccessibleName(self.tr("Modules of the forward pass, first step and later step"))
        FocusRing(self.tree)
        self.detail = QPlainTextEdit()
        self.detail.setReadOnly(True)
        self.detail.setFrameShape(QFrame.Shape.NoFrame)
        self.detail.setFont(fonts.mono(fonts.SMALL_PX))
        self.detail.setFixedHeight(DETAIL_PX)
        self.detail.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.detail.setAccessibleName(self.tr("What went in and out of the chosen module"))
        self.tree.told.connect(self._tell)
        self.empty = EmptyView()
        self.empty.setAccessibleName(self.tr("Walk, nothing to show yet"))
        self.stack = QStackedWidget(self)
        self.stack.addWidget(self.empty)
        both = QWidget()
        inner = QVBoxLayout(both)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(4)
        inner.addWidget(self.tree, 1)
        inner.addWidget(self.detail)
        self.both = both
        self.stack.addWidget(both)
        self.note = QLabel()
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        self.note.setProperty("secondary", True)
        self.note.setProperty("small", True)
        self.note.setWordWrap(True)
        self.token_type = ValueField()
        self.token_type.setFixedWidth(TYPE_PX)
        self.token_type.setFont(fonts.ui(fonts.SMALL_PX))
        self.token_type.setPlaceholderText(self.tr("token type"))
        self.token_type.setAccessibleName(self.tr("Token type that the walk gives to every position"))
        tip = self.tr("An id whose embedding the walked passes add as token type; the run had none, and empty is none")
        self.token_type.setToolTip(tip)
        self.token_type.setAccessibleDescription(tip)
        self.token_type.committed.connect(self._type_chosen)
        self.token_type.stepped.connect(self._type_stepped)
        self._type: int | None = None
        self._types = 0  # token types that the family takes
        self.readout = Readout(numbers=True, parent=self)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.stack, 1)
        box.addWidget(self.note)
        self._state: AppState | None = None
        self._key: tuple[int, int] | None = None
        self._theme = ""
        self._asked: set[str] = set()
        self._problem: dict[str, tuple[WalkQuery, str]] = {}
        self._answers: dict[str, WalkAnswer] = {}
        self._taken = {FIRST_SLOT: 0, LATER_SLOT: 0}
        self._shown: tuple[int, ...] = ()
        self._described: Moment = None

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.token_type,)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def hidden(self) -> None:
        for slot in sorted(self._asked):
            self.dispatch(WithdrawView(slot))
        self._asked.clear()

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            for widget in (self.tree, self.empty, self.readout):
                widget.set_palette(palette)
        run = state.run
        if run is None or run.key != self._key:
            self._start_over(run)
        if run is not None:
            for slot, query in wanted(run, state, self._type).items():
                self._take(slot, state)
                self._ask(slot, query, state)
        self._show(run, state)
        self._described = describe_selection(self, (self.tree, self.empty), state, self._described)

    def describe(self) -> str:
        """What caching changes, in words."""
        first, later = self._answers.get(FIRST_SLOT), self._answers.get(LATER_SLOT)
        if first is None or later is None:
            return self.tr("No walk yet.")
        text = self.tr(
            "The first step fed {0} positions in {1} ms; position {2} fed {3} after {4} in the cache, {5} ms."
        )
        fed = [f"{a.positions[1] - a.positions[0]:,}" for a in (first, later)]
        times = [numbers.significant(a.total_ms) for a in (first, later)]
        return text.format(fed[0], times[0], later.positions[0], fed[1], f"{later.past:,}", times[1])

    def resizeEvent(self, event: object) -> None:
        share_room(self.width(), self.title, (self.token_type,) if self._typed else (), (self.readout, 0))

    # questions and answers

    def _start_over(self, run: RunView | None) -> None:
        self._key = None if run is None else run.key
        self._types = run.model.vocab_size if run is not None and run.model.family in TYPED else 0
        self._type = self._type if self._type is not None and self._type < self._types else None
        self._show_type()
        self.token_type.setVisible(self._typed)
        share_room(self.width(), self.title, (self.token_type,) if self._typed else (), (self.readout, 0))
        self._answers.clear()
        self._problem.clear()
        self._taken = dict.fromkeys(self._taken, 0)
        self._shown = ()

    @property
    def _typed(self) -> bool:
        return self._types > 0

    def _show_type(self) -> None:
        self.token_type.show_text("" if self._type is None else str(self._type))

    def _type_chosen(self, text: str) -> None:
        """A whole number within the vocabulary, or nothing."""
        chosen = whole_number(text, 0, self._types - 1)
        if text.strip() and chosen is None:
            said = self.tr("“{0}” is no token type; ids go from 0 to {1}, and empty means none.")
            self.dispatch(Announce("error", said.format(shortened(text), f"{self._types - 1:,}")))
            return
        self._choose_type(chosen)

    def _type_stepped(self, by: int) -> None:
        least = -1 if self._type is None else self._type
        chosen = max(-1, min(self._types - 1, least + by))
        self._choose_type(None if chosen < 0 else chosen)

    def _choose_type(self, chosen: int | None) -> None:
        self._type = chosen
        self._show_type()
        if self._state is not None:
            self.render(self._state)

    def _take(self, slot: str, state: AppState) -> None:
        got, asked = select.answer(state, slot), state.asked.get(slot)
        if got is None or got.generation <= self._taken[slot]:
            return
        self._taken[slot] = got.generation
        if isinstance(got.answer, WalkAnswer):
            self._answers[slot] = got.answer
            self._problem.pop(slot, None)
        elif got.error is not None and asked is not None and isinstance(asked.query, WalkQuery):
            self._answers.pop(slot, None)  # of another step
            self._problem[slot] = (asked.query, got.error.message)

    def _ask(self, slot: str, query: WalkQuery, state: AppState) -> None:
        have, problem = self._answers.get(slot), self._problem.get(slot)
        if problem is not None and problem[0] != query:
            del self._problem[slot]  # who comes back to that step asks again
            problem = None
        known = (have is not None and have.query == query) or (problem is not None and problem[0] == query)
        asked = state.asked.get(slot)
        if known or (select.is_waiting(state, slot) and asked is not None and asked.query == query):
            return
        self._asked.add(slot)
        self.dispatch(AskView(slot, query))

    # showing

    def _show(self, run: RunView | None, state: AppState) -> None:
        first, later = self._answers.get(FIRST_SLOT), self._answers.get(LATER_SLOT)
        if first is None and later is None:
            self._say(run, state)
            return
        shown = (id(first), id(later), int(is_busy(state)), hash(tuple(self._problem.values())))
        self.stack.setCurrentWidget(self.both)
        if shown == self._shown:
            return
        self._shown = shown
        self.tree.set_titles(self._title(first, self.tr("first")), self._title(later, self.tr("later")))
        self.tree.show_lines(merged(first, later))
        times = [numbers.duration(a.total_ms) for a in (first, later) if a is not None]
        self.readout.set_wordings(" → ".join(times), "")
        self.note.setText(self._note(first, later, is_busy(state)))
        self.note.setVisible(bool(self.note.text()))
        self._described = None

    def _title(self, answer: WalkAnswer | None, name: str) -> str:
        if answer is None:
            return name
        fed = answer.positions[1] - answer.positions[0]
        return self.tr("{0}: {1} + {2} past").format(name, f"{fed:,}", f"{answer.past:,}")

    def _tell(self, text: str) -> None:
        if text != self.detail.toPlainText():
            self.detail.setPlainText(text)

    def _note(self, first: WalkAnswer | None, later: WalkAnswer | None, busy: bool) -> str:
        answer, notes = first or later, [message for _, message in self._problem.values()]
        if first is None and busy:
            notes.append(self.tr("The first step is walked once no tokens stream; it would hold them up."))
        if answer is not None and not answer.named:
            notes.append(self.tr("This family has no named stages here: the plain tree of its modules."))
        if answer is not None and answer.batch > 1:
            text = self.tr("One of {0} rows, fed again by itself; the mask hides its {1} padding positions.")
            if answer.unpadded:
                text = self.tr("One of {0} rows, fed alone here. In the run a mask hid its {1} padding positions.")
            elif not answer.padding:
                text = self.tr("One of {0} rows, fed again by itself.")
            notes.append(text.format(answer.batch, answer.padding))
        return " ".join(notes)

    def _say(self, run: RunView | None, state: AppState) -> None:
        self.stack.setCurrentWidget(self.empty)
        self.note.hide()
        self.readout.set_wordings("")
        problem = next(iter(self._problem.values()), None)
        if problem is not None:
            self.empty.set_words(problem[1])
        elif run is None or select.token_index(state) is None:
            first = self.tr(
                "Press Ctrl+Enter to run. The first step stands beside a later one, so that caching is seen."
            )
            self.empty.set_words(
                self.tr("The forward pass, module by module, appears here"), select.next_step(state, first)
            )
        elif is_busy(state):
            self.empty.set_words(
                self.tr("The forward pass, module by module, appears here"),
                self.tr("Pause, or select a token: its step is fed once more for the walk."),
            )
        else:
            self.empty.set_words(self.tr("Walking…"))


def wanted(run: RunView, state: AppState, token_type: int | None = None) -> dict[str, WalkQuery]:
    """The passes to ask for: none while tokens stream and nothing is selected."""
    fed, position = select.fed_positions(run), select.shown_position(state)
    busy = is_busy(state)
    if not fed or position is None or (busy and state.selected is None):
        return {}
    first, at = (0, min(run.prompt_tokens, FIRST_POSITIONS)), run.place.named
    found = (
        {} if busy else {FIRST_SLOT: WalkQuery(run.run_id, first, **at, token_type=token_type)}
    )  # many positions would hold the run up
    # Step 0 is the first pass itself; a position of the prompt that was chosen is fed once more by itself.
    later = position if select.in_prompt(state) else max(run.prompt_tokens, position)
    if later < fed:
        one = later, later + 1
        found[LATER_SLOT] = WalkQuery(run.run_id, one, **at, token_type=token_type)
    return found
