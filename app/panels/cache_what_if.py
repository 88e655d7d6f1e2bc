"""What a cache would take: the formula with the numbers of any model, and every known model beside it."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from app.state.state import AppState
from app.state.texts import tr
from app.theme.palette import Palette
from app.widgets.choice import Choice
from app.widgets.numbers import byte_count
from app.widgets.parameter_text import shortened, whole_number
from app.widgets.table_data import Column, Table
from app.widgets.table_view import TableView
from app.widgets.value_field import ValueField
from core.contract import KNOWN_SHAPES, CacheShape, CacheSpec, ModelInfo, predict

LOADED = "loaded"
FIELD_PX = 72
MOST = 10**9
DTYPES = ("fp32", "bf16", "fp16")


class WhatIfPage(QWidget):
    """Batch, length, precision and model are its own; the kind of cache is the one chosen for the next run."""

    refused = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model: ModelInfo | None = None
        self._spec = CacheSpec()
        self._key = LOADED
        self._batch = 1
        self._positions: int | None = None
        self._dtype: str | None = None
        self.model = Choice(self.tr("model"), self.tr("Model"), self._model_chosen)
        self.dtype = Choice("", self.tr("Precision"), self._dtype_chosen)
        self.dtype.set_options([(name, name) for name in DTYPES])
        self.batch, self.positions = self._field(self.tr("Batch")), self._field(self.tr("Positions"))
        self.batch.committed.connect(self._batch_typed)
        self.positions.committed.connect(self._positions_typed)
        line = QHBoxLayout()
        line.setSpacing(6)
        line.addWidget(self.model)
        line.addWidget(self.dtype)
        for label, field in ((self.tr("batch"), self.batch), (self.tr("positions"), self.positions)):
            line.addWidget(QLabel(label))
            line.addWidget(field)
        line.addStretch(1)
        self.text = QLabel()
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setWordWrap(True)
        self.text.setAccessibleName(self.tr("The formula with these numbers"))
        self.table = TableView(self.tr("The same for known models"))
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addLayout(line)
        box.addWidget(self.text)
        box.addWidget(self.table, 1)

    @staticmethod
    def _field(name: str) -> ValueField:
        field = ValueField()
        field.setAccessibleName(name)
        field.setFixedWidth(FIELD_PX)
        field.setAlignment(Qt.AlignmentFlag.AlignRight)
        return field

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self.table.set_palette(palette)

    def render_state(self, state: AppState) -> None:
        """Follow the loaded model and the chosen kind."""
        if (state.model, state.cache) != (self._model, self._spec) or not self.model.key:
            self._model, self._spec = state.model, state.cache
            self._show()

    def _shape(self) -> CacheShape:
        if self._key == LOADED and self._model is not None:
            return CacheShape.of(self._model)
        return next((s for s in KNOWN_SHAPES if s.title == self._key), KNOWN_SHAPES[0])

    def _show(self) -> None:
        loaded = [] if self._model is None else [(LOADED, self._model.title)]
        self.model.set_options([*loaded, *((shape.title, shape.title) for shape in KNOWN_SHAPES)])
        if self._key == LOADED and self._model is None:
            self._key = KNOWN_SHAPES[0].title
        self.model.show_key(self._key)
        shape = self._shape()
        own = self._model.dtype if self._model is not None else ""
        dtype = self._dtype or (own if own in DTYPES else "bf16")
        positions = shape.max_positions if self._positions is None else self._positions
        self.dtype.show_key(dtype)
        self.batch.show_text(str(self._batch))
        self.positions.show_text(str(positions))
        windows = self._model.layer_windows if self._key == LOADED and self._model is not None else ()
        self.text.setText(words(shape, self._spec, dtype, self._batch, positions, windows))
        self.table.show_table(self._table(dtype, positions))

    def _table(self, dtype: str, positions: int) -> Table:
        found = [predict(shape, CacheSpec(), dtype, self._batch, positions) for shape in KNOWN_SHAPES]
        kept = [predict(shape, self._spec, dtype, self._batch, positions) for shape in KNOWN_SHAPES]
        columns = (
            Column(tr("model"), [shape.title for shape in KNOWN_SHAPES], str, numeric=False),
            Column(tr("a token"), [one.position_bytes for one in found], byte_count),
            Column(tr("growing"), [one.used_bytes for one in found], byte_count),
            Column(self._spec.kind, [one.used_bytes for one in kept], byte_count),
            Column(tr("its positions"), [shape.max_positions for shape in KNOWN_SHAPES], lambda n: f"{n:,}"),
        )
        shown = columns if self._spec.kind != "growing" else (*columns[:3], columns[4])
        return Table(shown, len(KNOWN_SHAPES), (dtype, positions, self._batch, self._spec))

    def _model_chosen(self, key: str) -> None:
        self._key, self._positions = key, None
        self._show()

    def _dtype_chosen(self, key: str) -> None:
        self._dtype = key
        self._show()

    @Slot(str)
    def _batch_typed(self, text: str) -> None:
        number = self._number(text)
        self._batch = self._batch if number is None else number
        self._show()

    @Slot(str)
    def _positions_typed(self, text: str) -> None:
        number = self._number(text)
        self._positions = self._positions if number is None else number
        self._show()

    def _number(self, text: str) -> int | None:
        number = whole_number(text, 1, MOST)
        if number is None:
            sentence = self.tr("“{0}” is no whole number from 1 to {1}.")
            self.refused.emit(sentence.format(shortened(text), f"{MOST:,}"))
        return number


def words(
    shape: CacheShape, spec: CacheSpec, dtype: str, batch: int, positions: int, windows: tuple[int | None, ...] = ()
) -> str:
    """Both forms of the formula with these numbers, and what the kind of cache makes of them."""
    width = {"fp32": 4}.get(dtype, 2)
    whole = predict(shape, CacheSpec(), dtype, batch, positions).used_bytes
    lines = [
        tr(shape.formula),
        f"{' × '.join(f'{n:,}' for n in shape.factors(batch, positions, width))} = {whole:,} B = {byte_count(whole)}",
    ]
    plain = shape.plain_width
    if plain is not None:
        numbers = (2, batch, positions, shape.layers, plain, width)
        lines += [
            tr("the same as 2 × batch × seq_len × n_layers × d_model × precision"),
            f"{' × '.join(f'{n:,}' for n in numbers)} = {whole:,} B",
        ]
    elif shape.latent is not None:
        lines.append(tr("latent attention keeps {0} numbers for all heads together").format(f"{shape.latent:,}"))
    elif shape.heads == shape.kv_heads:
        lines.append(tr("all heads together are not as wide as d_model, which would say something else"))
    else:
        groups = shape.heads // shape.kv_heads
        lines.append(tr("{0} query heads share each key/value head; d_model would say too much").format(groups))
    if spec.kind != "growing":
        kept = predict(shape, spec, dtype, batch, positions, windows)
        lines.append(tr("{0}: {1}, {2} positions in a layer").format(
            spec.words(), byte_count(kept.used_bytes), f"{kept.kept:,}"
        ))  # fmt: skip
    if positions > shape.max_positions:
        lines.append(tr("The model has only {0} positions.").format(f"{shape.max_positions:,}"))
    return "\n".join(lines)
