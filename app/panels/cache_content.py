"""What is in the cache of the run: norms of K and V by head and position, and which keys resemble each other."""

from __future__ import annotations

import time

import numpy as np
from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app.panels.token_menu import cannot_be_undone
from app.state import select
from app.state.intents import AskView, WithdrawView
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.theme.palette import LIGHT, Palette
from app.widgets.choice import Choice
from app.widgets.focus_ring import FocusRing
from app.widgets.numbers import significant
from app.widgets.scale_line import ScaleLine
from app.widgets.strip_map import StripMap
from app.widgets.table_data import Column, Table
from core.contract import CacheContentAnswer, CacheContentQuery, WorkerState, deleted_positions

SLOT = "cache.content"
TEXT, WHOLE = "text", "whole"
DELETABLE = ("growing", "fp8", "int8")  # kinds that have no rule of their own for what they drop
LIVE_INTERVAL_S = 0.5  # between two questions while tokens are produced
MOST_SHOWN = 128  # cells of the comparison, each way


class ContentPage(QWidget):
    """Asks while it is seen. `position_clicked`: of the sequence shown, prompt included. `wanted`: render again."""

    position_clicked = Signal(int)
    muted_changed = Signal(object)  # the positions that no later token may look at, a tuple
    deleted = Signal(int)  # a position whose keys and values are to go
    wanted = Signal()  # another layer or head, or another position looks selected

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.layer = Choice(self.tr("layer"), self.tr("Layer"), self._layer_chosen)
        self.head = Choice(self.tr("head"), self.tr("Key/value head whose keys are compared"), self._head_chosen)
        self.columns = Choice(self.tr("columns"), self.tr("Width of the columns"), self._columns_chosen)
        self.columns.set_options([(TEXT, self.tr("with text")), (WHOLE, self.tr("all"))])
        self.columns.show_key(TEXT)
        self.norms, self.likeness = StripMap(), StripMap(signed=True)
        self.norms.setAccessibleName(self.tr("Norm of keys and values by head and position"))
        self.likeness.setAccessibleName(self.tr("Cosine between the keys of two positions"))
        self.norms.tooltip, self.likeness.tooltip = self._norm_tip, self._likeness_tip
        for plot in (self.norms, self.likeness):
            FocusRing(plot)
        self.norms.clicked.connect(self._clicked)
        self.likeness.clicked.connect(self._likeness_clicked)
        self.note = QLabel()
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        self.note.setWordWrap(True)
        self.note.setProperty("secondary", True)
        line = QHBoxLayout()
        line.setSpacing(8)
        line.addWidget(self.layer)
        line.addWidget(self.head)
        line.addWidget(self.columns)
        line.addStretch(1)
        self.scales = ScaleLine((self.tr("K norm"), self.tr("V norm"), self.tr("cosine")))
        below = QHBoxLayout()
        below.setSpacing(8)
        below.addWidget(self.note, 1)
        self.mute = QPushButton(self.tr("Mute position"))
        self.mute.setProperty("link", True)
        self.mute.clicked.connect(self._mute_clicked)
        self.mute.hide()
        below.addWidget(self.mute)
        self.delete = QPushButton(self.tr("Delete from the cache"))
        self.delete.setProperty("link", True)
        self.delete.setToolTip(cannot_be_undone())
        self.delete.setAccessibleDescription(cannot_be_undone())
        self.delete.clicked.connect(self._delete_clicked)
        self.delete.hide()
        below.addWidget(self.delete)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addLayout(line)
        box.addWidget(self.scales)
        box.addWidget(self.norms, 3)
        box.addWidget(self.likeness, 3)
        box.addLayout(below)
        self._layer, self._head = 0, 0
        self._position: int | None = None
        self._answer: CacheContentAnswer | None = None
        self._run: RunView | None = None
        self._palette = LIGHT
        self._muted: frozenset[int] = frozenset()
        self._deleted: frozenset[int] = frozenset()
        self._asked: object = None
        self._asked_at = 0.0
        self._shown: object = None

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.norms.set_palette(palette)
        self.likeness.set_palette(palette)
        self._show_scales()

    def _show_scales(self) -> None:
        """What the colours of the maps shown stand for."""
        here = self._answer is not None and self.norms.positions > 0
        ends = [("0", significant(self.norms.top(block))) for block in range(2)] if here else []
        if here and self.likeness.positions and not self.likeness.isHidden():
            ends.append(("−1", "1"))
        maps = (self.norms.lut(), self.norms.lut(), self.likeness.lut())
        self.scales.show_scales([(maps[n], *pair) for n, pair in enumerate(ends)], self._palette)

    def question(self, state: AppState) -> AskView | None:
        """What is to be asked now, if anything."""
        run = state.run
        if run is None or select.fed_positions(run) == 0:
            return None
        busy = state.worker in (WorkerState.DECODING, WorkerState.PREFILL)
        layer, head = min(self._layer, run.model.layers - 1), min(self._head, run.model.kv_heads - 1)
        gone = deleted_positions(select.interventions(run), run.row)
        wanted = (run.key, select.fed_positions(run), layer, head, gone)
        waiting = select.is_waiting(state, SLOT)
        if wanted == self._asked or (busy and (waiting or time.monotonic() - self._asked_at < LIVE_INTERVAL_S)):
            return None
        self._asked, self._asked_at = wanted, time.monotonic()
        at = run.place
        query = CacheContentQuery(run.run_id, layer, head, MOST_SHOWN, **at.named)
        return AskView(SLOT, query)

    def withdraw(self) -> WithdrawView:
        """Nobody looks any more."""
        self._asked = None
        return WithdrawView(SLOT)

    def render_state(self, state: AppState) -> None:
        """The newest answer."""
        run, self._run = state.run, state.run
        hint = select.next_step(state, self.tr("Press Ctrl+Enter to run."))
        self.norms.set_empty(self.tr("Norms of K and V appear here"), hint)
        got = select.answer(state, SLOT)
        answer = got.answer if got is not None and isinstance(got.answer, CacheContentAnswer) else None
        error = got.error if got is not None else None
        if run is None or (answer is not None and answer.query.run_id != run.run_id):
            answer = None
        position = self._position
        if run is not None and state.selected is not None:
            position = run.prompt_tokens + (select.token_index(state) or 0)
        place = None if run is None else (run.key, run.finish is None)
        told = None if got is None or answer is None else got.generation  # equal questions have different answers
        shown = (told, error, position, place, self._layer, self._head)
        if shown == self._shown:
            return
        self._shown = shown
        self._position, self._answer = position, answer
        if run is not None:
            self.layer.set_options([(str(n), str(n)) for n in range(run.model.layers)])
            self.head.set_options([(str(n), str(n)) for n in range(run.model.kv_heads)])
            self.layer.show_key(str(min(self._layer, run.model.layers - 1)))
            self.head.show_key(str(min(self._head, run.model.kv_heads - 1)))
        self._show(run, answer, "" if error is None else error.message)

    def show_hidden(self, muted: frozenset[int], deleted: frozenset[int]) -> None:
        """The positions muted from the next token on, and those deleted."""
        if (muted, deleted) != (self._muted, self._deleted):
            self._muted, self._deleted = muted, deleted
            self._show_mute()

    def _show_mute(self) -> None:
        position = self._position
        there = position is not None and self._answer is not None and position < self._answer.key_norms.shape[1]
        there = there and position not in self._deleted and not self._gone(position)
        muted = position in self._muted
        self.mute.setVisible(there or (muted and position not in self._deleted))
        kept = self._run is not None and self._run.plan.cache.spec.kind in DELETABLE
        self.delete.setVisible(there and self._run is not None and self._run.finish is None)
        self.delete.setEnabled(kept)
        own_rule = self.tr("This kind of cache drops positions by a rule of its own; mute the position instead")
        self.delete.setToolTip(cannot_be_undone() if kept else own_rule)
        self.mute.setText(self.tr("Unmute position") if muted else self.tr("Mute position"))
        self.mute.setToolTip(
            self.tr("Later tokens see it again") if muted else self.tr("Later tokens do not look at it any more")
        )

    def _gone(self, position: int | None) -> bool:
        """Whether no layer holds it any more, so that there is nothing to mute."""
        if self._answer is None or self._run is None or position is None:
            return False
        layouts = self._run.step(self._run.count - 1).cache.layouts if self._run.count else ()
        everywhere = bool(layouts) and all(layout.dropped for layout in layouts)  # of mixed layers some keep all
        return everywhere and bool(np.isnan(self._answer.key_norms[:, position]).all())

    @Slot()
    def _mute_clicked(self) -> None:
        if self._position is not None:
            self.muted_changed.emit(tuple(sorted(self._muted ^ {self._position})))

    @Slot()
    def _delete_clicked(self) -> None:
        if self._position is not None:
            self.deleted.emit(self._position)

    def _show(self, run: RunView | None, answer: CacheContentAnswer | None, problem: str) -> None:
        if run is None or answer is None:
            self.norms.show_blocks((), ())
            self.likeness.hide()
            self._show_scales()
            self._show_mute()
            self.note.setText(problem)
            return
        labels = select.pieces(run)
        self.norms.show_blocks((("K", answer.key_norms), ("V", answer.value_norms)), labels)
        self.norms.set_selected(self._position)
        self._show_mute()
        similarity = answer.similarity
        self.likeness.setVisible(similarity is not None)
        if similarity is not None:
            names = labels if answer.cell == 1 else [str(n * answer.cell) for n in range(len(similarity))]
            self.likeness.show_blocks((("cos", similarity),), names)
            self.likeness.set_selected(None if self._position is None else self._position // answer.cell)
        self._show_scales()
        self.note.setText(problem or self._words(run, answer))
        self.norms.setAccessibleDescription(self.note.text())

    def _words(self, run: RunView, answer: CacheContentAnswer) -> str:
        gone = int(np.isnan(answer.key_norms).all(axis=0).sum())
        parts = []
        if self._position is not None and self._position < answer.key_norms.shape[1]:
            at = self._position
            piece = select.pieces(run)[at]
            keys, values = answer.key_norms[:, at], answer.value_norms[:, at]
            if np.isnan(keys).all():
                parts.append(self.tr("Position {0} “{1}”: its keys and values are gone").format(f"{at:,}", piece))
            else:
                parts.append(
                    self.tr("Position {0} “{1}”: K {2}, V {3} (mean norm of its heads)").format(
                        f"{at:,}", piece, significant(float(np.nanmean(keys))), significant(float(np.nanmean(values)))
                    )
                )
        if gone:
            parts.append(self.tr("{0} positions are gone (grey)").format(f"{gone:,}"))
        return " · ".join(parts) or self.tr("Click a position to see it.")

    def _norm_tip(self, block: int, row: int, position: int) -> str:
        if self._answer is None or self._run is None:
            return ""
        values = (self._answer.key_norms, self._answer.value_norms)[block]
        value = float(values[row, position])
        number = tr("gone") if np.isnan(value) else significant(value)
        return f"{select.pieces(self._run)[position]}\n{'KV'[block]} {tr('head')} {row}: {number}"

    def _likeness_tip(self, block: int, row: int, column: int) -> str:
        if self._answer is None or self._answer.similarity is None:
            return ""
        cell, value = self._answer.cell, float(self._answer.similarity[row, column])
        number = tr("gone") if np.isnan(value) else f"{value:.2f}"
        return tr("positions {0} and {1}: {2}").format(f"{row * cell:,}", f"{column * cell:,}", number)

    def _layer_chosen(self, key: str) -> None:
        self._layer = int(key)
        self.wanted.emit()

    def _columns_chosen(self, key: str) -> None:
        self.columns.show_key(key)
        self.norms.set_whole(key == WHOLE)

    def _head_chosen(self, key: str) -> None:
        self._head = int(key)
        self.wanted.emit()

    @Slot(int)
    def _clicked(self, position: int) -> None:
        self._position = position
        self.position_clicked.emit(position)
        self.wanted.emit()

    @Slot(int)
    def _likeness_clicked(self, column: int) -> None:
        self._clicked(column * (1 if self._answer is None else self._answer.cell))

    def norms_table(self) -> Table:
        """The norms, a row a position."""
        answer, run = self._answer, self._run
        if answer is None or run is None:
            return Table((), 0, None)
        heads = range(answer.key_norms.shape[0])
        columns = (
            Column(tr("position"), range(answer.key_norms.shape[1])),
            Column(tr("token"), select.pieces(run), str, numeric=False),
            *(Column(f"K {h}", answer.key_norms[h], _norm) for h in heads),
            *(Column(f"V {h}", answer.value_norms[h], _norm) for h in heads),
        )
        return Table(columns, answer.key_norms.shape[1], id(answer), self._position)

    def likeness_table(self) -> Table:
        """The cosines of the selected position (else the newest) with every other."""
        answer, run = self._answer, self._run
        if answer is None or run is None or answer.similarity is None:
            return Table((), 0, None)
        count = len(answer.similarity)
        row = count - 1 if self._position is None else min(count - 1, self._position // answer.cell)
        columns = (
            Column(tr("position"), [n * answer.cell for n in range(count)]),
            Column(tr("cosine with {0}").format(row * answer.cell), answer.similarity[row], _norm),
        )
        return Table(columns, count, (id(answer), row), row)


def _norm(value: float) -> str:
    return tr("gone") if np.isnan(value) else significant(value)
