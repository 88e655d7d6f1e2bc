"""How the next run keeps its keys and values: the kind, and beneath it the sizes that the kind takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from app.state.texts import tr
from app.widgets.choice import Choice
from app.widgets.parameter_text import whole_number
from app.widgets.value_field import ValueField
from core.contract import CACHE_KINDS, CACHE_MEANINGS, CACHE_TITLES, WINDOWED, CacheSpec

FIELD_PX = 56


class CacheRow(QWidget):
    """Calls `changed(spec)` with what the user wants, `refused(name, text)` for a size that is no whole number."""

    def __init__(
        self, changed: Callable[[CacheSpec], None], refused: Callable[[str, str], None], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._changed, self._refused = changed, refused
        self._spec: CacheSpec | None = None
        self._revealing = False
        self.kind = Choice(self.tr("cache"), self.tr("KV cache"), self._kind_chosen)
        self.kind.set_options([(kind, tr(CACHE_TITLES[kind])) for kind in CACHE_KINDS])
        self.doc = QLabel()
        self.doc.setTextFormat(Qt.TextFormat.PlainText)
        self.doc.setWordWrap(True)
        self.doc.setProperty("secondary", True)
        self.sizes = QWidget()
        line = QHBoxLayout(self.sizes)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        self.fields: dict[str, ValueField] = {}
        self._labels: dict[str, QLabel] = {}
        for name, tip in (
            ("sinks", self.tr("First positions that are kept")),
            ("heavy", self.tr("Positions that are kept for the attention they got")),
            ("window", self.tr("Last positions that are kept, the newest included")),
        ):
            self._add_field(line, name, tip)
        line.addStretch(1)
        self.relative = QCheckBox(self.tr("positions inside the cache"))
        self.relative.setToolTip(
            self.tr("The kept positions count as neighbours, as in StreamingLLM. Needs rotary positions.")
        )
        self.relative.clicked.connect(self._relative_chosen)
        box = QVBoxLayout(self)
        box.setContentsMargins(12, 0, 8, 0)
        box.setSpacing(2)
        box.addWidget(self.kind, 0, Qt.AlignmentFlag.AlignLeft)
        box.addWidget(self.doc)
        box.addWidget(self.sizes)
        box.addWidget(self.relative)
        for widget in (self.doc, self.sizes, self.relative):  # until a spec is shown, so that they claim no width
            widget.hide()

    def _add_field(self, line: QHBoxLayout, name: str, tip: str) -> None:
        label, field = QLabel(name), ValueField()
        field.setAccessibleName(self.tr("Cache, {0}").format(name))
        field.setFixedWidth(FIELD_PX)
        field.setAlignment(Qt.AlignmentFlag.AlignRight)
        field.committed.connect(partial(self._committed, name))
        field.stepped.connect(partial(self._stepped, name))
        for widget in (label, field):
            widget.setToolTip(tip)
            line.addWidget(widget)
        self._labels[name], self.fields[name] = label, field

    def show_spec(self, spec: CacheSpec) -> None:
        """Show the cache of the next run; never calls back."""
        if spec == self._spec:
            return
        self._spec = spec
        self.kind.show_key(spec.kind)
        meaning = tr(CACHE_MEANINGS[spec.kind])
        self.kind.setToolTip(meaning + " " + self.tr("Takes effect with the next run."))
        self.doc.setText(meaning)
        self.doc.setVisible(spec.kind != "growing")
        self.sizes.setVisible(spec.kind in WINDOWED)
        wanted = {"window", {"sink": "sinks", "heavy_hitters": "heavy"}.get(spec.kind, "window")}
        for name, field in self.fields.items():
            field.show_text(str(getattr(spec, name)))
            for widget in (self._labels[name], field):
                widget.setVisible(name in wanted)
        self.relative.setVisible(spec.kind == "sink")
        self.relative.setChecked(spec.relative)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A kind was chosen that takes sizes: bring them into view."""
        holder = self.parentWidget()
        while self._revealing and holder is not None:
            if isinstance(holder, QScrollArea):
                self._revealing = False
                holder.ensureWidgetVisible(self, 0, 8)
            holder = holder.parentWidget()

    def _kind_chosen(self, key: str) -> None:
        self._revealing = True
        kind = next(kind for kind in CACHE_KINDS if kind == key)
        spec = self._spec or CacheSpec()
        self._changed(replace(spec, kind=kind, relative=spec.relative and kind == "sink"))

    @Slot(str)
    def _committed(self, name: str, text: str) -> None:
        number = whole_number(text, 0, 10**9 - 1)
        if self._spec is None or number is None:
            self._refused(name, text)
        else:
            self._changed(_with(self._spec, name, number))

    def _stepped(self, name: str, direction: int) -> None:
        if self._spec is not None:
            self._changed(_with(self._spec, name, max(1, int(getattr(self._spec, name)) + direction)))

    @Slot()
    def _relative_chosen(self) -> None:
        if self._spec is not None:
            self._changed(replace(self._spec, relative=self.relative.isChecked()))


def _with(spec: CacheSpec, name: str, size: int) -> CacheSpec:
    match name:
        case "sinks":
            return replace(spec, sinks=size)
        case "heavy":
            return replace(spec, heavy=size)
        case _:
            return replace(spec, window=size)
