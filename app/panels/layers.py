"""The logit lens of a picture: what every layer would have painted, one small picture each."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.panels.accessible import Moment, describe_selection
from app.panels.lens_questions import LIVE_INTERVAL_S, is_busy
from app.panels.panel import Dispatch, Panel
from app.state import image_draft, select
from app.state.intents import AskView, SetFocus, WithdrawView
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.theme.colormaps import rgb
from app.widgets import numbers
from app.widgets.focus_ring import FocusRing
from app.widgets.ink import Ink
from app.widgets.lens_columns import stream_name, stream_words
from app.widgets.picture_grid import PictureGrid
from app.widgets.readout import Readout, share_room
from app.widgets.table_data import Column, Table
from app.widgets.twin import Twin, TwinStack
from core.contract import ImageFacts, LensAnswer, LensQuery

SLOT = "layers.lens"
PORTION, LIVE_PORTION = 64, 16  # positions of one answer


class LayersPanel(Panel):
    """Asks for the lens of the pixels painted, a few at a time, the shown one first."""

    name = "layers"
    title = "Layers"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Layers")
        self.grid = PictureGrid()
        self.grid.setAccessibleName(self.tr("What each layer would have painted"))
        self.grid.tooltip = self._tooltip
        self.grid.chosen.connect(self._chosen)
        FocusRing(self.grid)
        self.twins = TwinStack(self.title, self.grid, (Twin(self.title, (self.grid,)),), self)
        self.twins.turned.connect(self._show_table)
        self.readout = Readout(numbers=False, parent=self)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.twins)
        self._state: AppState | None = None
        self._theme = ""
        self._key: object = None
        self._taken = self._version = 0
        self._asked = False
        self._asked_s = 0.0
        self._problem = ""
        self._shown: tuple[object, ...] = ()
        self._drawn: tuple[object, ...] = ()
        self._described: Moment = None
        self.token_ids: NDArray[np.int64] = np.zeros((0, 0), np.int64)  # (L + 1, H · W), -1: unknown; row 0: no layer
        self.probability: NDArray[np.float32] = np.zeros((0, 0), np.float32)  # NaN where not known

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.readout)

    def resizeEvent(self, event: object) -> None:
        """Share the room of the title bar."""
        share_room(self.width(), self.title, (self.twins.button,), (self.readout, 0))

    def hidden(self) -> None:
        if self._asked:
            self._asked = False
            self.dispatch(WithdrawView(SLOT))

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        if state.theme != self._theme:
            self._theme, self._shown, self._drawn = state.theme, (), ()
            for widget in (self.grid, self.twins, self.readout):
                widget.set_palette(select.palette(state))
        run, image = state.run, image_draft.run_facts(state)
        status = select.view_status(state, "distribution")
        if run is None or image is None or (status is not None and not status.available):
            self._show_nothing(state, "" if status is None or status.available else status.reason)
            return
        if run.key != self._key:
            self._start_over(run, image)
        self._take(run, image, state)
        self._ask(run, image, state)
        self._show(run, image, state)
        self._described = describe_selection(self, (self.grid,), state, self._described)

    def describe(self) -> str:
        """The shown pixel, layer by layer, in words."""
        table = self._rows()
        if not table:
            return self.tr("No layers yet.")
        said = (self.tr("{0} {1} {2}").format(n, c, numbers.percent(p)) for n, c, p in table)
        return self.tr("What each layer would have painted at the shown pixel: {0}.").format(", ".join(said))

    # what is known

    def _start_over(self, run: RunView, image: ImageFacts) -> None:
        self._key, self._problem, self._asked_s = run.key, "", 0.0
        self._version += 1
        shape = (run.model.layers + 1, image.pixels)
        self.token_ids = np.full(shape, -1, np.int64)
        self.probability = np.full(shape, np.nan, np.float32)
        given = run.prompt.token_ids[1:]
        self.token_ids[:, : len(given)] = given

    def _take(self, run: RunView, image: ImageFacts, state: AppState) -> None:
        got = select.answer(state, SLOT)
        if got is None or got.generation <= self._taken:
            return
        self._taken = got.generation
        self._problem = got.error.message if got.error is not None else ""
        answer = got.answer
        if isinstance(answer, LensAnswer) and answer.query.run_id == run.run_id:
            first, stop = answer.positions[0], min(answer.positions[1], image.pixels)
            count = stop - first
            self.token_ids[:, first:stop] = answer.token_ids[:count, :, 0].T
            self.probability[:, first:stop] = np.exp(answer.logprob[:count, :, 0]).T
            self._version += 1

    def _ask(self, run: RunView, image: ImageFacts, state: AppState) -> None:
        busy = is_busy(state)
        if select.is_waiting(state, SLOT) or (busy and time.monotonic() - self._asked_s < LIVE_INTERVAL_S):
            return
        wanted = self._missing(run, image, state, LIVE_PORTION if busy else PORTION)
        if wanted is None or (self._problem and not busy):
            return
        query = LensQuery(run.run_id, wanted, top=1, **run.place.named)
        asked = state.asked.get(SLOT)
        if asked is None or asked.query != query:
            self._asked, self._asked_s = True, time.monotonic()
            self.dispatch(AskView(SLOT, query))

    def _missing(self, run: RunView, image: ImageFacts, state: AppState, most: int) -> tuple[int, int] | None:
        """Positions whose lens is not known: the shown one, then the first few."""
        given, fed = run.prompt_tokens - 1, min(select.fed_positions(run), image.pixels)
        unknown = np.isnan(self.probability[0, given:fed])
        index = select.step_index(state)
        if index is not None and index < len(unknown) and unknown[index]:
            return given + index, given + index + 1
        places = np.flatnonzero(unknown)
        if not len(places):
            return None
        first = int(places[0])
        known = np.flatnonzero(~unknown[first : first + most])
        return given + first, given + first + (int(known[0]) if len(known) else min(most, len(unknown) - first))

    # showing

    def _show_nothing(self, state: AppState, reason: str) -> None:
        self._key, self._shown, self._drawn = None, (), ()
        self.grid.show_pictures(())
        title = self.tr("What each layer would have painted appears here")
        hint = self.tr("Run an image model: one small picture for every layer.")
        self.grid.set_message(reason or title, "" if reason else hint)
        self.readout.set_wordings("")
        self._described = describe_selection(self, (self.grid,), state, self._described)

    def _show(self, run: RunView, image: ImageFacts, state: AppState) -> None:
        index = select.step_index(state)
        pixel = None if index is None else run.prompt_tokens - 1 + index
        shown = (self._key, self._version, pixel, state.selected is None)
        if shown != self._shown:
            self._shown = shown
            if shown[:2] != self._drawn:
                self._drawn = shown[:2]
                palette = select.palette(state)
                ink = Ink(image.palette, (rgb(palette.raised), rgb(palette.line)))
                known = np.where(self.token_ids < 0, ink.blank(image.height, image.width), self.token_ids)
                words = ink.picture(known).reshape(len(known), image.height, image.width)
                self.grid.show_pictures(list(words))
            rows = self._rows()
            captions = [f"{name} {_brief(p)}" for name, _, p in rows] or self._names()
            ids = [] if pixel is None else self.token_ids[:, pixel].tolist()
            self.grid.set_captions(captions, [image.rgb(i) for i in ids] if rows else ())
            place = "" if pixel is None else self.tr("row {0}, column {1}").format(*divmod(pixel, image.width))
            self.readout.set_wordings(self._problem or place, place)
            self._show_table()
        self.grid.set_marks(state.focus.layer + 1, pixel if state.selected is not None else None)

    def _names(self) -> list[str]:
        last = len(self.token_ids) - 1
        return [stream_name(row, last) for row in range(last + 1)]

    def _rows(self) -> list[tuple[str, str, float]]:
        """Name, colour and its probability, of each layer at the shown pixel; nothing while that is not known."""
        state = self._state
        run, image = (state.run, image_draft.run_facts(state)) if state else (None, None)
        index = select.step_index(state) if state else None
        if run is None or image is None or index is None or not len(self.token_ids):
            return []
        pixel = run.prompt_tokens - 1 + index
        if pixel >= image.pixels or np.isnan(self.probability[0, pixel]):
            return []
        ids, chances = self.token_ids[:, pixel].tolist(), self.probability[:, pixel].tolist()
        return [(n, _hex(image, i), p) for n, i, p in zip(self._names(), ids, chances, strict=True)]

    def _show_table(self) -> None:
        if self.twins.shown is None:
            return
        rows = self._rows()
        columns = (
            Column(tr("after layer"), [name for name, _, _ in rows], numeric=False),
            Column(tr("colour"), [colour for _, colour, _ in rows], numeric=False),
            Column(tr("probability"), [p for _, _, p in rows], numbers.probability),
        )
        self.twins.show_table(Table(columns, len(rows), (self._key, self._version, self._shown)) if rows else None)

    def _chosen(self, number: int) -> None:
        state = self._state
        if state is not None and state.run is not None and number > 0:  # the first is what no layer has touched
            self.dispatch(SetFocus(number - 1, state.focus.head))

    def _tooltip(self, number: int) -> str:
        rows = self._rows()
        title = self.tr("What is painted by {0}").format(stream_words(number, len(self.token_ids) - 1))
        return title if not rows else f"{title}\n{rows[number][1]}  {numbers.probability(rows[number][2]).strip()}"


def _hex(image: ImageFacts, token_id: int) -> str:
    red, green, blue = image.rgb(token_id) or (0, 0, 0)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _brief(probability: float) -> str:
    """Three characters: `.87`, `1.0`."""
    return "1.0" if probability >= 0.995 else f"{probability:.2f}"[1:]
