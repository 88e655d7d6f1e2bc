"""Whether a run fits: the bytes it is asked for beforehand are the most that its storages come to."""

from __future__ import annotations

import numpy as np
import pytest

from core.contract import CACHE_KINDS, CacheKind, CacheSpec, OutOfMemoryError, ParameterError
from core.decode import room
from core.decode.kv import cache_report
from core.models.loaded import LoadedModel
from tests.parity.reference import open_session, prompt_of

NEW = 12


@pytest.mark.parametrize("kind", CACHE_KINDS)
@pytest.mark.parametrize("chunk", [4, 64])
def test_the_room_asked_for_is_the_most_that_is_allocated(loaded: LoadedModel, kind: CacheKind, chunk: int) -> None:
    rows = [prompt_of(loaded, length) for length in (21, 14)]
    spec = CacheSpec(kind, window=5, sinks=3, heavy=4)
    try:
        session = open_session(loaded, rows, {"max_new_tokens": NEW}, cache=spec, prefill_chunk=chunk)
    except ParameterError:
        return  # a kind that the model cannot use
    layers = np.zeros(loaded.info.layers, dtype=np.int64)
    with session.attached():
        while not session.finished:
            session.advance()
            layers = np.maximum(layers, cache_report(session.cache).layer_allocated_bytes)
    most = int(layers.sum())
    feeding = room.Feeding(session.limit, session.prompt_slots, chunk, padding=7)
    told = 2 * room.most_bytes(loaded.info, spec, feeding)
    # Not a position more in each row, besides the newest sums of heavy hitters, which their sums before it lack.
    spare = 2 * (room.position_bytes(loaded.info, spec) + 4 * chunk * loaded.info.layers * loaded.info.kv_heads)
    assert most <= told <= most + spare


def test_sliding_layers_are_asked_for_their_window_only(
    random_qwen2_sliding: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = random_qwen2_sliding.info
    prompt, params = [prompt_of(random_qwen2_sliding, 40)], {"max_new_tokens": 20}
    feeding = room.Feeding(60, 40, 8)
    hybrid = room.most_bytes(info, CacheSpec("hybrid"), feeding)
    assert hybrid < room.most_bytes(info, CacheSpec(), feeding) == 60 * info.kv_bytes_per_token
    monkeypatch.setattr(room, "available_bytes", lambda device: hybrid)
    open_session(random_qwen2_sliding, prompt, params, cache=CacheSpec("hybrid"), prefill_chunk=8)
    with pytest.raises(OutOfMemoryError, match=r"60 positions need"):
        open_session(random_qwen2_sliding, prompt, params, cache=CacheSpec(), prefill_chunk=8)


def test_contrastive_search_asks_for_room_for_all_its_candidates(
    random_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, prompt = random_llama.info, [prompt_of(random_llama, 10)]
    params = {"max_new_tokens": NEW, "do_sample": False, "penalty_alpha": 0.6}
    each = room.most_bytes(info, CacheSpec(), room.Feeding(22, 10, 256)) + 8 * info.output_size
    monkeypatch.setattr(room, "available_bytes", lambda device: 5 * each)
    with pytest.raises(OutOfMemoryError, match=r"Trying 6 candidates at once .*; lower top_k"):
        open_session(random_llama, prompt, {**params, "top_k": 6})
    with pytest.raises(OutOfMemoryError, match=r"Trying 300 candidates"):  # the vocabulary has no more
        open_session(random_llama, prompt, {**params, "top_k": 10_000})
    session = open_session(random_llama, prompt, {**params, "top_k": 5})
    with session.attached():
        while session.new_tokens < 2:
            session.advance()
        with pytest.raises(OutOfMemoryError, match=r"Trying 6 candidates"):
            session.set_params({"top_k": 6}, 1)
        assert session.params.top_k == 5
        session.set_params({"top_k": 4}, 2)
        while not session.finished:
            session.advance()
    assert session.new_tokens == NEW
