"""Interventions against oracles: changed weights, a mask, hand-written passes, a vector added by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from core.contract import (
    AttentionQuery,
    AttributionQuery,
    DeletePositions,
    DistributionQuery,
    InterventionQuery,
    MutePositions,
    ScaleHeads,
    SkipPart,
    StartBranch,
    Steer,
    ViewUnavailableError,
    WatchQuery,
)
from core.decode.branch import begin_branch, give_up_cache, take_cache
from core.decode.session import Session
from core.models.block import find_parts
from core.models.loaded import LoadedModel
from tests.leaks import assert_no_hooks
from tests.parity.reference import Ours, full_logits, open_session, plain, prompt_of, run, twin

CLOSE = 2e-4


def layers_of(model: Any) -> Sequence[nn.Module]:
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList))


def recorded_logits(ours: Ours, row: int = 0) -> torch.Tensor:
    """(T, V) after every fed position of a row, out of the record."""
    recording, strand = ours.session.recording(), ours.session.rows[row].strand()
    with torch.inference_mode():
        stream = recording.residuals(recording.info.layers, strand, 0, recording.positions(strand))
        return recording.anatomy.read_out(stream)


def changed(loaded: LoadedModel, change: Callable[[Any], None]) -> LoadedModel:
    """A copy of the model with other weights."""
    copy = twin(loaded)
    with torch.no_grad():
        change(copy.module)
    return copy


@contextmanager
def wrapped(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward, called with the module's own."""
    own = module.forward
    module.forward = lambda *args, **kwargs: forward(own, *args, **kwargs)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward


