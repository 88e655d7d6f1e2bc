"""What the cache panel says, held against the storages of real runs."""

from __future__ import annotations

import pytest

from app.panels.cache_words import outlook, padding_share
from core.contract import CacheSpec
from core.models.loaded import LoadedModel
from tests.parity.reference import prompt_of, run

SINK = CacheSpec("sink", window=6, sinks=2)


@pytest.mark.parametrize(
    "spec", [CacheSpec("sliding_window", window=6), SINK, CacheSpec("heavy_hitters", window=4, heavy=4)],
    ids=lambda s: s.kind,
)  # fmt: skip
def test_the_most_that_is_held_is_what_is_held_once_full(random_llama: LoadedModel, spec: CacheSpec) -> None:
    ours = run(random_llama, [prompt_of(random_llama, 4)], {"max_new_tokens": 16}, cache=spec)
    early, full = ours.steps[0].cache, ours.steps[-1].cache
    said = outlook(random_llama.info, full, 1.0, spec=spec)
    assert f"at most {full.held} positions a layer and row" in said
    assert said.startswith("0 B a token")  # the bytes stay as they are
    assert ours.steps[-2].cache.used_bytes == full.used_bytes
    assert not outlook(random_llama.info, early, 1.0, spec=spec).startswith("0 B")


def test_slots_that_only_padding_keeps_are_beyond_the_window(random_llama: LoadedModel) -> None:
    prompts = [prompt_of(random_llama, 12), prompt_of(random_llama, 5)]
    report = run(random_llama, prompts, {"max_new_tokens": 12}, cache=SINK).steps[-1].cache
    position = report.used_bytes // report.held
    seen = SINK.sinks + SINK.window - 1  # of those held now; the next position sees itself, too
    assert report.held == 7 + 2 + 6
    assert report.beyond_bytes == (report.held - seen) * position


@pytest.mark.parametrize("spec", [CacheSpec(), CacheSpec("sliding_window", window=6), SINK], ids=lambda s: s.kind)
def test_the_share_of_padding_is_that_of_the_slots_held(random_llama: LoadedModel, spec: CacheSpec) -> None:
    prompts = [prompt_of(random_llama, 12), prompt_of(random_llama, 5)]
    ours = run(random_llama, prompts, {"max_new_tokens": 12}, cache=spec)
    layer = ours.session.cache.layers[0]
    slots = range(layer.length) if layer.slots() is None else layer.slots().tolist()
    padded = sum(slot < 7 for slot in slots)
    assert padding_share(ours.steps[-1].cache, (0, 7)) == pytest.approx(padded / (2 * len(slots)))
