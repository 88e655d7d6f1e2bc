"""The KV cache: bit-identical to `DynamicCache`, bytes as the storages say, forks and crops that leave no trace."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from core.decode.kv import GrowLayer, cache_length, cache_report, crop_cache, fork_cache, new_cache
from core.models.loaded import LoadedModel
from tests.parity.reference import open_session, pad_left, plain, prompt_of, run

PROMPT, NEW = 13, 7


@pytest.mark.parametrize("rows", [1, 3])
def test_keys_and_values_are_bit_identical_to_dynamic_cache(loaded: LoadedModel, rows: int) -> None:
    """The same attention function, the same chunks, twice: only the cache differs."""
    prompts = [prompt_of(loaded, PROMPT - 2 * row, seed=row) for row in range(rows)]
    ours = run(loaded, prompts, {"max_new_tokens": NEW}, prefill_chunk=5)
    session, theirs = ours.session, DynamicCache()
    fed = session.ids[:, :-1]
    with torch.inference_mode(), session.attached():
        for start, stop in [(0, 5), (5, 10), (10, PROMPT), *((n, n + 1) for n in range(PROMPT, PROMPT + NEW - 1))]:
            # The run's masks, positions and arithmetic, the other cache.
            with session.forward._shortcuts.taken():
                session.forward.model(**_arguments(session, fed[:, start:stop], start, stop, theirs))
    assert cache_length(session.cache) == theirs.get_seq_length() == PROMPT + NEW - 1
    for mine, other in zip(session.cache.layers, theirs.layers, strict=True):
        assert torch.equal(mine.keys, other.keys)
        assert torch.equal(mine.values, other.values)
        assert mine.keys.shape[2] == PROMPT + NEW - 1


def _arguments(session: object, ids: torch.Tensor, start: int, stop: int, cache: DynamicCache) -> dict[str, object]:
    padding = torch.tensor(session.padding)
    slots = torch.arange(stop)
    mask = (slots >= padding[:, None]).long()
    positions = (torch.arange(start, stop) - padding[:, None]).clamp(min=0)
    given = {"input_ids": ids, "past_key_values": cache, "use_cache": True, "position_ids": positions}
    return {**given, "attention_mask": mask} if padding.any() else given


def test_logits_with_our_cache_equal_those_with_dynamic_cache(loaded: LoadedModel) -> None:
    ids, mask = pad_left(loaded, [prompt_of(loaded, 9), prompt_of(loaded, 4)])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with plain(loaded) as model:
        results = []
        for cache in (new_cache(loaded.info.layers), DynamicCache()):
            first = model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
            longer = torch.cat([mask, mask[:, :1] * 0 + 1], 1)
            step = model(
                first.logits[:, -1:].argmax(-1), attention_mask=longer, position_ids=positions[:, -1:] + 1,
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            results.append((first.logits[mask.bool()], step.logits))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_generate_itself_runs_on_our_cache(loaded: LoadedModel) -> None:
    ids = torch.tensor([prompt_of(loaded, 8)])
    with plain(loaded) as model:
        common = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "pad_token_id": 0}
        for beams in (1, 3):
            expected = model.generate(ids, num_beams=beams, **common)
            cache = new_cache(loaded.info.layers)
            assert torch.equal(model.generate(ids, num_beams=beams, past_key_values=cache, **common), expected)


def test_reported_bytes_are_those_of_the_storages(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, 70 if loaded.info.max_positions > 80 else 40)], {"max_new_tokens": NEW})
    info = loaded.info
    width = info.kv_heads * info.head_dim * loaded.dtype.itemsize
    for step in ours.steps:
        used = [step.cache.length * width] * info.layers
        assert step.cache.key_used_bytes.tolist() == step.cache.value_used_bytes.tolist() == used
        assert (step.cache.key_allocated_bytes >= step.cache.key_used_bytes).all()
        assert step.cache.used_bytes == step.cache.length * info.kv_bytes_per_token
        assert step.cache.length == step.id.position  # everything before the new token was fed
        assert not step.cache.key_used_bytes.flags.writeable
    last = ours.steps[-1].cache
    for index, layer in enumerate(ours.session.cache.layers):
        for tensor, used, allocated in (
            (layer.keys, last.key_used_bytes, last.key_allocated_bytes),
            (layer.values, last.value_used_bytes, last.value_allocated_bytes),
        ):
            assert tensor.nbytes == used[index]
            assert tensor.untyped_storage().nbytes() == allocated[index]


def test_a_batch_counts_every_row(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, length) for length in (5, 9)]
    one, two = run(loaded, rows[1:]).steps[0].cache, run(loaded, rows).steps[0].cache
    assert two.length == one.length == 9
    assert two.used_bytes == 2 * one.used_bytes


def test_a_fork_continues_as_if_it_were_alone(loaded: LoadedModel) -> None:
    """Rewind to any point, go another way, come back: every branch equals a fresh run of its tokens."""
    session = run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": NEW}).session
    sequence = session.ids[0].tolist()
    with torch.inference_mode(), session.attached():
        for at in (1, PROMPT, PROMPT + 3):
            branch = fork_cache(session.cache)
            crop_cache(branch, at)
            other = prompt_of(loaded, 4, seed=at)
            for token in other:
                logits = session.forward(torch.tensor([[token]]), branch, None)
            fresh = new_cache(loaded.info.layers)
            for token in sequence[:at] + other:
                expected = session.forward(torch.tensor([[token]]), fresh, None)
            torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
            assert cache_length(branch) == at + 4
        # The trunk has not noticed.
        again = new_cache(loaded.info.layers)
        session.forward(session.ids[:, :-1], again, None)
    for mine, other_layer in zip(session.cache.layers, again.layers, strict=True):
        torch.testing.assert_close(mine.keys, other_layer.keys, atol=1e-4, rtol=1e-4)


def test_a_fork_costs_no_memory_until_it_writes(loaded: LoadedModel) -> None:
    session = run(loaded, [prompt_of(loaded, PROMPT)]).session
    twin = fork_cache(session.cache)
    for mine, theirs in zip(session.cache.layers, twin.layers, strict=True):
        assert mine.keys.data_ptr() == theirs.keys.data_ptr()
    assert cache_report(twin).used_bytes == cache_report(session.cache).used_bytes


def test_a_cropped_layer_forgets_exactly_what_was_cropped() -> None:
    layer = GrowLayer()
    states = torch.arange(2 * 3 * 100 * 4, dtype=torch.float32).reshape(2, 3, 100, 4)
    layer.update(states, -states)
    layer.crop(-30)
    layer.update(states[:, :, :5] * 7, states[:, :, :5])
    expected = torch.cat([states[:, :, :70], states[:, :, :5] * 7], dim=2)
    assert torch.equal(layer.keys, expected)
    assert layer.get_seq_length() == 75


def test_the_session_keeps_the_cache_for_views_and_gives_it_back(loaded: LoadedModel) -> None:
    session = open_session(loaded, [prompt_of(loaded, 4)])
    with session.attached():
        while not session.finished:
            session.advance()
    assert cache_report(session.cache).used_bytes > 0
    session.close()
    assert cache_report(session.cache).allocated_bytes == 0
    assert session.trace is None
