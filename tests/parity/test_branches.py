"""A branch equals a fresh run that has said the same: tokens, draws, texts, logits, cache, views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.contract import (
    AttentionQuery,
    DistributionQuery,
    ModelSpec,
    ParameterError,
    Prompt,
    PromptError,
    RunSpec,
    ScaleHeads,
    StartBranch,
    StepSnapshot,
    TextMatches,
    WaterfallQuery,
)
from core.decode.branch import begin_branch, give_up_cache, give_up_records, take_cache
from core.decode.kv import cache_length, storages
from core.decode.modes.assisted import Assisted
from core.decode.modes.drafts import ModelDraft
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.leaks import assert_no_hooks
from tests.parity.branching import advance, assert_same_cache, assert_same_steps, fresh
from tests.parity.reference import open_session, prompt_of

SAMPLED = {"do_sample": True, "temperature": 1.5, "top_k": 20, "max_new_tokens": 14}
GREEDY: dict[str, Any] = {"max_new_tokens": 14}
PENALISED = {"do_sample": True, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "max_new_tokens": 14}
SOME = [SAMPLED, GREEDY, PENALISED]


def branch(parent: Session, position: int, number: int = 1, **how: Any) -> tuple[Session, list[StepSnapshot]]:
    """A branch of `parent`, and what it says on its own until it ends."""
    session, _ = begin_branch(parent, StartBranch(parent.run_id, number, position, **how))
    return session, advance(session)


def begun(loaded: LoadedModel, rows: list[list[int]], params: dict[str, Any], steps: int | None = None) -> Session:
    session = open_session(loaded, rows, params, seed=3)
    advance(session, steps)
    return session


def check(ours: Session, steps: list[StepSnapshot], parent: Session, row: int = 0, **spec: Any) -> None:
    """Against a fresh run of the parent's prompts whose row said the same up to where the branch chose itself."""
    said = ours.rows[0].token_ids
    own = next((n for n, step in enumerate(steps) if not step.put), len(steps))
    prefix = said[: ours.kept_tokens + own]
    prompts = [list(r.prompt.token_ids) for r in parent.rows]
    prompts[row] = list(ours.rows[0].prompt.token_ids)
    theirs, session = fresh(ours.loaded, prompts, row, prefix, ours.spec.params, seed=3, **spec)
    assert_same_steps(steps, theirs[ours.kept_tokens :])
    assert ours.rows[0].text == session.rows[row].text
    assert ours.result().finish_reason == session.result().finish_reasons[row]
    if any(lane.index == row for lane in session.lanes):
        assert_same_cache(ours, session, row)


@pytest.mark.parametrize("params", SOME, ids=["sampled", "greedy", "penalised"])
@pytest.mark.parametrize("kept", [0, 5])
def test_a_rewind_says_the_same_again(loaded: LoadedModel, params: dict[str, Any], kept: int) -> None:
    parent = begun(loaded, [prompt_of(loaded, 9)], params)
    again, steps = branch(parent, 9 + kept)
    assert again.result().sequences == parent.result().sequences
    assert again.reused == 8 + kept
    assert again.started.branch_id == 1
    assert not any(step.put for step in steps)
    check(again, steps, parent)
    assert_no_hooks(loaded.module)


@pytest.mark.parametrize("params", SOME, ids=["sampled", "greedy", "penalised"])
def test_a_forced_token_and_what_follows(loaded: LoadedModel, params: dict[str, Any]) -> None:
    parent = begun(loaded, [prompt_of(loaded, 7)], params, steps=8)  # in the middle of the run
    said = parent.result().sequences[0]
    other = (said[7 + 4] + 1) % loaded.info.output_size
    ours, steps = branch(parent, 7 + 4, token_ids=(other,))
    assert [step.put for step in steps] == [True, *[False] * (len(steps) - 1)]
    assert steps[0].u is None
    check(ours, steps, parent)
    rest = advance(parent)  # goes on as if nothing had happened
    theirs, _ = fresh(loaded, [said[:7]], 0, (), parent.spec.params, seed=3)
    assert_same_steps(rest, theirs[8:])