@pytest.mark.parametrize("factor", [0.0, 0.5, -2.0])
def test_scaling_heads_equals_scaled_slices_of_the_projection(loaded: LoadedModel, factor: float) -> None:
    heads, width = (0, 2), loaded.info.head_dim

    def scale(model: Any) -> None:
        projection = find_parts(layers_of(model)[1]).projection
        for head in heads:
            part = slice(head * width, (head + 1) * width)
            if isinstance(projection, nn.Linear):
                projection.weight[:, part] *= factor
            else:  # GPT-2's and ImageGPT's Conv1D is the transpose
                projection.weight[part] *= factor

    ours = run(loaded, [prompt_of(loaded, 9)], interventions=(ScaleHeads(1, heads, factor),))
    theirs = full_logits(changed(loaded, scale), ours.sequences[0][:-1])
    assert (recorded_logits(ours) - theirs).abs().max() < CLOSE
    assert (full_logits(loaded, ours.sequences[0][:-1]) - theirs).abs().max() > 0.05
    assert_no_hooks(loaded.module)


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_a_skipped_part_adds_nothing(loaded: LoadedModel, part: Any) -> None:
    ours = run(loaded, [prompt_of(loaded, 9)], interventions=(SkipPart(1, part),))
    copy = twin(loaded)
    parts = find_parts(layers_of(copy.module)[1])
    module = parts.attention if part == "attention" else parts.mlp

    def nothing(own: Any, *args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    with wrapped(module, nothing):
        theirs = full_logits(copy, ours.sequences[0][:-1])
    assert (recorded_logits(ours) - theirs).abs().max() < CLOSE
    recording, strand = ours.session.recording(), ours.session.rows[0].strand()
    own = [recording.residuals(n, strand, 0, 9) for n in (1, 2)]
    if part == "mlp":  # the record is of what ran: only attention is left between the two
        assert (own[1] - own[0]).abs().max() > 0
    assert_no_hooks(loaded.module)


def test_steering_equals_adding_the_difference_of_two_residuals_by_hand(loaded: LoadedModel) -> None:
    toward, away = tuple(prompt_of(loaded, 4, 7)), tuple(prompt_of(loaded, 5, 8))
    ours = run(loaded, [prompt_of(loaded, 9)], interventions=(Steer(1, 1.5, toward, away),))
    seen: list[torch.Tensor] = []
    layer = layers_of(loaded.module)[1]
    handle = layer.register_forward_pre_hook(lambda m, args: seen.append(args[0][0, -1]))
    for ids in (toward, away):
        full_logits(loaded, ids)
    handle.remove()
    vector = 1.5 * (seen[0] - seen[1])
    copy = twin(loaded)
    with wrapped(layers_of(copy.module)[1], lambda own, x, *args, **kwargs: own(x + vector, *args, **kwargs)):
        theirs = full_logits(copy, ours.sequences[0][:-1])
    assert (recorded_logits(ours) - theirs).abs().max() < 1e-4
    assert (full_logits(loaded, ours.sequences[0][:-1]) - theirs).abs().max() > 0.05  # it does something
    given = run(loaded, [prompt_of(loaded, 9)], interventions=(Steer(1, 1.0, vector=tuple(vector.tolist())),))
    assert given.sequences == ours.sequences
    assert_no_hooks(loaded.module)


def test_steering_by_texts_from_a_step_on_leaves_what_was_before(tiny_gpt2: LoadedModel) -> None:
    toward, away, scale, layer = "The queen was happy", "The king was sad", 3.0, 2
    session = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 9)], {"max_new_tokens": 8})
    with session.attached():
        while not session.finished:
            session.advance()
            if session.new_tokens == 3 and session.epoch == 0:
                session.set_interventions((Steer(layer, scale, toward, away),), 1)
    ids = list(session.result().sequences[0])
    with plain(twin(tiny_gpt2)) as model:
        ends = [
            model(input_ids=torch.tensor([tiny_gpt2.text.encode(text)]), output_hidden_states=True).hidden_states
            for text in (toward, away)
        ]
    vector = scale * (ends[0][layer][0, -1] - ends[1][layer][0, -1])

    def steered(own: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        late = (torch.arange(x.shape[1]) >= 9 + 2)[:, None]  # the third token is fed under it
        return own(x + late * vector, *args, **kwargs)

    copy = twin(tiny_gpt2)
    with wrapped(layers_of(copy.module)[layer], steered):
        theirs = full_logits(copy, ids[:-1])
    logits = logits_of(session)
    assert (logits - theirs).abs().max() < 1e-4
    assert (logits[:11] - full_logits(tiny_gpt2, ids[:-1])[:11]).abs().max() < 1e-4
    assert (logits[11:] - full_logits(tiny_gpt2, ids[:-1])[11:]).abs().max() > 0.05


def masked_logits(loaded: LoadedModel, ids: Sequence[int], muted: Sequence[int], padding: int = 0) -> torch.Tensor:
    """(T, V) of one pass with zeros in the attention mask, padding cut off again."""
    with plain(loaded) as model:
        tokens = torch.tensor([[0] * padding + list(ids)])
        mask = torch.ones_like(tokens)
        mask[0, :padding] = 0
        mask[0, [padding + p for p in muted]] = 0
        places = (torch.arange(tokens.shape[1])[None] - padding).clamp(min=0)
        output = model(input_ids=tokens, attention_mask=mask, position_ids=places, use_cache=False)
        return output.logits[0, padding:].float()


def test_muted_positions_equal_a_run_with_that_mask(loaded: LoadedModel) -> None:
    muted = (2, 5)
    ours = run(loaded, [prompt_of(loaded, 9)], interventions=(MutePositions(0, muted),))
    theirs = masked_logits(loaded, ours.sequences[0][:-1], muted)
    others = [p for p in range(len(theirs)) if p not in muted]
    assert (recorded_logits(ours)[others] - theirs[others]).abs().max() < CLOSE
    weights = ours.session.answer(AttentionQuery(1, 1)).weights
    assert weights[:, :, muted].max() == 0
    assert abs(weights[:, others].sum(-1) - 1).max() < 1e-5


def test_only_the_row_that_is_meant_loses_positions(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 9), prompt_of(loaded, 6, 3)]
    ours = run(loaded, rows, interventions=(MutePositions(1, (1, 2)), ScaleHeads(0, (1,))))
    copy = changed(loaded, lambda model: _mute(model, 0, 1, loaded.info.head_dim))
    first, second = (ids[:-1] for ids in ours.sequences)
    assert (recorded_logits(ours, 0) - full_logits(copy, first)).abs().max() < CLOSE
    theirs = masked_logits(copy, second, (1, 2), padding=3)
    others = [0, *range(3, len(theirs))]
    assert (recorded_logits(ours, 1)[others] - theirs[others]).abs().max() < CLOSE
    assert ours.session.answer(AttentionQuery(1, 1, row=1)).weights[:, :, [1, 2]].max() == 0
    assert ours.session.answer(AttentionQuery(1, 1, row=0)).weights[:, 3:, [1, 2]].max() > 0


