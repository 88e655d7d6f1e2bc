"""What experiments share: the prompt, timed passes on a cache of some kind, and the board where findings are put."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter

import torch

from core.contract.cache import CacheSpec
from core.contract.cache_lab import Experiment, Finding, LabLane, LabResult, LabSeries, LabTable
from core.contract.errors import OutOfMemoryError, ParameterError, PromptError
from core.decode import prepare
from core.decode.forward import Forward
from core.decode.kv import RunCache, check_kind, make_cache
from core.decode.room import Feeding, check_room
from core.models.loaded import LoadedModel
from core.models.placement import available_bytes

CHUNK = 256  # positions of a prompt fed at once
LOGIT_ATOL, LOGIT_RTOL = 1e-3, 1e-4  # of `allclose` in fp32: passes of another size add in another order
Cell = str | int | float | None


@dataclass(frozen=True)
class Report:
    """Where an experiment stands."""

    stage: str
    fraction: float


def brief(value: float) -> str:
    """Three significant digits, without an exponent where there are more: `0.52`, `17.3`, `6,203`."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


@dataclass
class Apart:
    """Between logits that should be the same: the largest difference, and whether all are close."""

    most: float = 0.0
    close: bool = True

    def note(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Compare two (V,) float32."""
        self.most = max(self.most, float((one - other).abs().max()))
        self.close = self.close and torch.allclose(one, other, atol=LOGIT_ATOL, rtol=LOGIT_RTOL)


class Feeder:
    """Feeds one sequence to the model on a cache of one kind, and times each pass."""

    def __init__(self, loaded: LoadedModel, spec: CacheSpec, limit: int, cancelled: Callable[[], bool]) -> None:
        check_kind(loaded.module, loaded.info, spec)
        check_room(loaded, 1, Feeding(limit, limit, CHUNK), spec)
        self.forward = Forward(loaded, [0], cancelled)
        self.cache: RunCache = make_cache(loaded.module, len(self.forward.anatomy.layers), spec, limit)
        self._device = loaded.device

    def feed(self, ids: Sequence[int]) -> tuple[torch.Tensor, float]:
        """Logits (V,) float32 after the last of these ids, and the milliseconds that the pass took."""
        tokens = torch.tensor([list(ids)], device=self._device)
        before = self.forward.spent_s
        with torch.inference_mode(), self.forward.attached():
            logits = self.forward(tokens, self.cache, None)[0]
        return logits, 1e3 * (self.forward.spent_s - before)

    def prefill(self, ids: Sequence[int], chunk: int = CHUNK) -> tuple[torch.Tensor, float]:
        """The same in pieces as large as the cache takes them."""
        spent_ms, at = 0.0, 0
        while at < len(ids):
            upto = at + self.cache.chunk(chunk, len(ids) - at)
            logits, taken_ms = self.feed(ids[at:upto])
            spent_ms, at = spent_ms + taken_ms, upto
        return logits, spent_ms


class Bench:
    """One experiment: what it was asked, what it has, what it found."""

    def __init__(self, loaded: LoadedModel, experiment: Experiment, cancelled: Callable[[], bool]) -> None:
        self.loaded, self.experiment, self.cancelled = loaded, experiment, cancelled
        row = prepare.prompt_rows(loaded, (experiment.prompt,), 1, cancelled)[0]
        self.ids = list(row.token_ids)
        self.most = loaded.info.max_positions
        if experiment.positions is not None and experiment.positions < 2:
            raise ParameterError(f"{experiment.positions:,} positions are too few; an experiment takes 2 or more.")
        if experiment.positions is not None and experiment.positions > self.most:
            raise ParameterError(
                f"{experiment.positions:,} positions are more than the {self.most:,} that {loaded.info.title} has; "
                "take fewer."
            )
        if experiment.new_tokens < 1:
            raise ParameterError(f"{experiment.new_tokens:,} new tokens are too few; an experiment takes 1 or more.")
        if any(size < 1 for size in experiment.chunk_sizes):
            raise ParameterError("A chunk has 1 position or more.")
        self.lanes: list[LabLane] = []
        self.tables: list[LabTable] = []
        self.findings: list[Finding] = []
        self._series: dict[tuple[int, str], tuple[list[float], list[float]]] = {}
        self._begun = perf_counter()

    def make_exact(self) -> None:
        """Go on with a float32 copy of a coarser model, and say so. Raises `OutOfMemoryError` before it is made."""
        info = self.loaded.info
        if info.dtype == "fp32":
            return
        needed, free = 4 * info.parameters, available_bytes(self.loaded.device)
        if needed > free:
            raise OutOfMemoryError(
                f"The comparison needs a float32 copy of {info.title} of {needed / 1e9:.3g} GB, but {info.device} has "
                f"{free / 1e9:.3g} GB free; load a smaller model."
            )
        element = self.loaded.module.dtype.itemsize
        exact = replace(info, dtype="fp32", kv_bytes_per_token=info.kv_bytes_per_token * 4 // element)
        module = deepcopy(self.loaded.module).float()
        self.loaded = replace(self.loaded, module=module, info=exact, dtype=torch.float32)
        self.find(f"Compared on a float32 copy of the model, which took {needed / 1e9:.3g} GB for the time being.")

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Go on with a float32 copy of a coarser model until the end of the block. Raises `OutOfMemoryError`."""
        before = self.loaded
        self.make_exact()
        try:
            yield
        finally:
            self.loaded = before

    def feeder(self, spec: CacheSpec, limit: int) -> Feeder:
        """An empty cache of this kind, and the model on it."""
        return Feeder(self.loaded, spec, limit, self.cancelled)

    def warm_up(self) -> Report:
        """A pass and two steps that do not count: the first ones touch fresh memory."""
        feeder = self.feeder(CacheSpec(), min(self.most, len(self.ids) + 2))
        feeder.prefill(self.ids)
        for _ in range(min(2, self.most - len(self.ids))):
            feeder.feed(self.ids[:1])
        return Report("warming up", 0.0)

    def prompt(self, new: int) -> list[int]:
        """The prompt. Raises `PromptError` where `new` more positions do not fit."""
        if len(self.ids) + new > self.most:
            raise PromptError(
                f"The prompt has {len(self.ids):,} tokens and the experiment adds {new:,}, but "
                f"{self.loaded.info.title} has {self.most:,} positions; shorten one of them."
            )
        return self.ids

    def repeated(self, count: int) -> list[int]:
        """So many ids: the prompt over and over."""
        return [self.ids[n % len(self.ids)] for n in range(count)]

    # -- the board

    def lane(self, title: str, unit: str, x_name: str, log: bool = False) -> int:
        """A new plot; its number."""
        self.lanes.append(LabLane(title, unit, x_name, log))
        return len(self.lanes) - 1

    def point(self, lane: int, name: str, x: float, y: float) -> None:
        """One more point of a line."""
        xs, ys = self._series.setdefault((lane, name), ([], []))
        xs.append(float(x))
        ys.append(float(y))

    def line(self, lane: int, name: str) -> list[float]:
        """The heights of a line so far."""
        return self._series.get((lane, name), ([], []))[1]

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Put up a table, in the place of an earlier one of the same title."""
        made = LabTable(title, tuple(columns), tuple(tuple(row) for row in rows))
        self.tables = [*(t for t in self.tables if t.title != title), made]

    def find(self, text: str, holds: bool | None = None) -> None:
        """A sentence of the result."""
        self.findings.append(Finding(text, holds))

    def result(self, complete: bool = False) -> LabResult:
        """What there is so far."""
        info = self.loaded.info
        return LabResult(
            name=self.experiment.name,
            model=info.title,
            dtype=info.dtype,
            lanes=tuple(self.lanes),
            series=tuple(LabSeries(name, lane, tuple(x), tuple(y)) for (lane, name), (x, y) in self._series.items()),
            tables=tuple(self.tables),
            findings=tuple(self.findings),
            complete=complete,
            seconds=perf_counter() - self._begun,
        )
