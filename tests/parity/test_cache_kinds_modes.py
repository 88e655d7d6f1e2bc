"""Modes on every kind of cache: drafts taken back, lanes reordered, rows leaving; or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.contract import CacheSpec, OutOfMemoryError, ParameterError, Prompt, PromptError, RunSpec, StartBranch
from core.decode import room
from core.decode.branch import begin_branch, give_up_cache
from core.decode.extras import Extras
from core.decode.kv import CannotRewindError, cache_report, fork_cache, storages
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.branching import advance, assert_same_steps, fresh
from tests.parity.reference import finish, full_logits, open_session, prompt_of, run
from tests.parity.test_cache_kinds import plain_logprobs, window_mask

NEW = 12
SLIDING = CacheSpec("sliding_window", window=7)
SINK = CacheSpec("sink", window=6, sinks=2)
HEAVY = CacheSpec("heavy_hitters", window=4, heavy=4)
KINDS = [CacheSpec(kind) for kind in ("off", "dynamic", "static", "fp8", "int8")] + [SLIDING, SINK, HEAVY]
MODES: dict[str, dict[str, Any]] = {
    "beam_search": {"num_beams": 3, "num_return_sequences": 2},
    "contrastive_search": {"penalty_alpha": 0.4, "top_k": 3},
    "group_beam_search": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "guidance": {"guidance_scale": 1.7},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["off", "dynamic", "static"])
def test_modes_that_move_rows_say_the_same_on_kinds_that_keep_everything(
    random_llama: LoadedModel, kind: Any, mode: str
) -> None:
    prompts = [prompt_of(random_llama, length, seed=length) for length in (11, 5)]
    params = {"max_new_tokens": NEW, **MODES[mode]}
    growing = run(random_llama, prompts, params)
    other = run(random_llama, prompts, params, cache=CacheSpec(kind))
    assert other.sequences == growing.sequences
    if growing.finished.scores is not None:
        assert other.finished.scores == pytest.approx(growing.finished.scores, abs=1e-3)


@pytest.mark.parametrize("spec", [SLIDING, SINK], ids=lambda s: s.kind)
def test_scores_of_beams_on_a_window_are_those_of_a_plain_pass_under_its_mask(
    random_qwen2: LoadedModel, spec: CacheSpec
) -> None:
    prompt = prompt_of(random_qwen2, 13)
    params = {"max_new_tokens": NEW, "num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0}
    ours = run(random_qwen2, [prompt], params, cache=spec)
    assert ours.finished.scores is not None
    for sequence, score in zip(ours.sequences, ours.finished.scores, strict=True):
        fed = sequence[:-1]
        mask = window_mask(len(fed), spec.window, spec.sinks if spec.kind == "sink" else 0)
        told = plain_logprobs(random_qwen2, fed, mask)[len(prompt) - 1 :]
        said = told.gather(1, torch.tensor(sequence[len(prompt) :])[:, None]).sum()
        assert score == pytest.approx(float(said), abs=2e-3)


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: s.kind)
def test_drafts_that_are_taken_back_leave_no_trace(random_gpt2: LoadedModel, spec: CacheSpec) -> None:
    prompts = [[prompt_of(random_gpt2, 4, seed=seed) * 5] for seed in range(6)]
    drafted = {"max_new_tokens": NEW, "prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 1}
    if spec.kind == "heavy_hitters":
        with pytest.raises(ParameterError, match="may take back"):
            run(random_gpt2, prompts[0], drafted, cache=spec)
        return
    refused = 0
    for prompt in prompts:
        ours = run(random_gpt2, prompt, drafted, cache=spec)
        assert ours.sequences == run(random_gpt2, prompt, {"max_new_tokens": NEW}, cache=spec).sequences
        refused += sum(not step.detail.accepted and bool(step.detail.drafted) for step in ours.steps)
    assert refused > 0  # something was taken back


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: s.kind)
def test_early_exit_works_or_is_refused(random_llama: LoadedModel, spec: CacheSpec) -> None:
    prompt, params = [prompt_of(random_llama, 9)], {"max_new_tokens": NEW, "assistant_early_exit": 1}
    if spec.kind in ("off", "sliding_window", "sink", "heavy_hitters"):
        with pytest.raises(ParameterError, match="assistant_early_exit feeds positions"):
            run(random_llama, prompt, params, cache=spec)
    else:
        ours = run(random_llama, prompt, params, cache=spec)
        assert ours.sequences == run(random_llama, prompt, {"max_new_tokens": NEW}, cache=spec).sequences


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: s.kind)
def test_rows_that_end_leave_the_others_as_they_are(random_llama: LoadedModel, spec: CacheSpec) -> None:
    """The longest padding leaves with its row, or stays."""
    rows = [prompt_of(random_llama, length, seed=length) for length in (12, 3, 8)]
    free = run(random_llama, rows, {"max_new_tokens": NEW}, cache=spec)
    for row in range(3):
        eos = free.sequences[row][len(rows[row]) + 2]
        ended = run(random_llama, rows, {"max_new_tokens": NEW, "eos_token_id": [eos]}, cache=spec)
        for own, (one, other) in enumerate(zip(ended.sequences, free.sequences, strict=True)):
            new = other[len(rows[own]) :]
            stop = new.index(eos) + 1 if eos in new else len(new)
            assert one == [*rows[own], *new[:stop]]


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: s.kind)
def test_a_pass_that_is_broken_off_leaves_the_cache_as_it_was(random_gpt2: LoadedModel, spec: CacheSpec) -> None:
    prompt = [prompt_of(random_gpt2, 14)]
    free = run(random_gpt2, prompt, {"max_new_tokens": NEW}, cache=spec)
    session = open_session(random_gpt2, prompt, {"max_new_tokens": NEW}, cache=spec)
    calls = {"left": -1}
    session.forward._cancelled = lambda: _count_down(calls)
    with torch.inference_mode(), session.attached():
        for _ in range(6):
            session.advance()
        before = session.cache.length
        calls["left"] = 2
        session.advance()  # broken off before the third layer
        assert session.finished
        assert session.cache.length == before
        assert {layer.get_seq_length() for layer in session.cache.layers} <= {before}
        calls["left"] = -1
        logits = session.forward(session.ids[:, -1:], session.cache, session.trace)
    said = int(logits[0].argmax())
    assert said == free.sequences[0][session.ids.shape[1]]


def _count_down(calls: dict[str, int]) -> bool:
    if calls["left"] < 0:
        return False
    calls["left"] -= 1
    return calls["left"] < 0


@pytest.mark.parametrize("spec", [CacheSpec(), *KINDS], ids=lambda s: s.kind)
def test_a_fork_goes_its_own_way_and_a_rewind_is_right_or_refused(random_llama: LoadedModel, spec: CacheSpec) -> None:
    session = run(random_llama, [prompt_of(random_llama, 10)], {"max_new_tokens": NEW}, cache=spec).session
    sequence, other = session.ids[0, :-1].tolist(), prompt_of(random_llama, 3, seed=5)
    fed = session.cache.length
    with torch.inference_mode(), session.attached():
        branch = fork_cache(session.cache, limit=40)
        for token in other:
            logits = session.forward(torch.tensor([[token]]), branch, None)
        fresh = _fed_like(session, sequence, spec)
        for token in other:
            expected = session.forward(torch.tensor([[token]]), fresh, None)
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
        assert session.cache.length == fed  # the trunk has not noticed
        if spec.budget is not None:
            assert session.cache.reusable(6) == 0
            with pytest.raises(CannotRewindError, match="feed the text again"):
                fork_cache(session.cache, 6)
            return
        assert session.cache.reusable(6) == 6
        back = fork_cache(session.cache, 6, limit=40)
        for token in other:
            logits = session.forward(torch.tensor([[token]]), back, None)
    if spec.kind not in ("fp8", "int8"):
        expected = full_logits(random_llama, [*sequence[:6], *other])[-1:]
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


def _fed_like(session: Session, ids: list[int], spec: CacheSpec) -> Any:
    """A new cache fed in the same portions: the prompt at once, then one by one."""
    cache = session.new_cache(40)
    at = 0
    while at < 10:
        upto = at + cache.chunk(256, 10 - at)
        session.forward(torch.tensor([ids[at:upto]]), cache, None)
        at = upto
    for token in ids[10:]:
        session.forward(torch.tensor([[token]]), cache, None)
    return cache


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: s.kind)
def test_the_next_turn_continues_a_cache_or_begins_anew(random_llama: LoadedModel, spec: CacheSpec) -> None:
    first = run(random_llama, [prompt_of(random_llama, 10)], {"max_new_tokens": 6}, cache=spec)
    longer = [*first.sequences[0], *prompt_of(random_llama, 4, seed=3)]
    alone = run(random_llama, [longer], {"max_new_tokens": 6}, cache=spec)
    turn = open_session_after(random_llama, longer, first.session, spec)
    heavy = spec.kind == "heavy_hitters"  # it depends on the portions that a text was fed in, so it begins anew
    assert turn.reused == (0 if heavy else 15)
    other = open_session_after(random_llama, longer, first.session, CacheSpec("sliding_window", window=9))
    assert other.reused == 0  # kept in another way
    ended = finish(turn)
    assert ended.sequences == alone.sequences
    assert_same_steps(ended.steps, alone.steps)
    differs = [*longer[:4], *prompt_of(random_llama, 4, seed=4)]
    assert open_session_after(random_llama, differs, first.session, spec).reused == (4 if spec.budget is None else 0)


def open_session_after(loaded: LoadedModel, ids: list[int], before: Session, spec: CacheSpec) -> Session:
    params = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": ()}
    return Session(loaded, RunSpec((Prompt(ids=tuple(ids)),), params, cache=spec, reuse_prefix=True), before=before)


def test_an_earlier_run_that_dropped_positions_cannot_be_passed_on(random_llama: LoadedModel) -> None:
    first = run(random_llama, [prompt_of(random_llama, 12)], {"max_new_tokens": 6}, cache=SLIDING)
    shorter = first.sequences[0][:9]
    spec = RunSpec((Prompt(ids=tuple(shorter)),), {"max_new_tokens": 3}, cache=SLIDING)
    with pytest.raises(PromptError, match="has dropped what position 8"):
        Session(random_llama, spec, extras=Extras(past=first.session))


def test_a_static_cache_that_cannot_fit_is_refused_before_it_is_made(
    random_gpt2: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available_bytes", lambda device: 10_000)
    made: list[int] = []
    monkeypatch.setattr("core.decode.kv.kinds.StaticKind", lambda limit: made.append(limit))
    with pytest.raises(OutOfMemoryError, match=r"1 × 26 positions need .* GB of KV cache at once.*free"):
        run(random_gpt2, [prompt_of(random_gpt2, 14)], {"max_new_tokens": NEW}, cache=CacheSpec("static"))
    assert made == []


@pytest.mark.parametrize("kind", ["static", "int8"])
@pytest.mark.parametrize(
    "mode", [{}, {"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 3}, {"guidance_scale": 1.5}], ids=str
)
def test_a_run_that_may_say_more_than_at_first_has_room_for_it(
    random_llama: LoadedModel, kind: Any, mode: dict[str, Any]
) -> None:
    rows = [prompt_of(random_llama, 7), prompt_of(random_llama, 4)]
    session = open_session(random_llama, rows, {**mode, "max_new_tokens": 5}, cache=CacheSpec(kind))
    with session.attached():
        while session.new_tokens < 3:
            session.advance()
    session.set_params({"max_new_tokens": 25}, epoch=1)
    whole = run(random_llama, rows, {**mode, "max_new_tokens": 25}, cache=CacheSpec(kind))
    assert finish(session).sequences == whole.sequences
    assert session.limit == whole.session.limit


def test_bytes_are_those_of_the_storages_and_of_the_formula(random_llama: LoadedModel) -> None:
    info, prompt = random_llama.info, prompt_of(random_llama, 15)
    position = 2 * info.kv_heads * info.head_dim * 4  # K and V of a layer, in fp32
    for spec in KINDS:
        ours = run(random_llama, [prompt], {"max_new_tokens": NEW}, cache=spec)
        report, fed = cache_report(ours.session.cache), 15 + NEW - 1
        assert report.kind == spec.kind
        assert report.length == fed
        held = {"off": 0, "sliding_window": 7, "sink": 8, "heavy_hitters": 9}.get(spec.kind, fed)
        by_number = 2 * info.kv_heads * (info.head_dim + 4) if spec.kind in ("fp8", "int8") else position
        assert report.used_bytes == held * by_number * info.layers
        assert report.scales_bytes == (held * 2 * info.kv_heads * 4 * info.layers if by_number != position else 0)
        assert report.beyond_bytes == (0 if spec.budget is None else position * info.layers)  # the next step drops one
        assert report.allocated_bytes == _storages(ours.session.cache) == sum(storages(ours.session.cache).values())
        for layout in report.layouts:
            assert layout.shape == (1, info.kv_heads, held, info.head_dim)
            assert layout.dropped == fed - held
            assert layout.dtype == {"fp8": "float8_e4m3fn", "int8": "int8"}.get(spec.kind, "float32")


def _storages(cache: Any) -> int:
    """Bytes of all storages that hang on the layers, whatever they are for; counters of one number left out."""
    found: dict[int, int] = {}
    for layer in cache.layers:
        waiting = [value for name, value in vars(layer).items() if name != "shared"]
        waiting += [buffer.parts for buffer in [getattr(layer, "_buffer", None)] if buffer is not None]
        while waiting:
            value = waiting.pop()
            if isinstance(value, torch.Tensor):
                if value.ndim == 0:
                    continue
                found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            elif isinstance(value, tuple | list):
                waiting += value
    return sum(found.values())


def test_what_sliding_layers_keep_to_take_a_step_back_is_counted(random_qwen2_sliding: LoadedModel) -> None:
    prompts = [prompt_of(random_qwen2_sliding, 30), prompt_of(random_qwen2_sliding, 21)]
    session = open_session(random_qwen2_sliding, prompts, {"max_new_tokens": NEW}, cache=CacheSpec("dynamic"))
    advance(session, 6)
    report = cache_report(session.cache)
    assert report.besides_bytes > 0
    assert {part.name for part in report.unused} == {"left over until the next step", "to take a step back"}
    assert report.used_bytes + sum(part.bytes for part in report.unused) == _storages(session.cache)
    assert report.allocated_bytes == _storages(session.cache)
    assert sum(report.layer_allocated_bytes) == report.allocated_bytes


@pytest.mark.parametrize("spec", [CacheSpec(), *KINDS], ids=lambda s: s.kind)
def test_a_branch_on_any_kind_equals_a_fresh_run_that_said_the_same(random_llama: LoadedModel, spec: CacheSpec) -> None:
    """Where the cache cannot go back, the branch feeds its past again, in the portions that it was fed in."""
    prompts = [prompt_of(random_llama, 10)]
    parent = open_session(random_llama, prompts, {"max_new_tokens": NEW}, seed=3, cache=spec)
    advance(parent)
    for at, put in ((14, ()), (16, (7, 9)), (21, ())):
        session, started = begin_branch(parent, StartBranch(1, at, at, token_ids=put))
        steps = advance(session)
        assert started.reused_positions == (at - 1 if spec.budget is None or at == 21 else 0)
        said = session.rows[0].token_ids[: session.kept_tokens + len(put)]
        theirs, other = fresh(random_llama, prompts, 0, said, session.spec.params, seed=3, cache=spec)
        assert_same_steps(steps, theirs[session.kept_tokens :])
        assert session.rows[0].token_ids == other.rows[0].token_ids
    give_up_cache(parent)
    assert storages(parent.cache) == {}
    assert parent.refill_to == 21


@pytest.mark.parametrize("put", [(), (5, 7)])
@pytest.mark.parametrize("at", [14, 15, 22, 34])
def test_heavy_hitters_go_back_as_if_nothing_had_come_after(
    random_gpt2: LoadedModel, at: int, put: tuple[int, ...]
) -> None:
    prompts, spec = [prompt_of(random_gpt2, 14)], CacheSpec("heavy_hitters", window=5, heavy=5)
    parent = open_session(random_gpt2, prompts, {"max_new_tokens": 26}, seed=3, cache=spec, prefill_chunk=8)
    advance(parent)
    session, _ = begin_branch(parent, StartBranch(1, 2, at, token_ids=put))
    steps = advance(session)
    said = session.rows[0].token_ids[: session.kept_tokens + len(put)]
    theirs, _ = fresh(random_gpt2, prompts, 0, said, session.spec.params, seed=3, cache=spec, prefill_chunk=8)
    assert_same_steps(steps, theirs[session.kept_tokens :])


def test_heavy_hitters_that_were_given_up_are_the_same_again(random_gpt2: LoadedModel) -> None:
    prompts, spec = [prompt_of(random_gpt2, 14)], CacheSpec("heavy_hitters", window=5, heavy=5)
    free = run(random_gpt2, prompts, {"max_new_tokens": 26}, cache=spec)
    session = open_session(random_gpt2, prompts, {"max_new_tokens": 26}, cache=spec)
    steps = advance(session, 12)
    give_up_cache(session)
    assert_same_steps([*steps, *advance(session)], free.steps)


def test_heavy_hitters_do_not_begin_with_a_cache_that_was_fed_in_other_portions(random_gpt2: LoadedModel) -> None:
    first = run(random_gpt2, [prompt_of(random_gpt2, 12)], {"max_new_tokens": 6}, cache=HEAVY)
    spec = RunSpec((Prompt(ids=tuple(first.sequences[0])),), {"max_new_tokens": 3}, cache=HEAVY)
    with pytest.raises(ParameterError, match="depends on the portions"):
        Session(random_gpt2, spec, extras=Extras(past=first.session))


def test_a_branch_of_one_row_of_a_padded_batch_takes_its_row_of_the_cache(random_llama: LoadedModel) -> None:
    prompts = [prompt_of(random_llama, length, seed=length) for length in (11, 4)]
    for spec in (CacheSpec("int8"), CacheSpec("dynamic"), CacheSpec("static"), CacheSpec("off")):
        parent = open_session(random_llama, prompts, {"max_new_tokens": NEW}, seed=3, cache=spec)
        advance(parent)
        session, started = begin_branch(parent, StartBranch(1, 1, 8, row=1))
        steps = advance(session)
        assert started.reused_positions == 7
        theirs, _ = fresh(
            random_llama, prompts, 1, session.rows[0].token_ids[:4], parent.spec.params, seed=3, cache=spec
        )
        assert_same_steps(steps, theirs[session.kept_tokens :])