def _mute(model: Any, layer: int, head: int, width: int) -> None:
    projection = find_parts(layers_of(model)[layer]).projection
    part = slice(head * width, (head + 1) * width)
    if isinstance(projection, nn.Linear):
        projection.weight[:, part] = 0
    else:
        projection.weight[part] = 0


def halfway(loaded: LoadedModel, **spec: Any) -> tuple[Session, Ours]:
    """A run that loses a head after four tokens and gets it back after eight."""
    session = open_session(loaded, [prompt_of(loaded, 9)], {"max_new_tokens": 12}, **spec)
    with session.attached():
        while not session.finished:
            session.advance()
            if session.new_tokens == 4 and session.epoch == 0:
                applied = session.set_interventions((ScaleHeads(0, (1,)), SkipPart(2 % loaded.info.layers, "mlp")), 1)
                assert (applied.index, applied.epoch) == (4, 1)
            if session.new_tokens == 8 and session.epoch == 1:
                session.set_interventions((), 2)
    return session, Ours(session, [], [], session.result())


def test_interventions_act_from_the_next_position_and_records_fed_again_agree(loaded: LoadedModel) -> None:
    session, ours = halfway(loaded)
    ids, logits = ours.sequences[0], recorded_logits(ours)
    untouched = run(loaded, [ids[:9]], {"max_new_tokens": 12}).sequences[0]
    assert ids[:13] == untouched[:13]  # the fourth token is fed afterwards, and decides the fifth
    assert (logits[:12] - full_logits(loaded, ids[:12])).abs().max() < CLOSE
    assert (logits[12:16] - full_logits(loaded, ids[:16])[12:]).abs().max() > 0.01
    with torch.inference_mode():
        _, trace, strand = session.feed_again(session.rows[0].strand(), 0, len(ids) - 1)
        again = session.forward.anatomy.read_out(trace.residuals(loaded.info.layers, 0, len(ids) - 1, strand.path))
    assert (again - logits).abs().max() < CLOSE
    assert_no_hooks(loaded.module)


def test_a_preview_is_what_the_next_step_would_have_computed(loaded: LoadedModel) -> None:
    asked = (ScaleHeads(0, (1, 3), 0.0), ScaleHeads(1, (0,), 3.0))
    plain_run, position = run(loaded, [prompt_of(loaded, 9)], {"max_new_tokens": 6}), 11
    answer = plain_run.session.answer(InterventionQuery(1, position, asked, top=20))
    ids = plain_run.sequences[0]
    session = open_session(loaded, [ids[:9]], {"max_new_tokens": 6})
    with session.attached():
        while session.new_tokens < 3:
            session.advance()
        session.set_interventions(asked, 1)
        session.advance()
    assert list(session.rows[0].token_ids[:3]) == ids[9:12]
    own = session.answer(DistributionQuery(1, position, top=loaded.info.output_size))
    known = dict(zip(own.token_ids.tolist(), own.logprob.tolist(), strict=True))
    found = [known[i] for i in answer.token_ids.tolist()]
    assert max(abs(a - b) for a, b in zip(found, answer.after.tolist(), strict=True)) < CLOSE
    before = plain_run.session.answer(DistributionQuery(1, position, top=loaded.info.output_size))
    known = dict(zip(before.token_ids.tolist(), before.logprob.tolist(), strict=True))
    assert [known[i] for i in answer.token_ids.tolist()] == pytest.approx(answer.before.tolist(), abs=1e-6)
    assert answer.kl_bits > 0
    assert (
        session.answer(DistributionQuery(1, 10)).token_ids.tolist()
        == plain_run.session.answer(DistributionQuery(1, 10)).token_ids.tolist()
    )
    same = plain_run.session.answer(InterventionQuery(1, position, ()))
    assert same.kl_bits == pytest.approx(0, abs=1e-5)


