"""Positions deleted from the cache: as muted from then on, with the keys and values really gone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from core.contract import (
    AttentionQuery,
    CacheContentQuery,
    CacheSpec,
    DeletePositions,
    Intervention,
    InterventionQuery,
    MutePositions,
    ParameterError,
    StartBranch,
    ViewUnavailableError,
)
from core.decode.branch import begin_branch, give_up_cache, take_cache
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, full_logits, open_session, prompt_of, run
from tests.parity.test_cache_kinds import plain_logprobs, window_mask
from tests.parity.test_interventions import logits_of, part

CLOSE = 1e-4
NEW = 12


def acted(
    loaded: LoadedModel, rows: Sequence[Sequence[int]], when: Mapping[int, tuple[Intervention, ...]], **spec: Any
) -> Ours:
    """A run that is told these interventions after so many tokens."""
    session = open_session(loaded, rows, {"max_new_tokens": NEW}, **spec)
    steps: list[Any] = []
    with session.attached():
        while not session.finished:
            steps += session.advance()
            asked = when.get(session.new_tokens)
            if asked is not None and session.epoch < session.new_tokens:
                session.set_interventions(asked, session.new_tokens)
    return Ours(session, [step for step in steps if hasattr(step, "cache")], [], session.result())


def seen(length: int, since: Mapping[int, Sequence[int]]) -> torch.Tensor:
    """(T, T), True where a query attends to a key; since: from which query on which keys are gone."""
    mask = window_mask(length, length)
    for query, keys in since.items():
        mask[query:, list(keys)] = False
    return mask


def logprobs(ours: Ours, row: int = 0) -> torch.Tensor:
    recording, strand = ours.session.recording(), ours.session.rows[row].strand()
    with torch.inference_mode():
        stream = recording.residuals(recording.info.layers, strand, 0, recording.positions(strand))
        return torch.log_softmax(recording.anatomy.read_out(stream), -1)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def test_what_follows_is_as_if_they_were_muted_and_the_bytes_are_gone(loaded: LoadedModel) -> None:
    prompt = [prompt_of(loaded, 9)]
    when = {4: (DeletePositions(0, (2, 5)),), 8: (DeletePositions(0, (2, 5, 11)),)}
    ours = acted(loaded, prompt, when)
    fed = ours.sequences[0][:-1]
    expected = plain_logprobs(loaded, fed, seen(len(fed), {12: (2, 5), 16: (11,)}))
    assert difference(logprobs(ours), expected) < CLOSE
    assert difference(expected, torch.log_softmax(full_logits(loaded, fed), -1)) > 1e-3
    muted = {n: tuple(MutePositions(0, one.positions) for one in acts) for n, acts in when.items()}
    other = acted(loaded, prompt, muted)
    assert other.sequences == ours.sequences

    cache = ours.session.cache
    assert cache.length == len(fed)
    assert [layer.held for layer in cache.kind_layers()] == [len(fed) - 3] * loaded.info.layers
    for step, whole in zip(ours.steps, other.steps, strict=True):
        gone = 0 if step.id.index <= 3 else 2 if step.id.index <= 7 else 3
        assert step.cache.length == whole.cache.length
        for mine, theirs in (
            (step.cache.key_used_bytes, whole.cache.key_used_bytes),
            (step.cache.value_used_bytes, whole.cache.value_used_bytes),
        ):
            assert (mine * step.cache.length == theirs * (step.cache.length - gone)).all()
        assert {layout.dropped for layout in step.cache.layouts} == {gone}
    for kept, whole in zip(cache.kind_layers(), other.session.cache.kind_layers(), strict=True):
        assert kept.held_keys().untyped_storage().nbytes() == kept.sizes().key_allocated
        left = [slot for slot in range(len(fed)) if slot not in (2, 5, 11)]
        torch.testing.assert_close(kept.held_keys(), whole.held_keys()[:, :, left], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept.held_values(), whole.held_values()[:, :, left], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_from_the_first_position_on_with_chunks_and_padding(loaded: LoadedModel, rows: int) -> None:
    """Padding in front of rows, deleted before the rest of the prompt comes: chunks over a cache with gaps."""
    prompts = [prompt_of(loaded, 17 - 4 * row, seed=row) for row in range(rows)]
    asked = tuple(DeletePositions(row, (1, 3 + row)) for row in range(rows))
    ours = run(loaded, prompts, {"max_new_tokens": 4}, interventions=asked, prefill_chunk=5)
    other = run(
        loaded,
        prompts,
        {"max_new_tokens": 4},
        interventions=tuple(MutePositions(one.row, one.positions) for one in asked),
        prefill_chunk=5,
    )
    assert ours.sequences == other.sequences
    for row in range(rows):
        assert difference(logprobs(ours, row), logprobs(other, row)) < CLOSE


def test_of_a_batch_one_row_is_emptied_and_the_storage_shrinks_when_no_row_holds_a_slot(
    random_llama: LoadedModel,
) -> None:
    prompts = [prompt_of(random_llama, 9), prompt_of(random_llama, 6, 3)]
    first, both = (DeletePositions(1, (1, 2)),), (DeletePositions(1, (1, 2)), DeletePositions(0, (0, 5)))
    ours = acted(random_llama, prompts, {4: first, 8: both})
    for row, since in ((0, {16: (0, 5)}), (1, {9: (1, 2)})):
        fed = ours.sequences[row][:-1]
        assert difference(logprobs(ours, row), plain_logprobs(random_llama, fed, seen(len(fed), since))) < CLOSE
    lengths = [(step.cache.length, step.cache.layouts[0].held) for step in ours.of_row(0)]
    assert [length - held for length, held in lengths] == [0] * 8 + [2] * 4  # slot 0 is padding in row 1; 5 both lost
    content = [ours.session.answer(CacheContentQuery(1, 1, row=row)).key_norms for row in (0, 1)]
    assert [p for p in range(20) if bool(torch.tensor(content[0]).isnan()[:, p].all())] == [0, 5]
    assert [p for p in range(17) if bool(torch.tensor(content[1]).isnan()[:, p].all())] == [1, 2]
    layer = next(ours.session.cache.kind_layers())
    assert float(layer.held_keys()[1, :, 3].abs().max()) == 0  # slot 4, which row 0 still holds
    assert float(layer.held_keys()[0, :, 3].abs().max()) > 0


def test_rows_that_leave_a_batch_take_what_only_they_held_with_them(random_gpt2: LoadedModel) -> None:
    prompts = [prompt_of(random_gpt2, 6), prompt_of(random_gpt2, 9, 1), prompt_of(random_gpt2, 4, 2)]
    stop = run(random_gpt2, prompts, {"max_new_tokens": 8}).sequences[0][8]
    chosen = {"max_new_tokens": 8, "eos_token_id": (stop,)}
    ours = run(random_gpt2, prompts, chosen, interventions=(DeletePositions(2, (1, 2)),))
    assert len(ours.sequences[0]) < len(ours.sequences[2])
    alone = run(random_gpt2, prompts[2:], chosen, interventions=(DeletePositions(0, (1, 2)),))
    assert ours.sequences[2] == alone.sequences[0]


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_eight_bits_lose_positions_like_the_others(random_llama: LoadedModel, kind: Any) -> None:
    deleted, muted = (
        acted(random_llama, [prompt_of(random_llama, 9)], {4: (one(0, (2, 5)),)}, cache=CacheSpec(kind))
        for one in (DeletePositions, MutePositions)
    )
    assert deleted.sequences == muted.sequences
    assert difference(logprobs(deleted), logprobs(muted)) < CLOSE
    mine, theirs = deleted.steps[-1].cache, muted.steps[-1].cache
    assert (mine.scale_bytes * mine.length == theirs.scale_bytes * (mine.length - 2)).all()


def test_rows_of_the_past_say_which_keys_are_gone_and_can_be_recomputed(loaded: LoadedModel) -> None:
    ours = acted(loaded, [prompt_of(loaded, 9)], {4: (DeletePositions(0, (2, 5)),)})
    whole = acted(loaded, [prompt_of(loaded, 9)], {4: (MutePositions(0, (2, 5)),)})
    with pytest.raises(ViewUnavailableError, match="positions 2, 5 were deleted") as problem:
        ours.session.answer(AttentionQuery(1, 1))
    assert problem.value.can_recompute
    for rows in ((0, 2), (12, None)):  # those before saw none of them, those after neither
        mine, theirs = (one.session.answer(AttentionQuery(1, 1, rows=rows)).weights for one in (ours, whole))
        assert abs(mine - theirs).max() < CLOSE
    assert mine[:, :, [2, 5]].max() == 0
    again = ours.session.answer(AttentionQuery(1, 1, recompute=True)).weights
    assert abs(again - whole.session.answer(AttentionQuery(1, 1)).weights).max() < CLOSE
    assert again[:, 8, 2].max() > 0 == again[:, 12, 2].max()


def test_a_branch_from_before_has_the_keys_and_one_from_after_has_not(loaded: LoadedModel) -> None:
    parent = acted(loaded, [prompt_of(loaded, 9)], {6: (DeletePositions(0, (2, 11)),)})
    plain = run(loaded, [prompt_of(loaded, 9)], {"max_new_tokens": NEW})
    before, moment, after = (part(parent.session, position) for position in (13, 15, 17))
    for branch in (before, moment):
        assert branch.acts.now.asked == ()
        assert branch.reused == 2  # the first one that is gone
        assert difference(logits_of(branch), full_logits(loaded, branch.result().sequences[0][:-1])) < 2 * CLOSE
        assert branch.result().sequences[0] == plain.finished.sequences[0]
    assert after.acts.now.asked == (DeletePositions(0, (2, 11)),)
    assert after.reused == 16
    assert after.result().sequences[0] == parent.finished.sequences[0]
    assert difference(logits_of(after), logits_of(parent.session)) < CLOSE
    gone = part(parent.session, 17, interventions=())
    assert gone.acts.now.asked == (DeletePositions(0, (2, 11)),)  # it cannot be taken back


def test_a_branch_that_is_there_already_keeps_its_keys_and_is_told_apart(random_gpt2: LoadedModel) -> None:
    parent = run(random_gpt2, [prompt_of(random_gpt2, 9)], {"max_new_tokens": NEW})
    branch, _ = begin_branch(parent.session, StartBranch(1, 1, 13))
    branch.set_interventions((DeletePositions(0, (2,)),), 1)
    with branch.attached():
        while not branch.finished:
            branch.advance()
    assert parent.session.cache.holds_all
    assert parent.session.answer(AttentionQuery(1, 1)).weights.shape[1] == 20
    assert [layer.held for layer in branch.cache.kind_layers()] == [branch.cache.length - 1] * random_gpt2.info.layers
    shared = {t.untyped_storage().data_ptr() for layer in parent.session.cache.kind_layers() for t in layer.tensors()}
    own = {t.untyped_storage().data_ptr() for layer in branch.cache.kind_layers() for t in layer.tensors()}
    assert not shared & own
    back = part(branch, 13)
    assert back.reused == 2
    donated, started = begin_branch(branch, StartBranch(1, 3, 13), donors=[parent.session])
    assert started.reused_positions == 12  # the parent has them all
    assert donated.cache.holds_all


def test_a_cache_given_up_is_filled_as_it_was(loaded: LoadedModel) -> None:
    ours = acted(loaded, [prompt_of(loaded, 9)], {4: (DeletePositions(0, (2, 5)),)})
    other = run(loaded, [prompt_of(loaded, 9)], {"max_new_tokens": NEW})
    before = [layer.held_keys().clone() for layer in ours.session.cache.kind_layers()]
    for donors in ([], [other.session]):
        give_up_cache(ours.session)
        assert take_cache(ours.session, donors) == (12 if donors else 0)
        with ours.session.attached():
            while ours.session.refill_to:
                ours.session.advance()
        for keys, layer in zip(before, ours.session.cache.kind_layers(), strict=True):
            torch.testing.assert_close(layer.held_keys(), keys, atol=1e-4, rtol=1e-4)


def test_a_chat_turn_reuses_what_is_still_there(random_gpt2: LoadedModel) -> None:
    before = acted(random_gpt2, [prompt_of(random_gpt2, 9)], {4: (DeletePositions(0, (3, 5)),)})
    spec = open_session(random_gpt2, before.sequences, reuse_prefix=True).spec
    turn = Session(random_gpt2, spec, before=before.session)
    assert turn.started.reused_positions == 3
    alone = open_session(random_gpt2, before.sequences)
    for session in (turn, alone):
        with session.attached():
            while not session.finished:
                session.advance()
    assert turn.result().sequences == alone.result().sequences


def test_a_preview_of_it_is_what_comes_and_changes_nothing(loaded: LoadedModel) -> None:
    asked = (DeletePositions(0, (2, 5)),)
    parent = run(loaded, [prompt_of(loaded, 9)])
    answer = parent.session.answer(InterventionQuery(1, 11, asked))
    muted = parent.session.answer(InterventionQuery(1, 11, (MutePositions(0, (2, 5)),)))
    assert answer.token_ids.tolist() == muted.token_ids.tolist()
    assert abs(answer.after - muted.after).max() < CLOSE
    assert answer.kl_bits > 0
    assert parent.session.cache.holds_all


@pytest.mark.parametrize(
    "mode", [{"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 4}, {"prompt_lookup_num_tokens": 3}]
)
def test_modes_that_move_rows_or_take_back(random_llama: LoadedModel, mode: dict[str, Any]) -> None:
    prompt = [prompt_of(random_llama, 9)]
    deleted, muted = (acted_in(random_llama, prompt, mode, one(0, (2, 5))) for one in (DeletePositions, MutePositions))
    assert deleted.finished.sequences == muted.finished.sequences
    assert deleted.session.cache.layers[0].held == deleted.session.cache.length - 2


def acted_in(loaded: LoadedModel, prompt: Sequence[Sequence[int]], mode: dict[str, Any], one: Intervention) -> Ours:
    session = open_session(loaded, prompt, {"max_new_tokens": NEW, **mode})
    with session.attached():
        while not session.finished:
            session.advance()
            if session.new_tokens >= 4 and session.epoch == 0:
                session.set_interventions((one,), 1)
    return Ours(session, [], [], session.result())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (CacheSpec("off"), "nothing is kept"),
        (CacheSpec("static"), "whole storage from the beginning"),
        (CacheSpec("dynamic"), "knows no positions"),
        (CacheSpec("heavy_hitters", window=8, heavy=4), "each head keeps positions of its own"),
        (CacheSpec("sink", window=8, sinks=2), "by its own rule"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_kinds_from_which_nothing_can_be_deleted_say_why(random_gpt2: LoadedModel, spec: CacheSpec, words: str) -> None:
    session = open_session(random_gpt2, [prompt_of(random_gpt2, 9)], cache=spec)
    with session.attached():
        session.advance()
        with pytest.raises(ParameterError, match=words):
            session.set_interventions((DeletePositions(0, (2,)),), 1)
    assert session.acts.now.asked == ()


def test_it_stays_deleted_whatever_is_asked_for_later(random_gpt2: LoadedModel) -> None:
    ours = acted(
        random_gpt2, [prompt_of(random_gpt2, 9)], {4: (DeletePositions(0, (2,)),), 6: (MutePositions(0, (3,)),), 8: ()}
    )
    assert ours.session.acts.now.asked == (DeletePositions(0, (2,)),)
    fed = ours.sequences[0][:-1]
    mask = seen(len(fed), {12: (2,)})
    mask[14:16, 3] = False
    assert difference(logprobs(ours), plain_logprobs(random_gpt2, fed, mask)) < CLOSE


def assert_is(session: Session, gone: Mapping[int, Sequence[int]]) -> None:
    """A session against one plain pass without what is gone (since which query: which keys), and its cache."""
    ours = Ours(session, [], [], session.result())
    fed = session.cache.length
    ids = session.ids[0, :fed].tolist()
    expected = plain_logprobs(session.loaded, ids, seen(fed, gone))
    assert difference(logprobs(ours)[:fed], expected) < CLOSE
    left = fed - len({key for keys in gone.values() for key in keys})
    for layer in session.cache.kind_layers():
        assert layer.held == left
        assert sum(layer.bytes()[:2]) == layer.held_keys().nbytes + layer.held_values().nbytes
        assert layer.sizes().key_allocated == layer.held_keys().untyped_storage().nbytes()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_done_each_branch_holds_what_was_not_deleted_in_it(random_gpt2: LoadedModel, seed: int) -> None:
    """Steps, deletions, branches from anywhere, caches given up and filled again, in any order."""
    chance = random.Random(seed)
    first = open_session(random_gpt2, [prompt_of(random_gpt2, 7, seed)], {"max_new_tokens": 30})
    branches: list[tuple[Session, dict[int, list[int]]]] = [(first, {})]
    _advance(first, 1 + chance.randrange(5))
    for number in range(1, 16):
        session, gone = chance.choice(branches)
        _advance(session, 0)  # what was given up comes back first
        match chance.choice(("step", "delete", "delete", "branch", "give up")):
            case "step":
                _advance(session, 1 + chance.randrange(4))
            case "delete" if not session.finished:
                fed = session.cache.length
                known = {key for keys in gone.values() for key in keys}
                keys = sorted({chance.randrange(fed) for _ in range(1 + chance.randrange(3))} - known)
                if keys:
                    session.set_interventions((DeletePositions(0, tuple(keys)),), number)
                    gone[fed] = sorted({*gone.get(fed, ()), *keys})
            case "branch":
                position = chance.randrange(8, session.ids.shape[1] + 1)
                others = [other for other, _ in branches if other is not session]
                command = StartBranch(1, number, position, token_ids=(5 + number,), parent=session.branch_id)
                child, _ = begin_branch(session, command, donors=others)
                branches.append((child, {at: keys for at, keys in gone.items() if at < position - 1}))
                _advance(child, 1 + chance.randrange(3))
            case "give up":
                give_up_cache(session)
                if chance.random() < 0.5:
                    take_cache(session, [other for other, _ in branches])
    assert any(gone for _, gone in branches)
    for session, gone in branches:
        _advance(session, 0)
        assert_is(session, gone)


def _advance(session: Session, tokens: int) -> None:
    until = session.new_tokens + tokens
    with session.attached():
        while not session.finished and (session.refill_to or session.in_prefill or session.new_tokens < until):
            session.advance()
