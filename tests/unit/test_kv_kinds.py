"""Cache layers of every kind against a mirror that keeps everything, over any order of what can be done to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.contract import CACHE_KINDS, CACHE_MEANINGS, CACHE_TITLES, CacheSpec, ParameterError, parse_cache
from core.decode.kv import CannotRewindError, GrowLayer, KindLayer, RunCache
from core.decode.kv.heavy import HeavyLayer
from core.decode.kv.layer import Shared, storage_bytes
from core.decode.kv.quantised import Fp8Layer, Int8Layer, QuantisedLayer
from core.decode.kv.theirs import DynamicKind, DynamicSlidingKind, StaticKind
from core.decode.kv.window import WindowLayer

HEADS, WIDTH, LIMIT = 2, 4, 400
MAKERS: dict[str, Any] = {
    "growing": lambda shared: GrowLayer(LIMIT),
    "dynamic": lambda shared: DynamicKind(),
    "dynamic sliding": lambda shared: DynamicSlidingKind(6),
    "static": lambda shared: StaticKind(LIMIT),
    "sliding_window": lambda shared: WindowLayer(6, 0, shared),
    "sink": lambda shared: WindowLayer(5, 3, shared),
    "heavy_hitters": lambda shared: HeavyLayer(4, 3, shared),
    "fp8": lambda shared: Fp8Layer(LIMIT),
    "int8": lambda shared: Int8Layer(LIMIT),
}
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["append", "append", "crop", "fork", "switch", "rows"]), st.integers(1, 9)), max_size=22
)


class Mirror:
    """What was fed, all of it: (B, T) numbers, each of which is a whole key."""

    def __init__(self, made: Any, numbers: torch.Tensor) -> None:
        self.layer: KindLayer = made
        self.numbers = numbers


def states(numbers: torch.Tensor) -> torch.Tensor:
    """Keys (B, H, n, D) that tell which number, head and column they are."""
    head, column = torch.arange(HEADS)[:, None, None] * 0.25, torch.arange(WIDTH) * 0.0625
    return numbers[:, None, :, None] + head + column


def check(mirror: Mirror) -> None:
    layer, numbers = mirror.layer, mirror.numbers
    assert layer.get_seq_length() == layer.length == numbers.shape[1]
    if not layer.length:
        return
    slots = layer.slots()
    expected = states(numbers)
    if slots is None:
        expected = expected[:, :, : layer.held]
        assert layer.held == layer.length
    elif slots.ndim == 1:
        assert slots.tolist() == sorted(set(slots.tolist()))
        expected = expected[:, :, slots]
    else:
        expected = expected.gather(2, slots[..., None].expand(-1, -1, -1, WIDTH))
    tolerance = {"atol": 0.0, "rtol": 0.0}
    if isinstance(layer, QuantisedLayer):
        tolerance = {"atol": 0.0, "rtol": 1 / 12 if isinstance(layer, Fp8Layer) else 1 / 120}
    torch.testing.assert_close(layer.held_keys(), expected, **tolerance)
    torch.testing.assert_close(layer.held_values(), -expected, **tolerance)
    sizes = layer.sizes()
    if not isinstance(layer, QuantisedLayer):
        assert sizes.key_used == expected.nbytes
    assert sizes.key_allocated >= sizes.key_used >= sizes.key_beyond


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=40)
@given(operations=OPERATIONS)
def test_any_order_of_append_crop_fork_and_select(name: str, operations: list[tuple[str, int]]) -> None:
    shared = Shared(torch.zeros(2, dtype=torch.long), False, 0)
    mirrors, current, counter = [Mirror(MAKERS[name](shared), torch.empty(2, 0))], 0, 1.0
    for operation, amount in operations:
        mirror = mirrors[current]
        layer, numbers = mirror.layer, mirror.numbers
        if operation == "append" and layer.length + amount <= LIMIT:
            new = torch.arange(counter, counter + 2 * amount).reshape(2, amount)
            counter += 2 * amount
            new = new[: numbers.shape[0]] if numbers.shape[0] <= 2 else new[:1].expand(numbers.shape[0], -1)
            layer.update(states(new), -states(new))
            if layer.scores:
                layer.attended(torch.rand(new.shape[0], HEADS, amount, layer.held))
            mirror.numbers = torch.cat([numbers, new], dim=1)
        elif operation == "crop":
            length = max(0, layer.length - amount)
            possible = layer.can_crop(length)
            try:
                layer.crop(-amount)
            except CannotRewindError:
                assert not possible
                assert layer.length == numbers.shape[1]
            else:
                mirror.numbers = numbers[:, :length]
        elif operation == "fork":
            mirrors.append(Mirror(layer.fork(LIMIT, shared), numbers))
        elif operation == "rows" and layer.length:
            sources = [(row * amount) % numbers.shape[0] for row in range(1 + amount % 3)]
            layer.take_rows(sources, 0)
            mirror.numbers = numbers[sources]
        else:
            current = amount % len(mirrors)
        for one in mirrors:
            check(one)


@pytest.mark.parametrize(("kind", "bits"), [(Int8Layer, 8), (Fp8Layer, 8)])
def test_quantised_numbers_are_within_half_a_step(kind: Any, bits: int) -> None:
    """int8: half a step of the token's scale. fp8 (e4m3): 1/16 of the number, or half the smallest step."""
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(2, HEADS, 50, 16, generator=generator) * torch.rand(2, HEADS, 50, 1, generator=generator) * 30
    layer = kind()
    seen, _ = layer.update(keys, keys)
    scale = keys.abs().amax(-1, keepdim=True)
    error = (seen - keys).abs()
    if kind is Int8Layer:
        assert bool((error <= scale / 127 / 2 * 1.0001).all())
    else:
        assert bool((error <= torch.maximum(keys.abs() / 16, scale / 448 * 2**-10) * 1.0001).all())
    assert torch.equal(seen, layer.held_keys())
    assert layer.sizes().key_used == 2 * HEADS * 50 * (16 + 4)