def test_several_tokens_are_put_there_and_the_rest_is_chosen(loaded: LoadedModel) -> None:
    parent = begun(loaded, [prompt_of(loaded, 6)], SAMPLED)
    ours, steps = branch(parent, 6 + 3, token_ids=(5, 6, 7, 8))
    assert [step.put for step in steps[:5]] == [True] * 4 + [False]
    check(ours, steps, parent)


def test_many_tokens_are_fed_together_and_an_end_among_them_is_the_end(random_llama: LoadedModel) -> None:
    params = SAMPLED | {"max_new_tokens": 60, "eos_token_id": [299]}
    parent = begun(random_llama, [prompt_of(random_llama, 6)], params)
    put = tuple(range(10, 50))
    session, _ = begin_branch(parent, StartBranch(1, 1, 6 + 1, token_ids=put))
    looks: list[int] = []
    session.forward.model.register_forward_pre_hook(lambda module, args, kwargs: looks.append(1), with_kwargs=True)
    steps = advance(session)
    session.forward.model._forward_pre_hooks.clear()
    assert sum(step.put for step in steps) == len(put)
    assert len(looks) == 1 + 3 + len(steps) - len(put)
    check(session, steps, parent)
    ended, steps = branch(parent, 6 + 1, 2, token_ids=(*put[:4], 299, *put[4:]))
    assert [step.token_id for step in steps] == [*put[:4], 299]
    assert ended.result().finish_reason == "stop"
    assert cache_length(ended.cache) == 6 + 1 + 4
    assert ended.trace is not None
    assert ended.trace.stop == 6 + 1 + 4


def test_a_branch_of_a_branch_that_parts_before_its_parent_did(loaded: LoadedModel) -> None:
    parent = begun(loaded, [prompt_of(loaded, 6)], SAMPLED)
    first, _ = branch(parent, 6 + 8, token_ids=(9,))
    for number, kept in ((2, 10), (3, 3)):  # within its own tokens, and within those of its parent
        ours, steps = branch(first, 6 + kept, number, token_ids=(11,))
        check(ours, steps, parent)
        assert ours.reused == 6 + kept - 1
        assert ours.trace is not None
        assert ours.trace.parent is (first.trace if kept == 10 else parent.trace)


def test_other_draws_are_those_of_a_run_with_that_reroll(loaded: LoadedModel) -> None:
    parent = begun(loaded, [prompt_of(loaded, 6)], SAMPLED)
    ours, steps = branch(parent, 6 + 4, reroll=1)
    assert ours.result().sequences != parent.result().sequences
    check(ours, steps, parent, reroll=1)


def test_kept_tokens_are_shown_with_the_draws_that_chose_them(loaded: LoadedModel) -> None:
    parent = begun(loaded, [prompt_of(loaded, 6)], SAMPLED)
    first, _ = branch(parent, 6 + 5, reroll=1)
    second, _ = branch(first, 6 + 10, number=2, reroll=2)
    assert len({tuple(session.rows[0].token_ids) for session in (parent, first, second)}) == 3
    for number, session in enumerate((parent, first, second)):
        chosen = [
            session.answer(WaterfallQuery(1, 5 + step, branch_id=number)).token_id  # type: ignore[union-attr]
            for step in range(SAMPLED["max_new_tokens"])
        ]
        assert chosen == session.rows[0].token_ids


def test_final_distributions_of_kept_tokens_are_those_they_were_chosen_from(random_llama: LoadedModel) -> None:
    parent = begun(random_llama, [prompt_of(random_llama, 6)], SAMPLED)
    ours, _ = branch(parent, 6 + 4, params={"temperature": 0.3})
    before, after = (
        parent.answer(DistributionQuery(1, 6, final=True)),
        ours.answer(DistributionQuery(1, 6, final=True)),
    )
    np.testing.assert_array_equal(before.logprob, after.logprob)  # type: ignore[union-attr]


def test_other_parameters_act_from_the_parting_on(random_llama: LoadedModel) -> None:
    parent = begun(random_llama, [prompt_of(random_llama, 6)], SAMPLED)
    ours, steps = branch(parent, 6 + 4, params={"temperature": 0.3, "top_k": 3})
    check(ours, steps, parent)
    before, after = (ours.answer(WaterfallQuery(1, position, branch_id=1)) for position in (6 + 3 - 1, 6 + 4 - 1))
    assert (before.params.temperature, after.params.temperature) == (1.5, 0.3)


