"""The cache layer against `DynamicCache`, its forks, crops and bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from core.decode.kv import GrowLayer, cache_report, crop_cache, fork_cache, new_cache


def states(positions: int, batch: int = 2, heads: int = 3, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, heads, positions, width), torch.randn(batch, heads, positions, width)


def test_bit_identical_to_dynamic_cache_over_chunks_and_steps() -> None:
    ours, theirs = new_cache(2), DynamicCache()
    for positions in (7, 1, 1, 60, 1, 200, 1):
        for layer in range(2):
            k, v = states(positions)
            mine = ours.update(k, v, layer)
            reference = theirs.update(k, v, layer)
            assert all(torch.equal(a, b) for a, b in zip(mine, reference, strict=True))
    assert ours.get_seq_length() == theirs.get_seq_length() == 271


def test_append_is_in_place_until_the_buffer_is_full() -> None:
    layer = GrowLayer()
    layer.update(*states(10))
    place = layer.keys.data_ptr()
    for _ in range(54):
        layer.update(*states(1))
    assert layer.keys.data_ptr() == place
    layer.update(*states(1))
    assert layer.keys.data_ptr() != place


def test_a_known_limit_keeps_the_last_doubling_from_overshooting() -> None:
    layer = GrowLayer(limit=100)
    layer.update(*states(65))
    assert layer.bytes()[2] == 2 * 3 * 100 * 4 * 4


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["append", "crop", "fork", "switch"]), st.integers(1, 70)), max_size=25))
def test_forks_never_see_each_other(operations: list[tuple[str, int]]) -> None:
    layers, mirrors = [GrowLayer()], [torch.empty(1, 1, 0, 2)]
    current = 0
    for operation, amount in operations:
        layer = layers[current]
        if operation == "append":
            k = torch.randn(1, 1, amount, 2)
            layer.update(k, -k)
            mirrors[current] = torch.cat([mirrors[current], k], dim=2)
        elif operation == "crop":
            layer.crop(-amount)
            mirrors[current] = mirrors[current][:, :, : max(0, mirrors[current].shape[2] - amount)]
        elif operation == "fork":
            layers.append(layer.fork())
            mirrors.append(mirrors[current])
        else:
            current = amount % len(layers)
        for own, mirror in zip(layers, mirrors, strict=True):
            assert own.length == mirror.shape[2]
            if own.is_initialized:
                assert torch.equal(own.keys, mirror)
                assert torch.equal(own.values, -mirror)


def test_fork_shares_the_storage_and_the_writer_behind_copies() -> None:
    first = GrowLayer()
    first.update(*states(5))
    second = first.fork()
    assert second.keys.data_ptr() == first.keys.data_ptr()
    first.update(*states(1))
    assert second.keys.data_ptr() == first.keys.data_ptr()
    second.update(*states(1))
    assert second.keys.data_ptr() != first.keys.data_ptr()


def test_a_dropped_fork_gives_the_buffer_back_to_in_place_writing() -> None:
    first = GrowLayer()
    first.update(*states(5))
    place = first.keys.data_ptr()
    longer = first.fork()
    longer.update(*states(3))
    del longer
    first.update(*states(1))
    assert first.keys.data_ptr() == place


def test_crop_takes_negative_counts_only() -> None:
    layer = GrowLayer()
    layer.update(*states(5))
    with pytest.raises(ValueError, match="negative"):
        layer.crop(2)
    layer.crop(-2)
    assert layer.keys.shape[2] == 3


def test_rows_are_reordered_selected_and_repeated() -> None:
    layer = GrowLayer()
    k, v = states(4)
    layer.update(k, v)
    layer.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(layer.keys, k[[1, 0]])
    layer.batch_repeat_interleave(2)
    assert torch.equal(layer.values, v[[1, 1, 0, 0]])
    layer.batch_select_indices(torch.tensor([2]))
    assert torch.equal(layer.keys, k[[0]])


def test_reported_bytes_are_the_storages() -> None:
    cache = new_cache(3)
    for layer in range(3):
        cache.update(*states(70), layer)
    report = cache_report(cache)
    held = [layer._buffer.parts[0].untyped_storage().nbytes() for layer in cache.layers]
    assert report.length == 70
    assert report.key_allocated_bytes.tolist() == held
    assert report.key_used_bytes.tolist() == [layer.keys.numel() * 4 for layer in cache.layers]
    assert report.used_bytes == 3 * 2 * 2 * 3 * 70 * 4 * 4


def test_ragged_layers_are_levelled_by_a_crop() -> None:
    cache = new_cache(2)
    for layer in range(2):
        cache.update(*states(4), layer)
    cache.update(*states(3), 0)
    crop_cache(cache, 4)
    assert [layer.length for layer in cache.layers] == [4, 4]
    assert fork_cache(cache, 3).layers[0].length == 3
    assert cache.layers[0].length == 4


def test_reset_gives_the_storage_back() -> None:
    layer = GrowLayer()
    layer.update(*states(4))
    layer.reset()
    assert layer.bytes() == (0, 0, 0, 0)
    assert layer.get_seq_length() == 0
    layer.update(*states(2))
    assert layer.keys.shape[2] == 2
