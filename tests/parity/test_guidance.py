"""Classifier-free guidance: the tokens of `generate()`, two streams abreast, past steps guided again."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.contract import (
    DistributionQuery,
    FinishReason,
    ParameterError,
    Prompt,
    PromptError,
    StartBranch,
    StepSnapshot,
    ViewUnavailableError,
    WaterfallQuery,
    parse_intervention,
)
from core.decode.branch import begin_branch, give_up_cache, give_up_records
from core.decode.kv import cache_length
from core.decode.modes import Past
from core.decode.outputs import step_scores
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.leaks import assert_no_hooks
from tests.parity.reference import (
    Ours,
    dense,
    finish,
    full_logits,
    generate,
    open_session,
    prompt_of,
    run,
    twin,
    unpadded,
)

NEW = 12
GUIDED = {"guidance_scale": 2.0, "max_new_tokens": NEW}


def negative_of(loaded: LoadedModel, length: int) -> Prompt:
    return Prompt(ids=tuple(prompt_of(loaded, length, seed=7)))


def expected(
    loaded: LoadedModel, rows: list[list[int]], negative: Prompt | None, copies: int = 1, **params: Any
) -> list[list[int]]:
    """Rows of `generate()`; it wants the negative prompt once a sequence."""
    if negative is not None:
        params["negative_prompt_ids"] = torch.tensor([negative.ids] * (len(rows) * copies))
    sequences = generate(loaded, rows, num_return_sequences=copies, **params).sequences
    return unpadded(rows, sequences, params.get("eos_token_id", ()), copies)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 3.0])
@pytest.mark.parametrize("length", [None, 3, 14])
def test_greedy_tokens_are_those_of_generate(loaded: LoadedModel, scale: float, length: int | None) -> None:
    rows, negative = [prompt_of(loaded, 9)], None if length is None else negative_of(loaded, length)
    params = {"guidance_scale": scale, "max_new_tokens": NEW, "repetition_penalty": 1.1}
    ours = run(loaded, rows, params, negative_prompt=negative, prefill_chunk=5, trace=False)
    assert ours.sequences == expected(loaded, rows, negative, **params)


@pytest.mark.parametrize("seed", range(4))
def test_sampled_tokens_are_those_of_generate(loaded: LoadedModel, seed: int) -> None:
    rows, negative = [prompt_of(loaded, 7, seed=seed)], negative_of(loaded, 5) if seed % 2 else None
    params = {**GUIDED, "do_sample": True, "temperature": 1.3, "top_k": 40, "top_p": 0.95}
    ours = run(loaded, rows, params, seed=seed, draw_source="torch", negative_prompt=negative)
    assert ours.sequences == expected(loaded, rows, negative, seed=seed, **params)


def test_several_draws_of_one_prompt_are_those_of_generate(loaded: LoadedModel) -> None:
    rows, negative = [prompt_of(loaded, 6)], negative_of(loaded, 4)
    params = {**GUIDED, "do_sample": True, "top_k": 0}
    ours = run(
        loaded, rows, {**params, "num_return_sequences": 3}, seed=2, draw_source="torch", negative_prompt=negative
    )
    assert ours.sequences == expected(loaded, rows, negative, copies=3, seed=2, **params)


@pytest.mark.parametrize("length", [None, 6])
def test_each_row_of_a_shrinking_batch_says_what_it_says_alone(loaded: LoadedModel, length: int | None) -> None:
    rows, negative = [prompt_of(loaded, n) for n in (9, 4, 12)], None if length is None else negative_of(loaded, length)
    alone = [run(loaded, [row], GUIDED, negative_prompt=negative).sequences[0][len(row) :] for row in rows]
    params = {**GUIDED, "eos_token_id": [alone[1][3], alone[2][6]]}
    ours = run(loaded, rows, params, negative_prompt=negative)
    assert ours.sequences == [run(loaded, [row], params, negative_prompt=negative).sequences[0] for row in rows]
    assert ours.sequences == expected(loaded, rows, negative, **params)
    assert guided_again(ours, rows)


def guided_again(ours: Ours, rows: list[list[int]]) -> bool:
    """The final distribution of past steps, from both records."""
    for row, ids in enumerate(rows):
        steps = ours.of_row(row)
        for index in range(0, len(steps) - 1, 2):
            answer = ours.session.answer(DistributionQuery(1, len(ids) - 1 + index, final=True, top=5, row=row))
            assert answer.token_ids[0] == steps[index].token_id
            assert answer.logprob[0] == pytest.approx(steps[index].final_logprob, abs=1e-3)
    return True


def test_what_a_step_tells_is_what_full_passes_give(loaded: LoadedModel) -> None:
    rows, negative = [prompt_of(loaded, 9)], negative_of(loaded, 5)
    ours = run(loaded, rows, GUIDED, negative_prompt=negative, top_logprobs=8)
    new = ours.sequences[0][9:-1]
    main = torch.log_softmax(full_logits(loaded, [*rows[0], *new])[8:], -1)
    second = torch.log_softmax(full_logits(loaded, [*negative.ids, *new])[4:], -1)
    guided = torch.log_softmax(2.0 * (main - second) + second, -1)
    for index, step in enumerate(ours.steps):
        detail = step.guidance
        assert detail is not None
        ids = torch.tensor(detail.token_ids)
        assert len(detail.pieces) == len(ids) == 8
        assert detail.token_ids[0] == step.token_id == int(guided[index].argmax())
        for found, own in ((detail.conditional, main), (detail.unconditional, second), (detail.guided, guided)):
            torch.testing.assert_close(torch.tensor(found), own[index, ids], atol=2e-3, rtol=1e-3)
        assert step.logprob == pytest.approx(float(main[index, step.token_id]), abs=1e-3)
        assert step.top.stages == ("guidance_scale",)


def test_a_chosen_token_is_told_even_if_guidance_finds_it_unlikely(loaded: LoadedModel) -> None:
    params = {**GUIDED, "do_sample": True, "temperature": 30.0, "top_k": 0}
    ours = run(loaded, [prompt_of(loaded, 5)], params, seed=1, top_logprobs=3)
    assert all(step.token_id in step.guidance.token_ids for step in ours.steps if step.guidance)
    assert {len(step.guidance.token_ids) for step in ours.steps if step.guidance} >= {4}
    assert run(loaded, [prompt_of(loaded, 5)], params, seed=1, top_logprobs=0).steps[0].guidance is None


def test_bytes_of_the_second_cache_are_told_apart(loaded: LoadedModel) -> None:
    plain_run = run(loaded, [prompt_of(loaded, 9)], {"max_new_tokens": NEW})
    ours = run(loaded, [prompt_of(loaded, 9)], GUIDED, negative_prompt=negative_of(loaded, 20))
    step, session = ours.steps[-1], ours.session
    assert session.guidance is not None
    assert step.second_cache is not None
    assert step.cache.used_bytes == plain_run.steps[-1].cache.used_bytes
    assert step.second_cache.length == 20 + NEW - 1
    assert step.second_cache.used_bytes == step.second_cache.length * loaded.info.kv_bytes_per_token
    held = sum(
        t.untyped_storage().nbytes() for layer in session.guidance.cache.layers for t in (layer.keys, layer.values)
    )
    assert step.second_cache.allocated_bytes == held
    # One residual a position, and nothing else.
    assert session.guidance.trace is not None
    assert session.guidance.trace.nbytes == (20 + NEW - 1) * loaded.info.hidden_size * 4
    assert step.trace_bytes == session.trace_bytes > plain_run.steps[-1].trace_bytes
    assert plain_run.steps[-1].second_cache is None


def test_prefill_counts_both_prompts(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, 9)], GUIDED, negative_prompt=negative_of(loaded, 7), prefill_chunk=4)
    assert [(p.done, p.total) for p in ours.progress] == [(4, 16), (7, 16), (11, 16), (15, 16), (16, 16)]


@pytest.mark.parametrize("length", [None, 6])
def test_guidance_may_begin_pause_and_change_while_a_run_goes_on(loaded: LoadedModel, length: int | None) -> None:
    prompt, negative = prompt_of(loaded, 9), None if length is None else negative_of(loaded, length)
    session = open_session(loaded, [prompt], {"max_new_tokens": NEW}, negative_prompt=negative)
    steps: list[StepSnapshot] = []
    with session.attached():
        while not session.finished:
            scale = {3: 2.0, 6: 1.0, 9: 3.0}.get(session.new_tokens)
            if scale is not None and session.params.guidance_scale != scale:
                session.set_params({"guidance_scale": scale}, epoch=1)
            steps += [event for event in session.advance() if isinstance(event, StepSnapshot)]
    ids = session.result().sequences[0][9:]
    before = list(negative.ids or ()) if negative is not None else prompt[-1:]
    scales = [1.0] * 3 + [2.0] * 3 + [1.0] * 3 + [3.0] * 3
    main = torch.log_softmax(full_logits(loaded, [*prompt, *ids[:-1]])[8:], -1)
    second = torch.log_softmax(full_logits(loaded, [*before, *ids[:-1]])[len(before) - 1 :], -1)
    for index, scale in enumerate(scales):
        assert ids[index] == int((scale * (main[index] - second[index]) + second[index]).argmax())
        assert (steps[index].guidance is None) == (scale == 1.0)


def test_a_past_step_is_guided_again_under_another_scale(loaded: LoadedModel) -> None:
    rows, negative = [prompt_of(loaded, 9)], negative_of(loaded, 5)
    ours = run(loaded, rows, GUIDED, negative_prompt=negative)
    new = ours.sequences[0][9:]
    main = torch.log_softmax(full_logits(loaded, [*rows[0], *new[:4]])[-1], -1)
    second = torch.log_softmax(full_logits(loaded, [*(negative.ids or ()), *new[:4]])[-1], -1)
    guided = torch.log_softmax(0.5 * (main - second) + second, -1)
    answer = ours.session.answer(WaterfallQuery(1, 12, {"guidance_scale": 0.5}, top=loaded.info.output_size))
    own = guided[torch.tensor(answer.token_ids)]
    torch.testing.assert_close(torch.tensor(answer.final_logprob).exp(), own.exp(), atol=1e-3, rtol=0)
    with pytest.raises(ViewUnavailableError, match="after the prompt, with position 8"):
        ours.session.answer(DistributionQuery(1, 7, final=True))


@pytest.mark.parametrize("mode", [{}, {"penalty_alpha": 0.5, "top_k": 3}], ids=["greedy", "contrastive"])
def test_rows_that_stay_are_guided_again_by_their_own_stream(random_qwen2: LoadedModel, mode: dict[str, Any]) -> None:
    rows, params = [prompt_of(random_qwen2, length, seed=length) for length in (5, 1, 4)], {**GUIDED, **mode}
    eos = [run(random_qwen2, rows, params).sequences[0][5 + 3]]
    ours = run(random_qwen2, rows, {**params, "eos_token_id": eos}, top_logprobs=random_qwen2.info.output_size)
    assert len(ours.of_row(0)) < min(len(ours.of_row(1)), len(ours.of_row(2)))  # the others go on without it
    for row in range(3):
        for step in ours.of_row(row):
            _, final = dense(step, random_qwen2.info.output_size)
            shown = torch.log_softmax(step_scores(ours.session, row, [step.id.index])[0], -1)
            torch.testing.assert_close(shown, final, atol=1e-4, rtol=1e-4)


def test_what_a_branch_of_a_row_that_left_has_in_common_is_guided_again(random_llama: LoadedModel) -> None:
    rows = [prompt_of(random_llama, length, seed=length) for length in (7, 2)]
    longer, said = (ids[len(row) :] for ids, row in zip(run(random_llama, rows, GUIDED).sequences, rows, strict=True))
    last = next(token for token in said if token not in longer and said.index(token) > 2)
    end = said.index(last) + 1  # the shorter row leaves before the other
    ours = run(random_llama, rows, {**GUIDED, "eos_token_id": [last]})
    assert len(ours.of_row(0)) > len(ours.of_row(1)) == end
    branch, _ = begin_branch(ours.session, StartBranch(1, 1, 2 + end - 1, row=1, token_ids=(17,)))
    finish(branch)
    for step in ours.of_row(1)[: end - 1]:
        answer = branch.answer(WaterfallQuery(1, step.id.position - 1, branch_id=1))
        assert answer.token_id == step.token_id
        finals = dict(zip(answer.token_ids.tolist(), answer.final_logprob.tolist(), strict=True))
        assert finals[step.token_id] == pytest.approx(step.final_logprob, abs=1e-4)


def test_what_a_branch_has_in_common_was_guided_under_the_interventions_of_then(random_llama: LoadedModel) -> None:
    rows, mute = [prompt_of(random_llama, length, seed=length) for length in (7, 2)], parse_intervention("heads 0.0,1")
    ours = run(random_llama, rows, GUIDED, interventions=(mute,))
    branch, _ = begin_branch(ours.session, StartBranch(1, 1, 2 + 8, row=1, token_ids=(17,), interventions=()))
    finish(branch)
    for step in ours.of_row(1)[:8]:
        answer = branch.answer(WaterfallQuery(1, step.id.position - 1, branch_id=1))
        finals = dict(zip(answer.token_ids.tolist(), answer.final_logprob.tolist(), strict=True))
        assert finals[step.token_id] == pytest.approx(step.final_logprob, abs=1e-4)


def _guided(session: Session, given_up_at: int | None) -> tuple[list[int], list[float]]:
    """What it says if the interventions end after five tokens; the cache is given up after some."""
    with session.attached():
        steps: list[StepSnapshot] = []
        while not session.finished:
            if len(steps) == 5 and session.acts.now.asked:
                session.set_interventions((), epoch=1)
            if len(steps) == given_up_at and not session.refill_to:
                give_up_cache(session)
                given_up_at = None
            steps += [event for event in session.advance() if isinstance(event, StepSnapshot)]
    return [step.token_id for step in steps], [step.final_logprob for step in steps]


@pytest.mark.parametrize("length", [None, 3, 10])
def test_a_stream_that_was_given_up_is_fed_again_under_the_interventions_of_then(
    random_llama: LoadedModel, length: int | None
) -> None:
    negative = None if length is None else negative_of(random_llama, length)
    more: dict[str, Any] = {"negative_prompt": negative, "interventions": (parse_intervention("heads 0.0,1"),)}
    fresh, again = (open_session(random_llama, [prompt_of(random_llama, 7)], GUIDED, **more) for _ in range(2))
    (tokens, finals), (tokens_again, finals_again) = _guided(fresh, None), _guided(again, 8)
    assert tokens_again == tokens
    assert finals_again == pytest.approx(finals, abs=1e-4)


@pytest.mark.parametrize("lengths", [(7,), (7, 4)])
def test_a_stream_that_begins_late_is_fed_alike_in_a_branch(
    random_llama: LoadedModel, lengths: tuple[int, ...]
) -> None:
    """Interventions had changed before it began, and it is fed from the beginning in both."""
    rows, mute = [prompt_of(random_llama, length) for length in lengths], parse_intervention("heads 0.0,1")
    late = open_session(random_llama, rows, {"max_new_tokens": NEW}, interventions=(mute,))
    steps: list[StepSnapshot] = []
    with late.attached():
        while not late.finished:
            if late.new_tokens == 3 and late.acts.now.asked:
                late.set_interventions((), epoch=1)
            if late.new_tokens == 5 and late.params.guidance_scale == 1:
                late.set_params({"guidance_scale": 2.0}, epoch=2)
            steps += [event for event in late.advance() if isinstance(event, StepSnapshot)]
    row = len(rows) - 1
    if row == 0:
        give_up_cache(late)
    branch, _ = begin_branch(late, StartBranch(1, 1, lengths[row] + 9, row=row, token_ids=(17,)))
    finish(branch)
    for step in [step for step in steps if step.id.row == row][:9]:
        answer = branch.answer(WaterfallQuery(1, step.id.position - 1, branch_id=1))
        finals = dict(zip(answer.token_ids.tolist(), answer.final_logprob.tolist(), strict=True))
        assert finals[step.token_id] == pytest.approx(step.final_logprob, abs=1e-4)


def test_past_steps_are_guided_again_after_the_cache_was_given_up(random_llama: LoadedModel) -> None:
    """Of a branch, too, whose record of the stream continues that of its parent."""
    ours = run(random_llama, [prompt_of(random_llama, 7)], GUIDED, negative_prompt=negative_of(random_llama, 5))
    branch, _ = begin_branch(ours.session, StartBranch(1, 1, 7 + 4, token_ids=(17,)))
    steps, at = list(ours.steps[:4]), 0
    with branch.attached():
        while not branch.finished:
            if branch.new_tokens == 8 and not at:
                give_up_cache(branch)
                at = 1
            steps += [event for event in branch.advance() if isinstance(event, StepSnapshot) and not event.put]
    give_up_cache(branch)
    for step in steps:
        answer = branch.answer(WaterfallQuery(1, step.id.position - 1, branch_id=1))
        finals = dict(zip(answer.token_ids.tolist(), answer.final_logprob.tolist(), strict=True))
        assert finals[step.token_id] == pytest.approx(step.final_logprob, abs=1e-4)
    give_up_records(branch, 8)
    with pytest.raises(ViewUnavailableError, match="were given up to stay within the memory"):
        branch.past_stages(branch.params, Past(branch.rows[0].strand(), 7 + 9))


def test_raw_stays_the_model_s_own(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, 9)], GUIDED, top_logprobs=loaded.info.output_size)
    logits = full_logits(loaded, ours.sequences[0][:-1])
    for index, step in enumerate(ours.steps):
        raw, _ = dense(step, loaded.info.output_size)
        torch.testing.assert_close(raw, torch.log_softmax(logits[8 + index], -1), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("looks", range(1, 20, 3))
def test_stopping_inside_a_layer_leaves_both_streams_level(loaded: LoadedModel, looks: int) -> None:
    whole = run(loaded, [prompt_of(loaded, 9)], GUIDED, negative_prompt=negative_of(loaded, 5))
    config = copy.deepcopy(loaded.module.config.to_dict())
    left = iter(range(looks))
    session = Session(loaded, whole.session.spec, cancelled=lambda: next(left, None) is None)
    stopped = finish(session)
    passes = looks // loaded.info.layers
    steps = max(0, (passes - 2) // 2)  # whole ones, after a pass for each prompt
    fed = (9 + steps if passes >= 2 else 0), (5 + steps if passes >= 1 else 0)
    assert stopped.finished.finish_reason == FinishReason.CANCELLED
    assert session.guidance is not None
    assert session.guidance.trace is not None
    assert session.trace is not None
    assert {layer.get_seq_length() for layer in session.cache.layers} == {fed[0]} == {session.trace.stop}
    assert {layer.get_seq_length() for layer in session.guidance.cache.layers} == {fed[1]}
    assert session.guidance.trace.stop == fed[1]
    assert stopped.sequences[0] == whole.sequences[0][: 9 + stopped.finished.new_tokens]
    assert_no_hooks(loaded.module)
    assert loaded.module.config.to_dict() == config


def test_the_longer_prompt_says_where_positions_end(loaded: LoadedModel) -> None:
    positions = loaded.info.max_positions
    negative = negative_of(loaded, positions - 3)
    rows = [prompt_of(loaded, 4), prompt_of(loaded, positions - 1)]
    ours = run(loaded, rows, {**GUIDED, "max_new_tokens": 30}, negative_prompt=negative, prefill_chunk=positions)
    assert [len(ids) for ids in ours.sequences] == [4 + 4, positions + 1]
    assert set(ours.finished.finish_reasons) == {FinishReason.LENGTH_LIMIT}
    assert ours.session.guidance is not None
    assert cache_length(ours.session.guidance.cache) == positions
    with pytest.raises(PromptError, match=r"The negative prompt cannot be used\. .* (positions|pixels)"):
        open_session(loaded, rows, GUIDED, negative_prompt=negative_of(loaded, positions + 1))
    session = open_session(loaded, rows[:1], {"max_new_tokens": 30}, negative_prompt=negative)
    with session.attached():
        while session.new_tokens < 4:
            session.advance()
        with pytest.raises(ParameterError, match="acts at the next run"):
            session.set_params({"guidance_scale": 2.0}, epoch=1)
        assert session.guidance is None
        session.advance()
    session.cancel()


def test_drafts_cannot_be_guided_and_say_so(loaded: LoadedModel) -> None:
    with pytest.raises(ParameterError, match="does not go with"):
        open_session(loaded, [[1, 2]], {**GUIDED, "prompt_lookup_num_tokens": 3})


def test_an_empty_negative_prompt_is_the_last_token_of_each_prompt(tiny_gpt2: LoadedModel) -> None:
    rows = [prompt_of(tiny_gpt2, 5), prompt_of(tiny_gpt2, 3)]
    empty = run(tiny_gpt2, rows, GUIDED, negative_prompt=Prompt(text=""))
    assert empty.sequences == run(tiny_gpt2, rows, GUIDED).sequences == expected(tiny_gpt2, rows, None, **GUIDED)
    for row, ids in enumerate(rows):
        alone = run(tiny_gpt2, [ids], GUIDED, negative_prompt=Prompt(ids=(ids[-1],)))
        assert alone.sequences == [empty.sequences[row]]
    other = run(tiny_gpt2, rows, GUIDED, negative_prompt=Prompt(ids=(tiny_gpt2.info.bos_token_id or 0,)))
    assert other.sequences != empty.sequences


def test_bf16_runs(random_llama: LoadedModel) -> None:
    loaded = replace(twin(random_llama), dtype=torch.bfloat16)
    loaded.module.to(torch.bfloat16)
    found = run(loaded, [prompt_of(loaded, 9), prompt_of(loaded, 5)], GUIDED, negative_prompt=negative_of(loaded, 3))
    assert [len(ids) for ids in found.sequences] == [9 + NEW, 5 + NEW]


def test_the_waterfall_shows_guidance_and_what_another_scale_would_do(loaded: LoadedModel) -> None:
    rows, negative = [prompt_of(loaded, 9)], negative_of(loaded, 5)
    params = {**GUIDED, "repetition_penalty": 1.2}
    ours = run(loaded, rows, params, negative_prompt=negative)
    for index in (0, 5):
        shown = ours.session.answer(WaterfallQuery(1, 8 + index))
        assert [stage.name for stage in shown.stages] == ["guidance_scale", "repetition_penalty"]
        assert shown.token_id == ours.steps[index].token_id
        off = ours.session.answer(WaterfallQuery(1, 8 + index, {"guidance_scale": 1.0}))
        assert [stage.name for stage in off.stages] == ["repetition_penalty"]
    other = run(loaded, rows, {**params, "guidance_scale": 4.0}, negative_prompt=negative)
    assert ours.session.answer(WaterfallQuery(1, 8, {"guidance_scale": 4.0})).token_id == other.steps[0].token_id
    unguided = run(loaded, rows, {"max_new_tokens": 4}).session
    shown = unguided.answer(WaterfallQuery(1, 9, {"guidance_scale": 4.0}))
    assert not shown.replayable
    assert "was not guided" in shown.reason