def test_changes_made_while_the_parent_ran_are_those_of_the_branch(random_gpt2: LoadedModel) -> None:
    parent = begun(random_gpt2, [prompt_of(random_gpt2, 6)], SAMPLED, steps=5)
    parent.set_params({"temperature": 0.4}, epoch=1)
    advance(parent)
    ours, _ = branch(parent, 6 + 7)
    assert ours.params.temperature == 0.4
    assert ours.result().sequences == parent.result().sequences


@pytest.mark.parametrize("params", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_row_of_a_padded_batch_goes_on_alone(loaded: LoadedModel, params: dict[str, Any], row: int) -> None:
    rows = [prompt_of(loaded, n, seed=n) for n in (9, 4, 6)]
    parent = begun(loaded, rows, params, steps=7)
    ours, steps = branch(parent, len(rows[row]) + 5, row=row, token_ids=(13,))
    assert ours.rows[0].padding == 9 - len(rows[row])
    assert ours.reused == len(rows[row]) + 4
    assert all(step.id.row == 0 for step in steps)
    check(ours, steps, parent, row)


def test_a_row_that_has_left_the_batch_is_fed_again(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, n, seed=n) for n in (8, 5)]
    plain = begun(loaded, rows, SAMPLED)
    first, second = plain.rows[0].token_ids, plain.rows[1].token_ids
    end = next(token for n, token in enumerate(second) if n > 2 and token not in (*first, *second[:n]))
    params = SAMPLED | {"eos_token_id": [end]}
    parent = begun(loaded, rows, params)
    length = len(parent.rows[1].token_ids)
    assert parent.rows[1].fed is not None
    ours, steps = branch(parent, 5 + length - 2, row=1, token_ids=((end + 1) % loaded.info.output_size,))
    assert ours.reused == 0
    check(ours, steps, parent, 1)
    weights = ours.answer(AttentionQuery(1, 0, branch_id=1)).weights
    _, session = fresh(loaded, rows, 1, ours.rows[0].token_ids, ours.spec.params, seed=3)
    assert np.allclose(weights, session.answer(AttentionQuery(0, 0, row=1)).weights[:, : weights.shape[1]], atol=1e-4)


def test_views_reach_back_through_the_parting(loaded: LoadedModel) -> None:
    parent = begun(loaded, [prompt_of(loaded, 8)], SAMPLED)
    ours, _ = branch(parent, 8 + 6, token_ids=(17,))
    said = ours.rows[0].token_ids
    _, session = fresh(loaded, [prompt_of(loaded, 8)], 0, said, ours.spec.params, seed=3)
    for layer in range(loaded.info.layers):
        mine, theirs = (s.answer(AttentionQuery(1, layer)).weights for s in (ours, session))
        assert np.allclose(mine, theirs, atol=1e-4)
    everything = loaded.info.output_size
    for position in (3, 8 + 5, 8 + 6, 8 + 10):
        mine, theirs = (s.answer(DistributionQuery(1, position, top=everything)) for s in (ours, session))
        order = np.argsort(mine.token_ids), np.argsort(theirs.token_ids)
        assert np.allclose(mine.logprob[order[0]], theirs.logprob[order[1]], atol=1e-4)


def test_a_stop_string_may_begin_before_the_parting(tiny_gpt2: LoadedModel) -> None:
    parent = begun(tiny_gpt2, [tiny_gpt2.text.encode("Once upon a time there was")], {"max_new_tokens": 12})
    words = parent.rows[0].token_ids
    text = tiny_gpt2.text.piece(words[3]) + tiny_gpt2.text.piece(words[4])
    stop = {"stop_strings": (text[2:-1],)}
    length = len(parent.rows[0].prompt.token_ids)
    ours, steps = branch(parent, length + 4, params=stop)
    assert ours.result().finish_reason == "stop"
    assert len(ours.rows[0].token_ids) == 5
    check(ours, steps, parent)


def test_a_character_may_be_cut_by_the_parting(random_gpt2: LoadedModel) -> None:
    parent = begun(random_gpt2, [prompt_of(random_gpt2, 4)], {"max_new_tokens": 10})
    snowman = random_gpt2.text.encode("☃")
    assert len(snowman) == 3
    cut, _ = branch(parent, 4 + 2, token_ids=(*snowman[:2], 30))
    whole, steps = branch(cut, 4 + 4, 2, token_ids=(snowman[2],))
    assert steps[0].text.endswith("☃")
    check(whole, steps, parent)