def test_a_preview_with_several_rows_is_of_the_row_that_is_meant(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 9), prompt_of(loaded, 6, 3)]
    ours = run(loaded, rows, {"max_new_tokens": 4})
    asked = (MutePositions(1, (0, 1)),)
    answer = ours.session.answer(InterventionQuery(1, 7, asked, row=1))
    alone = run(loaded, [ours.sequences[1][:8]], {"max_new_tokens": 1})
    expected = alone.session.answer(InterventionQuery(1, 7, (MutePositions(0, (0, 1)),)))
    assert answer.token_ids.tolist() == expected.token_ids.tolist()
    assert abs(answer.after - expected.after).max() < CLOSE
    assert answer.kl_bits > 1e-4


def test_attribution_counts_a_muted_head_as_nothing(tiny_gpt2: LoadedModel) -> None:
    ours = run(tiny_gpt2, [prompt_of(tiny_gpt2, 9)], interventions=(ScaleHeads(1, (2,)), SkipPart(0, "mlp")))
    answer = ours.session.answer(AttributionQuery(1, 10, ours.sequences[0][11]))
    assert answer.heads[1, 2] == 0
    assert answer.mlp[0] == 0
    parts = answer.embedding + answer.attention.sum() + answer.mlp.sum() + answer.between.sum()
    assert parts + answer.bias + answer.rounding == pytest.approx(answer.logit, abs=1e-3)


@pytest.mark.parametrize(
    "mode", [{"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 4}, {"prompt_lookup_num_tokens": 3}]
)
def test_other_modes_run_under_interventions_as_on_the_changed_model(
    random_llama: LoadedModel, mode: dict[str, Any]
) -> None:
    copy = changed(random_llama, lambda model: _mute(model, 1, 4, random_llama.info.head_dim))
    ours = run(random_llama, [prompt_of(random_llama, 9)], mode, interventions=(ScaleHeads(1, (4,)),))
    assert ours.sequences == run(copy, [prompt_of(random_llama, 9)], mode).sequences


def test_muted_positions_hold_in_a_batch_whose_rows_leave(random_gpt2: LoadedModel) -> None:
    rows = [prompt_of(random_gpt2, 6), prompt_of(random_gpt2, 9, 1), prompt_of(random_gpt2, 4, 2)]
    first = run(random_gpt2, rows, {"max_new_tokens": 8}).sequences[0][8]
    asked = (MutePositions(2, (1, 2)),)
    ours = run(random_gpt2, rows, {"max_new_tokens": 8, "eos_token_id": (first,)}, interventions=asked)
    assert len(ours.sequences[0]) < len(ours.sequences[2])
    alone = run(
        random_gpt2,
        rows[2:],
        {"max_new_tokens": 8, "eos_token_id": (first,)},
        interventions=(MutePositions(0, (1, 2)),),
    )
    assert ours.sequences[2] == alone.sequences[0]


def test_a_chat_turn_does_not_reuse_what_was_fed_under_other_interventions(tiny_gpt2: LoadedModel) -> None:
    ids = prompt_of(tiny_gpt2, 9)
    before = run(tiny_gpt2, [ids], interventions=(ScaleHeads(1, (2,)),))
    spec = open_session(tiny_gpt2, [before.sequences[0]], reuse_prefix=True).spec
    assert Session(tiny_gpt2, spec, before=before.session).started.reused_positions == 0
    halfway_session, ours = halfway(tiny_gpt2)
    spec = open_session(tiny_gpt2, ours.sequences, reuse_prefix=True).spec
    assert Session(tiny_gpt2, spec, before=halfway_session).started.reused_positions == 12
    same = open_session(tiny_gpt2, [before.sequences[0]], reuse_prefix=True, interventions=(ScaleHeads(1, (2,)),)).spec
    assert Session(tiny_gpt2, same, before=before.session).started.reused_positions == 20


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (ScaleHeads(99, (0,)), "no layer 99"),
        (ScaleHeads(0, (99,)), "no head 99"),
        (ScaleHeads(0, ()), "no head given"),
        (ScaleHeads(0, (0,), float("nan")), "factor"),
        (SkipPart(-1, "mlp"), "no layer -1"),
        (Steer(0, 1.0), "prompt to steer toward"),
        (Steer(0, 1.0, vector=(1.0,)), "1 numbers"),
        (Steer(0, 1.0, (10**9,)), "Token id 1000000000"),
        (MutePositions(3, (0,)), "no row 3"),
        (MutePositions(0, (-1,)), "counted from 0"),
        (DeletePositions(3, (0,)), "no row 3"),
        (DeletePositions(0, ()), "to delete are counted from 0"),
    ],
)
def test_what_a_model_has_not_is_refused_in_a_sentence(tiny_gpt2: LoadedModel, wrong: Any, words: str) -> None:
    from core.contract import TokenglassError

    session = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 5)])
    with pytest.raises(TokenglassError, match=words):
        session.set_interventions((wrong,), 1)
    assert session.acts.now.asked == ()
    assert session.epoch == 0
    with pytest.raises(TokenglassError, match=words):
        open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 5)], interventions=(wrong,))


