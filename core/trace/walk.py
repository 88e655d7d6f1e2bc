"""A walk through one forward pass: every module that ran, with what went in and came out, seen by hooks.

The positions are fed once more on a fork of the cache; the hooks are there for that pass only. Modules are the
model's own, in the order in which they were entered. For the families whose code is known (`NAMED`) what happens
between modules is told as stages: the sum of the embeddings, heads split and merged, the cache, scores and softmax.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from core.contract.errors import ViewUnavailableError
from core.contract.looking import WalkAnswer, WalkNode, WalkQuery
from core.models.attention import watched
from core.models.block import find_parts
from core.trace.reading import feed_again
from core.trace.recording import Recording
from core.trace.walk_facts import FactReader, by_name, fact, score_facts, visible_keys
from core.trace.walk_titles import NAMED, title_of

MOST_POSITIONS = 256


def derive_walk(recording: Recording, query: WalkQuery) -> Generator[None, None, WalkAnswer]:
    """The pass, in one slice: a forward pass cannot be interrupted for long. Raises `ViewUnavailableError`."""
    strand = recording.strand(query)
    start, stop = recording.span(strand, query.positions)
    stop = min(stop, start + MOST_POSITIONS)
    given = _given(recording, query)
    watch = Walk(recording.anatomy.model, start, strand.padding, given)
    with watch.hooked():
        _, again = feed_again(recording, strand, start, stop, changed=bool(given))
    yield
    if not watch.fed:
        raise ViewUnavailableError(f"{recording.info.title} showed no forward pass; its code runs in its own way.")
    past = watch.past - again.padding
    return WalkAnswer(
        query,
        (start, start + watch.fed),
        past,
        tuple(watch.nodes),
        watch.total_ms,
        watch.named,
        recording.recorded().batch,
        strand.padding,
        strand.padding != again.padding,
    )


def _given(recording: Recording, query: WalkQuery) -> dict[str, Any]:
    """What the pass gets beside ids. Raises `ViewUnavailableError` where the model takes no such thing."""
    model, vocabulary = recording.anatomy.model, recording.info.vocab_size
    found: dict[str, Any] = {}
    takes = inspect.signature(model.forward).parameters
    device = next(model.parameters()).device
    if query.token_type is not None:
        if "token_type_ids" not in takes:
            raise ViewUnavailableError(f"{recording.info.title} knows no token types.")
        if not 0 <= query.token_type < vocabulary:
            raise ViewUnavailableError(f"There is no token type {query.token_type}; ids end at {vocabulary - 1}.")
        found["token_type_ids"] = torch.tensor(query.token_type, device=device)
    if query.encoder_states:
        width = recording.info.hidden_size
        if not any(find_parts(layer).cross_attention for layer in recording.anatomy.layers):
            raise ViewUnavailableError(f"{recording.info.title} has no cross attention.")
        if any(len(row) != width for row in query.encoder_states):
            raise ViewUnavailableError(f"Encoder states of {recording.info.title} are {width} numbers wide.")
        dtype = next(model.parameters()).dtype
        found["encoder_hidden_states"] = torch.tensor(query.encoder_states, dtype=dtype, device=device)[None]
    return found


def _fed(arguments: Mapping[str, Any]) -> torch.Tensor | None:
    """The ids (B, n) of a pass, or the embeddings (B, n, E) in their place."""
    ids: torch.Tensor | None = arguments.get("input_ids")
    return arguments.get("inputs_embeds") if ids is None else ids


@dataclass
class _Open:
    """A module that was entered and has not returned."""

    index: int  # of its node
    begun_s: float
    looked_s: float  # seconds that looking had taken by then
    past: int | None = None  # positions in its cache before


@dataclass
class Walk:
    """Hooks on every module of `model`, for its first pass inside `hooked()` with so many positions in the cache.

    padding: slots of padding that may be in the cache besides, in front of the row.
    """

    model: PreTrainedModel
    least_past: int = 0
    padding: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)  # to the model, beside ids; token types one for all
    nodes: list[WalkNode] = field(default_factory=list)
    past: int = 0
    fed: int = 0
    total_ms: float = 0.0
    _names: dict[nn.Module, str] = field(default_factory=dict)
    _parents: dict[nn.Module, nn.Module] = field(default_factory=dict)
    _calls: dict[nn.Module, int] = field(default_factory=dict)
    _open: list[_Open] = field(default_factory=list)
    _looked_s: float = 0.0
    _done: bool = False
    _skipping: bool = False
    _device: torch.device | None = None  # where work is queued
    _reader: FactReader = field(default_factory=FactReader)
    _embedded: bool = False

    @cached_property
    def named(self) -> bool:
        """Whether stages between modules are told."""
        return self.model.config.model_type in NAMED

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """The hooks, for the time of the block."""
        layers = getattr(self.model, self.model.base_model_prefix, self.model)
        self._device = self.model.device if self.model.device.type == "cuda" else None
        self._names = {module: name for name, module in self.model.named_modules()}
        self._parents = {child: m for m in self.model.modules() for child in m.children()}
        blocks = next((list(m) for m in layers.modules() if isinstance(m, nn.ModuleList) and len(m)), [])
        self._parts = {block: find_parts(block) for block in blocks}
        self._sums = any(name.endswith("wpe") for name in self._names.values())
        with ExitStack() as stack:
            stack.enter_context(watched(self))
            for module in self._names:
                stack.callback(module.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._leave, with_kwargs=True).remove)
            yield

    # -- hooks

    def _now(self) -> float:
        """In seconds, once the device has done what it was told."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        return perf_counter()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._done or self._skips(module, args, kwargs):
            return None
        if module is self.model and self.given:
            kwargs = {**kwargs, **self._extras(args, kwargs)}
        begun = self._now()
        arguments = by_name(module, args, kwargs)
        if module is self.model:
            fed = _fed(arguments)
            self.fed = 0 if fed is None else int(fed.shape[1])
            self._reader.remembers = self.named and self.fed == 1  # those families change nothing in place
        given = self._reader.facts((), arguments)
        if self.named:
            self._stages_before(module, arguments)
        call = self._calls[module] = self._calls.get(module, 0) + 1
        name = self._names[module]
        title = title_of(name, type(module).__name__, call) if self.named else name or type(module).__name__
        key = f"{name}#{call}"
        self.nodes.append(WalkNode(key, len(self._open), title, type(module).__name__, given))
        cache = _cache_of(args, kwargs)
        held = None if cache is None else _held(cache, getattr(module, "layer_idx", None))
        if module is self.model:
            self.past = held or 0
            self.padding = min(self.padding, self.past - self.least_past)
        now = self._now()
        self._looked_s += now - begun
        self._open.append(_Open(len(self.nodes) - 1, now, self._looked_s, held))
        return (args, kwargs) if module is self.model and self.given else None

    def _extras(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """`given`, token types as many as ids."""
        fed, types = _fed(by_name(self.model, args, kwargs)), self.given.get("token_type_ids")
        if types is None or fed is None:
            return dict(self.given)
        return {**self.given, "token_type_ids": types.expand(fed.shape[:2])}

    def _skips(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this belongs to a pass that only fills the cache for the one that is meant."""
        if module is self.model:
            cache = _cache_of(args, kwargs)
            self._skipping = self.least_past > (0 if cache is None else _held(cache, None))
        return self._skipping

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._done or self._skipping or not self._open:
            return
        begun = self._now()
        opened = self._open.pop()
        ms = 1e3 * max(0.0, begun - opened.begun_s - (self._looked_s - opened.looked_s))
        made = self._reader.facts((output,), {})
        if self.named:
            self._stages_after(module, output, opened)
        self.nodes[opened.index] = replace(self.nodes[opened.index], made=made, ms=ms)
        if module is self.model:
            self._done, self.total_ms = True, ms
            self._add_what_did_not_run()
        self._looked_s += self._now() - begun

    def attended(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
        output: torch.Tensor,
    ) -> None:
        """A call of the attention function: what happens inside it, as stages."""
        if self._done or self._skipping or not self.named:
            return
        begun = self._now()
        held, count = key.shape[2], query.shape[2]
        before = self._past_of_open()
        past = held - count if before is None else before
        fresh = slice(held - count, held) if held >= count else slice(0, held)
        heads = (fact("query", query), fact("key", key[:, :, fresh]), fact("value", value[:, :, fresh]))
        inside = self._inside(module)
        self._stage(module, "heads", "split heads", made=heads)
        self._stage_cache(module, past, key, value, fresh)
        scores, softmax = score_facts(query, key, mask, scaling)
        self._stage(module, "scores", "scores", made=(scores,))
        self._stage(module, "softmax", "softmax", made=(softmax,))
        self.nodes += inside
        self._stage(module, "merge", "merge heads", made=(fact("", output.flatten(2)),))
        self._looked_s += self._now() - begun

    # -- stages

    def _inside(self, module: nn.Module) -> list[WalkNode]:
        """Takes out the modules that ran on the weights: their place is after the stages that made these."""
        prefix = f"{self._names[module]}.attn_dropout#"
        since = self._open[-1].index if self._open else 0
        inside = [node for node in self.nodes[since:] if node.key.startswith(prefix)]
        self.nodes[since:] = [node for node in self.nodes[since:] if not node.key.startswith(prefix)]
        return inside

    def _stage(self, module: nn.Module, name: str, title: str, **values: Any) -> None:
        key = f"{self._names[module]}#{self._calls.get(module, 0)}:{name}"
        self.nodes.append(WalkNode(key, len(self._open), title, "stage", **values))

    def _stage_cache(self, module: nn.Module, past: int, key: torch.Tensor, value: torch.Tensor, new: slice) -> None:
        """The whole shape, the statistics of what is new."""
        length, pad = key.shape[2], self.padding
        note = f"{past - pad} → {length - pad} positions" if length != past else f"{length} positions, nothing appended"
        if pad:
            note += f", behind {pad} of padding"
        named = (("keys, the new ones", key), ("values, the new ones", value))
        made = tuple(replace(fact(name, held[:, :, new]), shape=tuple(held.shape)) for name, held in named)
        self._stage(module, "cache", "cache append", made=made, note=note)

    def _stage_mask(self, module: nn.Module, mask: Any) -> None:
        if isinstance(mask, torch.Tensor):
            seen, keys = visible_keys(mask)
            note = f"as the layers receive it; the last query sees {seen} of {keys}"
            self._stage(module, "mask", "attention mask", made=(fact("", mask),), note=note)
        elif self.model.config.model_type == "imagegpt":
            self._stage(module, "mask", "attention mask", note="none: every layer has a causal table of its own")
        elif self.fed == 1:
            self._stage(module, "mask", "attention mask", note="none: one query sees everything before it")
        else:
            self._stage(module, "mask", "attention mask", note="none: the kernel itself hides later positions")

    def _past_of_open(self) -> int | None:
        return next((entry.past for entry in reversed(self._open) if entry.past is not None), None)

    def _stages_before(self, module: nn.Module, arguments: dict[str, Any]) -> None:
        parent = self._parents.get(module)
        short = self._names[module].rpartition(".")[2]
        part = self._parts.get(module)
        entering = next((v for v in arguments.values() if isinstance(v, torch.Tensor)), None)
        made = () if entering is None else (self._reader.fact("", entering),)
        first = part is not None and self._names[module].endswith(".0")
        if self._sums and (short == "drop" or first) and not self._embedded:
            self._embedded = True
            self._stage(module, "embedded", "embeddings, summed", made=made)
        if first:
            self._stage_mask(module, arguments.get("attention_mask"))
        if parent in self._parts and short in ("ln_2", "post_attention_layernorm", "ln_cross_attn"):
            title = "residual + attention"
            if short == "ln_2" and self._parts[parent].cross_attention in self._calls:
                title = "residual + cross attention"
            self._stage(module, "residual", title, made=made)

    def _stages_after(self, module: nn.Module, output: Any, opened: _Open) -> None:
        if module in self._parts:
            title = "residual + MLP"
            first = output[0] if isinstance(output, tuple) else output
            self._open.append(opened)  # the stage belongs inside the layer
            self._stage(module, "out", title, made=(self._reader.fact("", first),))
            self._open.pop()

    def _add_what_did_not_run(self) -> None:
        """Cross attention that the model has but was given nothing to look at."""
        for block, parts in self._parts.items():
            cross = parts.cross_attention
            if cross is None or cross in self._calls:
                continue
            name = self._names[cross]
            title = title_of(name, type(cross).__name__, 1) if self.named else name
            mark = f"{self._names[block]}.ln_2#"  # it would run before the norm of the MLP
            place = next((i for i, n in enumerate(self.nodes) if n.key.startswith(mark)), len(self.nodes))
            top = next((n.depth for n in self.nodes if n.key == f"{self._names[block]}#1"), 0)
            place += place < len(self.nodes) and self.nodes[place].key.endswith(":residual")
            note = "did not run: no encoder states were given"
            self.nodes.insert(place, WalkNode(f"{name}#0", top + 1, title, type(cross).__name__, note=note))


def _cache_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cache | None:
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)


def _held(cache: Cache, layer: int | None) -> int:
    """Positions in the cache, of one layer or of the first."""
    return int(cache.get_seq_length(layer or 0))