def test_the_prompt_can_be_edited_and_what_is_the_same_is_not_fed_again(loaded: LoadedModel) -> None:
    prompt = prompt_of(loaded, 10)
    parent = begun(loaded, [prompt], SAMPLED)
    other = (prompt[6] + 1) % loaded.info.output_size
    ours, steps = branch(parent, 6, token_ids=(other, *prompt[7:]))
    assert list(ours.started.rows[0].token_ids) == [*prompt[:6], other, *prompt[7:]]
    assert (ours.reused, ours.kept_tokens) == (6, 0)
    check(ours, steps, parent)
    again, _ = branch(parent, 6, 2, token_ids=tuple(prompt[6:]))
    assert again.reused == 9
    assert again.result().sequences == parent.result().sequences


def test_interventions_of_an_edit_act_from_where_it_was_made(loaded: LoadedModel) -> None:
    prompt, mute = prompt_of(loaded, 10), (ScaleHeads(0, (0,)), ScaleHeads(1, (1,)))
    parent = begun(loaded, [prompt], SAMPLED)
    ours, steps = branch(parent, 4, token_ids=tuple(prompt[4:]), interventions=mute)
    assert ours.reused == 4  # the same tokens, fed under something else
    check(ours, steps, parent, since=((0, ()), (4, mute)))
    again, steps = branch(ours, 7, 2, token_ids=tuple(prompt[7:]))
    assert again.reused == 9  # under the same
    check(again, steps, parent, since=((0, ()), (4, mute)))


def test_what_a_branch_has_of_its_parent_is_fed_again_as_it_was(loaded: LoadedModel) -> None:
    parent, mute = begun(loaded, [prompt_of(loaded, 10)], SAMPLED), (ScaleHeads(0, (0,)), ScaleHeads(1, (1,)))
    give_up_cache(parent)
    ours, _ = begin_branch(parent, StartBranch(parent.run_id, 1, 14))
    assert ours.reused == 0
    ours.set_interventions(mute, 1)  # from its own first position on, although none is in its cache yet
    check(ours, advance(ours), parent, since=((0, ()), (13, mute)))


def test_a_rewind_into_the_prompt_continues_what_is_left_of_it(loaded: LoadedModel) -> None:
    parent = begun(loaded, [prompt_of(loaded, 10)], SAMPLED)
    ours, steps = branch(parent, 4)
    assert ours.reused == 3
    check(ours, steps, parent)


def test_text_is_put_there_as_the_tokens_that_continue_it(tiny_gpt2: LoadedModel) -> None:
    prompt = tiny_gpt2.text.encode("Once upon a time")
    parent = begun(tiny_gpt2, [prompt], GREEDY)
    ours, _ = branch(parent, len(prompt), text=", a dragon")
    assert ours.rows[0].text.startswith(", a dragon")
    assert list(ours.rows[0].token_ids[:3]) == tiny_gpt2.text.encode(", a dragon")[:3]
    edited, _ = branch(parent, 2, 2, text=" the moon there lived")
    assert edited.started.rows[0].rendered == "Once upon the moon there lived"