def test_watched_tokens_are_as_probable_as_in_a_plain_pass(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 9), prompt_of(loaded, 6, 3)]
    ours = run(loaded, rows)
    ids, tokens = ours.sequences[1][:-1], (3, 17, 0)
    answer = ours.session.answer(WatchQuery(1, tokens, (2, None), row=1))
    logprobs = torch.log_softmax(full_logits(loaded, ids), dim=-1)[2:]
    assert answer.positions == (2, len(ids))
    assert answer.token_ids == tokens
    for k, token in enumerate(tokens):
        assert abs(answer.logprob[k] - logprobs[:, token].numpy()).max() < CLOSE
        above = (logprobs > logprobs[:, token : token + 1] + CLOSE).sum(1).numpy()
        near = (logprobs > logprobs[:, token : token + 1] - CLOSE).sum(1).numpy()
        assert ((above <= answer.rank[k]) & (answer.rank[k] < near)).all()


def test_a_text_is_watched_by_its_first_token_and_wrong_tokens_are_told(tiny_gpt2: LoadedModel) -> None:
    session = run(tiny_gpt2, [prompt_of(tiny_gpt2, 5)], {"max_new_tokens": 2}).session
    answer = session.answer(WatchQuery(1, (" the dog",), (0, 3)))
    assert answer.pieces == (tiny_gpt2.text.piece(tiny_gpt2.text.encode(" the dog")[0]),)
    for wrong, words in (((), "No token is watched"), ((10**6,), "no token 1000000"), (("",), "is no token")):
        with pytest.raises(ViewUnavailableError, match=words):
            session.answer(WatchQuery(1, wrong, (0, None)))


def test_a_preview_where_records_were_dropped_feeds_them_again(tiny_gpt2: LoadedModel) -> None:
    prompt, asked = prompt_of(tiny_gpt2, 40), (ScaleHeads(2, (0, 1)),)
    whole = run(tiny_gpt2, [prompt], {"max_new_tokens": 4}, prefill_chunk=20)
    poor = run(tiny_gpt2, [prompt], {"max_new_tokens": 4}, prefill_chunk=20, trace_budget_bytes=1)
    with pytest.raises(ViewUnavailableError):
        poor.session.answer(DistributionQuery(1, 10))
    ours, theirs = (one.session.answer(InterventionQuery(1, 10, asked)) for one in (poor, whole))
    assert ours.token_ids.tolist() == theirs.token_ids.tolist()
    assert abs(ours.after - theirs.after).max() < CLOSE
    assert abs(ours.before - theirs.before).max() < CLOSE


def test_guidance_and_a_changed_model_agree(tiny_gpt2: LoadedModel) -> None:
    copy = changed(tiny_gpt2, lambda model: _mute(model, 1, 2, tiny_gpt2.info.head_dim))
    guided = {"guidance_scale": 1.7}
    ours = run(tiny_gpt2, [prompt_of(tiny_gpt2, 9)], guided, interventions=(ScaleHeads(1, (2,)),))
    assert ours.sequences == run(copy, [prompt_of(tiny_gpt2, 9)], guided).sequences