def test_a_token_of_zeros_stays_zero() -> None:
    for kind in (Int8Layer, Fp8Layer):
        layer = kind()
        seen, _ = layer.update(torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 3, 4))
        assert float(seen.abs().max()) == 0.0


def test_a_window_gives_the_storage_of_dropped_positions_back() -> None:
    layer = WindowLayer(8, 2, Shared(torch.zeros(1, dtype=torch.long), False, 0))
    for _ in range(100):
        layer.update(torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4))
    assert storage_bytes(layer.keys) == 10 * 16
    assert layer.slots().tolist() == [0, 1, *range(92, 100)]  # type: ignore[union-attr]


def test_a_crop_that_one_layer_refuses_changes_none() -> None:
    shared = Shared(torch.zeros(1, dtype=torch.long), False, 0)
    cache = RunCache(CacheSpec("hybrid"), [GrowLayer(), WindowLayer(3, 0, shared)], shared)
    for layer in cache.kind_layers():
        for _ in range(9):
            layer.update(torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4))
    with pytest.raises(CannotRewindError):
        cache.crop_to(4)
    assert [layer.length for layer in cache.kind_layers()] == [9, 9]
    assert cache.report().length == 9
    assert [layout.held for layout in cache.report().layouts] == [9, 3]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("growing", CacheSpec()),
        ("sink,window=64,sinks=8", CacheSpec("sink", window=64, sinks=8)),
        ("sink, relative", CacheSpec("sink", relative=True)),
        ("heavy_hitters,heavy=7", CacheSpec("heavy_hitters", heavy=7)),
    ],
)
def test_kinds_are_read_from_the_command_line(text: str, spec: CacheSpec) -> None:
    assert parse_cache(text) == spec


@pytest.mark.parametrize(
    "text",
    ["", "quanto", "sink,window", "sink,window=-3", "sink,depth=3", "int8,relative", "sliding_window,window=0"],
)
def test_what_is_no_kind_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"\.$"):
        parse_cache(text)


def test_every_kind_has_a_title_and_a_sentence() -> None:
    assert set(CACHE_TITLES) == set(CACHE_MEANINGS) == set(CACHE_KINDS)
    assert all(sentence.endswith(".") for sentence in CACHE_MEANINGS.values())
    assert np.array([len(title) for title in CACHE_TITLES.values()]).max() < 24