@pytest.mark.parametrize(
    "params",
    [
        {"do_sample": False, "penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "low"},
        {"dola_layers": (1,), "do_sample": True},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_early_exit": 1, "do_sample": True},
        {"guidance_scale": 1.6, "do_sample": True},
    ],
    ids=["contrastive", "dola", "dola sampled", "lookup", "early exit", "guided"],
)
def test_modes_with_a_state_of_their_own(random_llama: LoadedModel, params: dict[str, Any]) -> None:
    params = {"max_new_tokens": 12, **params}
    parent = begun(random_llama, [prompt_of(random_llama, 8)], params)
    said = parent.rows[0].token_ids
    for number, kept in enumerate((0, 5), start=1):
        ours, steps = branch(parent, 8 + kept, number, token_ids=((said[kept] + 1) % 300,))
        again, _ = fresh(
            random_llama, [prompt_of(random_llama, 8)], 0, [*said[:kept], steps[0].token_id], params, seed=3
        )
        if "assistant_early_exit" not in params:  # what is drafted depends on where a pass began
            assert [s.token_id for s in steps] == [s.token_id for s in again[kept:]]
        assert ours.result().new_tokens == 12
    assert_no_hooks(random_llama.module)


def test_a_draft_model_reads_the_beginning_once(random_llama: LoadedModel) -> None:
    greedy = {"max_new_tokens": 14, "do_sample": False}
    params = {**greedy, "num_assistant_tokens": 3, "assistant_confidence_threshold": 0.0}
    prompt = prompt_of(random_llama, 8)
    spec = RunSpec((Prompt(ids=tuple(prompt)),), params, assistant=ModelSpec("draft"), seed=3)
    parent = Session(random_llama, spec, assistant=random_llama, run_id=1)
    advance(parent)
    session, _ = begin_branch(parent, StartBranch(1, 1, 8 + 6, token_ids=(33,)))
    assert isinstance(session.mode, Assisted)
    assert isinstance(session.mode.draft, ModelDraft)
    assert cache_length(session.mode.draft.cache) == 8 + 6 - 1
    advance(session)
    alone, _ = fresh(random_llama, [prompt], 0, [*parent.rows[0].token_ids[:6], 33], greedy)
    assert list(session.rows[0].token_ids) == [step.token_id for step in alone]


def test_the_negative_prompts_stream_is_not_fed_again(random_llama: LoadedModel) -> None:
    params = {"guidance_scale": 1.6, "do_sample": True, "max_new_tokens": 12}
    negative = Prompt(ids=(4, 5, 6, 7))
    parent = open_session(random_llama, [prompt_of(random_llama, 8)], params, seed=3, negative_prompt=negative)
    advance(parent)
    session, _ = begin_branch(parent, StartBranch(1, 1, 8 + 6, token_ids=(33,)))
    assert session.guidance is not None
    assert session.guidance.fed == 4 + 6 - 1
    steps = advance(session)
    check(session, steps, parent, negative_prompt=negative)
    for position in (8 + 2, 8 + 9):  # the stream's records reach back through the parting
        replayed = session.answer(WaterfallQuery(1, position))
        assert replayed.token_id in (None, session.rows[0].token_ids[position - 8 + 1])
        assert "guidance_scale" in [stage.name for stage in replayed.stages]


def test_a_grammar_goes_on_from_what_was_said(tiny_gpt2: LoadedModel) -> None:
    pytest.importorskip("llguidance")
    from core.contract import Grammar

    grammar = Grammar("regex", "(yes|no)( yes| no){6}")
    parent = open_session(tiny_gpt2, [[10, 11, 12]], SAMPLED | {"max_new_tokens": 60}, grammar=grammar, seed=3)
    advance(parent)
    ours, steps = branch(parent, 3 + 2)
    assert ours.result().sequences == parent.result().sequences
    assert [s.allowed_tokens for s in steps] != [None] * len(steps)


def test_nothing_in_common_is_copied_or_fed_twice(random_llama: LoadedModel) -> None:
    parent = begun(random_llama, [prompt_of(random_llama, 40)], {"max_new_tokens": 20})
    before = parent.trace.nbytes
    session, started = begin_branch(parent, StartBranch(1, 1, 50))
    assert set(storages(session.cache)) == set(storages(parent.cache))
    assert session.trace.own_nbytes == 0
    assert (started.reused_positions, started.recomputed_positions) == (49, 1)
    kept = [layer.keys.clone() for layer in parent.cache.layers]
    advance(session)
    assert all((a == b.keys).all() for a, b in zip(kept, parent.cache.layers, strict=True))
    assert parent.trace.nbytes == before
    assert set(storages(session.cache)).isdisjoint(storages(parent.cache))


def test_what_was_given_up_is_the_same_again(loaded: LoadedModel) -> None:
    parent = begun(loaded, [prompt_of(loaded, 9)], SAMPLED)
    ours, _ = begin_branch(parent, StartBranch(1, 1, 9 + 5, token_ids=(21,)))
    advance(ours, 3)
    weights = ours.answer(AttentionQuery(1, 1)).weights
    for give_up, least in ((give_up_cache, 0), (lambda run: give_up_records(run, 0), 1)):
        give_up(ours)
        assert cache_length(ours.cache) == 0
        assert take_cache(ours, (parent,)) >= 9 + 5 - least
        while ours.refill_to:
            with ours.attached():
                ours.advance()
        assert np.allclose(ours.answer(AttentionQuery(1, 1)).weights, weights, atol=1e-5)
    steps = advance(ours)
    theirs, session = fresh(loaded, [prompt_of(loaded, 9)], 0, ours.rows[0].token_ids[:6], ours.spec.params, seed=3)
    assert_same_steps(steps, theirs[8:])
    assert_same_cache(ours, session)


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"position": 99}, PromptError, "no position 99"),
        ({"position": -1}, PromptError, "no position -1"),
        ({"position": 8, "row": 4}, PromptError, "no row 4"),
        ({"position": 8, "token_ids": (10**6,)}, ParameterError, "1000000 does not exist"),
        ({"position": 8, "token_ids": (-1,)}, ParameterError, "-1 does not exist"),
        ({"position": 0}, PromptError, "Nothing would be left"),
        ({"position": 6 + 14}, ParameterError, "max_new_tokens is 14"),
        ({"position": 7, "token_ids": tuple(range(20))}, ParameterError, "max_new_tokens is 14"),
        ({"position": 8, "params": {"num_beams": 3}}, ParameterError, "Beams"),
        ({"position": 8, "params": {"temperature": -1}}, ParameterError, "temperature"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    random_gpt2: LoadedModel, how: dict[str, Any], error: type[Exception], says: str
) -> None:
    parent = begun(random_gpt2, [prompt_of(random_gpt2, 6)], SAMPLED)
    before = parent.result(), cache_length(parent.cache), parent.trace.nbytes
    with pytest.raises(error, match=says):
        begin_branch(parent, StartBranch(1, 1, **how))
    assert (parent.result(), cache_length(parent.cache), parent.trace.nbytes) == before