def test_a_pass_that_is_broken_off_leaves_no_hook_of_an_intervention(tiny_gpt2: LoadedModel) -> None:
    spec = open_session(
        tiny_gpt2, [prompt_of(tiny_gpt2, 9)], interventions=(ScaleHeads(1, (2,)), SkipPart(2, "mlp"))
    ).spec
    looks = iter([False] * 10 + [True] * 100)
    session = Session(tiny_gpt2, spec, run_id=1, cancelled=lambda: next(looks))
    with session.attached():
        while not session.finished:
            session.advance()
    assert session.result().finish_reason == "cancelled"
    assert_no_hooks(tiny_gpt2.module)


def part(parent: Session, position: int, **command: Any) -> Session:
    """A branch, run to its end."""
    branch, _ = begin_branch(parent, StartBranch(1, parent.branch_id + 1, position, **command))
    with branch.attached():
        while not branch.finished:
            branch.advance()
    return branch


def logits_of(session: Session) -> torch.Tensor:
    return recorded_logits(Ours(session, [], [], session.result()))


def test_a_rewound_step_under_an_intervention_says_what_its_preview_said(loaded: LoadedModel) -> None:
    asked, parent = (ScaleHeads(0, (0, 1)), SkipPart(1, "mlp")), run(loaded, [prompt_of(loaded, 9)])
    preview = parent.session.answer(InterventionQuery(1, 11, asked))
    branch = part(parent.session, 12, interventions=asked)
    assert branch.started.interventions == asked
    assert branch.reused == 11  # the last token kept is fed again, under the interventions
    logits = logits_of(branch)
    assert (logits[:11] - recorded_logits(parent)[:11]).abs().max() < CLOSE
    found = torch.log_softmax(logits[11], dim=-1)[torch.tensor(preview.token_ids)]
    assert (found - torch.tensor(preview.after)).abs().max() < CLOSE
    assert recorded_logits(parent).shape[0] == 20  # the parent is as it was
    assert parent.session.acts.now.asked == ()
    with torch.inference_mode():
        _, trace, strand = branch.feed_again(branch.rows[0].strand(), 0, len(logits))
        again = branch.forward.anatomy.read_out(trace.residuals(loaded.info.layers, 0, len(logits), strand.path))
    assert (again - logits).abs().max() < CLOSE
    back = part(branch, 12, interventions=())  # and away again
    assert back.result().sequences[0] == parent.finished.sequences[0]
    assert part(branch, 16).acts.now.asked == asked


def test_a_cache_given_up_is_filled_as_it_was(tiny_gpt2: LoadedModel) -> None:
    asked = (ScaleHeads(0, (0, 1)),)
    parent = run(tiny_gpt2, [prompt_of(tiny_gpt2, 9)])
    branch = part(parent.session, 12, interventions=asked)
    weights = branch.answer(AttentionQuery(1, 2, branch_id=1)).weights
    give_up_cache(branch)
    assert take_cache(branch, [parent.session]) == 11  # what came after was fed under other interventions
    with branch.attached():
        while branch.refill_to:
            branch.advance()
    assert abs(branch.answer(AttentionQuery(1, 2, branch_id=1)).weights - weights).max() < CLOSE


def test_a_branch_of_a_row_keeps_the_positions_muted_there(tiny_gpt2: LoadedModel) -> None:
    rows, muted = (
        [prompt_of(tiny_gpt2, 9), prompt_of(tiny_gpt2, 6, 3)],
        (MutePositions(1, (1, 2)), MutePositions(0, (0,))),
    )
    parent = run(tiny_gpt2, rows, interventions=muted)
    branch = part(parent.session, 10, row=1)
    assert branch.acts.now.asked == (MutePositions(0, (1, 2)),)
    assert branch.result().sequences[0] == parent.finished.sequences[1]
    assert branch.answer(AttentionQuery(1, 1, branch_id=1)).weights[:, :, [1, 2]].max() == 0