def test_a_script_has_branches_too(tiny_gpt2: LoadedModel) -> None:
    import core
    from tests.conftest import TINY_GPT2

    first = core.run(TINY_GPT2, "Once upon a time", params=SAMPLED | {"eos_token_id": ()}, seed=2, dtype="fp32")
    length = len(first.sequences[0]) - 14
    other = core.branch(first, length + 5, text=" dragon")
    assert other.sequences[0][: length + 5] == first.sequences[0][: length + 5]
    assert [step.id.index for step in other.steps] == list(range(14))
    assert other.text.startswith(first.text[: other.text.index(" dragon")])
    assert other.attention(0).shape[2] == len(other.sequences[0]) - 1
    assert np.allclose(other.logits(3), first.logits(3), atol=1e-4)
    again = core.branch(other, length + 2, row=0)
    assert again.sequences == first.sequences
    with pytest.raises(core.contract.PromptError):
        core.branch(first, 99)
    ids = np.array(first.sequences[0])
    same = core.branch(first, np.int64(length + 1), token_ids=ids[length + 1 : length + 3], reroll=np.int64(0))
    assert same.sequences == first.sequences
    for wrong in (
        {"position": 4.0}, {"position": True}, {"position": -1}, {"token_ids": [5.7]}, {"token_ids": ["a"]},
        {"reroll": -1}, {"reroll": 0.5}, {"row": "0"}, {"breakpoints": ["text~("]}, {"breakpoints": [TextMatches("(")]},
    ):  # fmt: skip
        with pytest.raises((ParameterError, PromptError)):
            core.branch(first, **{"position": length, **wrong})


def test_a_beam_and_torchs_draws_have_no_branches(random_gpt2: LoadedModel) -> None:
    beams = begun(random_gpt2, [prompt_of(random_gpt2, 6)], {"num_beams": 3, "max_new_tokens": 5})
    with pytest.raises(ParameterError, match="Beams"):
        begin_branch(beams, StartBranch(1, 1, 7))
    half = begun(random_gpt2, [prompt_of(random_gpt2, 6)], {"num_beams": 3, "max_new_tokens": 5}, 3)
    with pytest.raises(ParameterError, match="Beams are chosen together"):  # at a token that a beam has said
        begin_branch(half, StartBranch(1, 1, 8))
    torchs = open_session(random_gpt2, [prompt_of(random_gpt2, 6)], SAMPLED, draw_source="torch")
    advance(torchs)
    with pytest.raises(ParameterError, match="draw_source"):
        begin_branch(torchs, StartBranch(1, 1, 8))
