"""Lens, norms and attribution against a plain forward pass with `output_hidden_states` and hooks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from core.contract import (
    AttributionAnswer,
    AttributionQuery,
    HeadsQuery,
    LensAnswer,
    LensQuery,
    NormsAnswer,
    NormsQuery,
    ViewUnavailableError,
)
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, open_session, plain, prompt_of, run, twin

PROMPT, NEW = 17, 5
FED = PROMPT + NEW - 1


@pytest.fixture
def ours(loaded: LoadedModel) -> Ours:
    return run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": NEW}, prefill_chunk=8)


class Plain:
    """Residual stream, logits and the parts of each layer of one pass without a cache."""

    def __init__(self, loaded: LoadedModel, ids: list[int]) -> None:
        copy = twin(loaded)
        self.parts: dict[str, list[torch.Tensor]] = {"attention": [], "mlp": [], "merged": []}
        base = getattr(copy.module, copy.module.base_model_prefix)
        layers = base.h if hasattr(base, "h") else base.layers
        norm = base.ln_f if hasattr(base, "ln_f") else base.norm
        entering: list[torch.Tensor] = []
        hooks = [norm.register_forward_pre_hook(lambda m, args: entering.append(args[0][0]))]
        for layer in layers:
            attention = layer.attn if hasattr(layer, "attn") else layer.self_attn
            projection = attention.c_proj if hasattr(attention, "c_proj") else attention.o_proj
            hooks.append(attention.register_forward_hook(self._keep("attention")))
            hooks.append(layer.mlp.register_forward_hook(self._keep("mlp")))
            hooks.append(projection.register_forward_pre_hook(lambda m, a: self.parts["merged"].append(a[0][0])))
        self.projections = [getattr(getattr(x, "attn", None) or x.self_attn, "c_proj", None) or x.self_attn.o_proj
                            for x in layers]  # fmt: skip
        with plain(copy) as model:
            tokens = torch.tensor([ids], device=copy.device)
            output = model(input_ids=tokens, use_cache=False, output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        self.stream = torch.stack([h[0] for h in output.hidden_states[:-1]] + [entering[0]])  # (L + 1, T, E)
        self.logits = output.logits[0]
        self.norm, self.head = norm, copy.module.get_output_embeddings()

    def _keep(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            self.parts[name].append(output[0][0] if isinstance(output, tuple) else output[0])

        return hook


def lens(ours: Ours, positions: tuple[int, int | None], **kwargs: Any) -> LensAnswer:
    answer = ours.session.answer(LensQuery(1, positions, **kwargs))
    assert isinstance(answer, LensAnswer)
    return answer


def test_every_cell_of_the_lens_is_the_model_read_out_of_that_hidden_state(ours: Ours, loaded: LoadedModel) -> None:
    reference = Plain(loaded, ours.sequences[0][:-1])
    answer = lens(ours, (0, None), top=4)
    layers = loaded.info.layers
    assert answer.positions == (0, FED)
    assert answer.token_ids.shape == (FED, layers + 1, 4)
    with torch.inference_mode():
        logprobs = torch.log_softmax(reference.head(reference.norm(reference.stream)).float(), dim=-1)  # (L + 1, T, V)
    torch.testing.assert_close(logprobs[-1], torch.log_softmax(reference.logits, -1), atol=1e-4, rtol=0)
    best = logprobs.topk(4, dim=-1)
    np.testing.assert_allclose(answer.logprob, best.values.transpose(0, 1), atol=2e-4)
    own = logprobs.gather(-1, torch.tensor(answer.token_ids).transpose(0, 1))
    np.testing.assert_allclose(own.transpose(0, 1), answer.logprob, atol=2e-4)
    final = logprobs[-1]
    kl = (final.exp() * (final - logprobs)).sum(-1) / math.log(2.0)  # (L + 1, T)
    np.testing.assert_allclose(answer.kl_bits, kl.T, atol=1e-3)
    assert np.abs(answer.kl_bits[:, -1]).max() < 1e-5
    chosen = torch.tensor(answer.token_ids[:, -1, 0])
    of_final = logprobs[:, torch.arange(FED), chosen]
    np.testing.assert_allclose(answer.final_logprob, of_final.T, atol=2e-4)
    assert (answer.rank[:, -1] == 0).all()
    ranks = (logprobs > of_final[..., None] + 1e-3).sum(-1).T.numpy()  # not counting near ties
    assert (answer.rank >= ranks).all()
    assert set(answer.pieces) == set(answer.token_ids.flatten().tolist())


def test_the_commit_depth_is_the_first_layer_from_which_the_final_token_stays_on_top(ours: Ours) -> None:
    answer = lens(ours, (0, None))
    for column, depth in zip(answer.token_ids[:, :, 0], answer.commit, strict=True):
        assert (column[depth:] == column[-1]).all()
        assert depth == 0 or column[depth - 1] != column[-1]


def test_the_final_row_of_the_lens_is_what_the_step_reported(ours: Ours) -> None:
    answer = lens(ours, (PROMPT - 1, None), top=1)
    for index, step in enumerate(ours.steps):
        assert answer.token_ids[index, -1, 0] == step.top.token_ids[0]
        assert answer.logprob[index, -1, 0] == pytest.approx(step.top.logprob[0], abs=1e-4)


def test_norms_and_contributions_equal_those_of_a_plain_pass(ours: Ours, loaded: LoadedModel) -> None:
    reference = Plain(loaded, ours.sequences[0][:-1])
    for position in (0, 5, FED - 1):
        stream = reference.stream[:, position]
        for asked in (False, True):
            answer = ours.session.answer(NormsQuery(1, position, asked))
            assert isinstance(answer, NormsAnswer)
            np.testing.assert_allclose(answer.residual, stream.norm(dim=-1), rtol=1e-4)
            np.testing.assert_allclose(answer.update, (stream[1:] - stream[:-1]).norm(dim=-1), rtol=1e-3)
            cosine = torch.cosine_similarity(stream[1:], stream[:-1], dim=-1)
            np.testing.assert_allclose(answer.cosine, cosine, atol=1e-4)
            assert (answer.attention is None) == (not asked)
        assert answer.attention is not None
        assert answer.mlp is not None
        for found, name in ((answer.attention, "attention"), (answer.mlp, "mlp")):
            expected = [float(part[position].norm()) for part in reference.parts[name]]
            np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_parts_of_a_logit_sum_to_it_and_equal_those_of_a_plain_pass(ours: Ours, loaded: LoadedModel) -> None:
    reference = Plain(loaded, ours.sequences[0][:-1])
    info = loaded.info
    for index in (0, NEW - 1):
        position, token = PROMPT - 1 + index, ours.steps[index].token_id
        answer = ours.session.answer(AttributionQuery(1, position, token))
        assert isinstance(answer, AttributionAnswer)
        parts = (answer.embedding, answer.bias, *answer.attention, *answer.mlp, *answer.between)
        assert sum(map(float, parts)) == pytest.approx(answer.logit, abs=1e-3)
        assert answer.logit == pytest.approx(float(reference.logits[position, token]), abs=1e-3)
        assert abs(answer.rounding) < 1e-3
        assert np.abs(answer.between).max() < 1e-3
        # The same by brute force: what taking a part out of the sum changes, the norm's scale held.
        x = reference.stream[-1, position].double()
        norm, weight = reference.norm, reference.head.weight[token].double()
        centred = norm.weight.shape == x.shape and isinstance(norm, torch.nn.LayerNorm)
        spread = (x - x.mean()).square().mean() if centred else x.square().mean()
        epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon

        def through(part: torch.Tensor) -> float:
            moved = part.double() - part.double().mean() if centred else part.double()  # noqa: B023
            return float((moved * torch.rsqrt(spread + epsilon) * norm.weight.double()) @ weight)  # noqa: B023

        for layer in range(info.layers):
            assert answer.mlp[layer] == pytest.approx(through(reference.parts["mlp"][layer][position]), abs=1e-3)
            merged = reference.parts["merged"][layer][position]
            projection, width = reference.projections[layer], info.head_dim
            with torch.inference_mode():
                nothing = projection(torch.zeros_like(merged)[None])[0]
                for head in range(info.heads):
                    alone = torch.zeros_like(merged)
                    alone[head * width : (head + 1) * width] = merged[head * width : (head + 1) * width]
                    own = through(projection(alone[None])[0] - nothing)
                    assert answer.heads[layer, head] == pytest.approx(own, abs=1e-3)


def test_in_bf16_the_rounding_is_a_part_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    from core.api import load_model
    from tests.models import build_llama

    loaded = load_model(build_llama(tmp_path_factory.mktemp("bf16")), device="cpu", dtype="bf16")
    ours = run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": 3})
    answer = ours.session.answer(AttributionQuery(1, PROMPT, ours.steps[1].token_id))
    assert isinstance(answer, AttributionAnswer)
    exact = answer.embedding + answer.bias + float((answer.attention + answer.mlp + answer.between).sum())
    assert exact + answer.rounding == pytest.approx(answer.logit, abs=1e-4)
    assert 0 < abs(answer.rounding) < 0.05 * max(1.0, abs(answer.logit))


def test_rows_of_a_padded_batch_answer_like_the_row_alone(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, n, seed=8) for n in (3, 12, 7)]
    batch = run(loaded, rows, {"max_new_tokens": 4}, prefill_chunk=5)
    for row, prompt in enumerate(rows):
        alone = run(loaded, [prompt], {"max_new_tokens": 4})
        last = len(prompt) + 2
        one, other = (x.session.answer(LensQuery(1, (0, None), row=r)) for x, r in ((alone, 0), (batch, row)))
        np.testing.assert_allclose(one.logprob[:, :, 0], other.logprob[:, :, 0], atol=1e-3)
        token = alone.steps[-1].token_id
        one, other = (x.session.answer(AttributionQuery(1, last, token, row=r)) for x, r in ((alone, 0), (batch, row)))
        np.testing.assert_allclose(one.heads, other.heads, atol=2e-3)
        one, other = (x.session.answer(NormsQuery(1, last, True, row=r)) for x, r in ((alone, 0), (batch, row)))
        np.testing.assert_allclose(one.mlp, other.mlp, rtol=1e-3)


def test_asking_while_the_run_goes_on_disturbs_nothing(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, PROMPT)]
    free = run(loaded, rows, {"max_new_tokens": 8})
    session = open_session(loaded, rows, {"max_new_tokens": 8})
    with session.attached():
        while not session.finished:
            session.advance()
            if session.new_tokens:
                session.answer(AttributionQuery(1, PROMPT - 1, 5))
                session.answer(NormsQuery(1, PROMPT - 1, True))
                session.answer(LensQuery(1, (0, None)))
    assert [list(ids) for ids in session.result().sequences] == free.sequences


def test_dropped_records_are_named_and_can_be_fed_again(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, PROMPT)]
    kept = run(loaded, rows, {"max_new_tokens": NEW}, prefill_chunk=4)
    ours = run(loaded, rows, {"max_new_tokens": NEW}, prefill_chunk=4, trace_budget_bytes=1)
    with pytest.raises(ViewUnavailableError) as refused:
        lens(ours, (0, 4))
    assert refused.value.can_recompute
    np.testing.assert_allclose(lens(ours, (0, 4), recompute=True).logprob, lens(kept, (0, 4)).logprob, atol=1e-3)


def test_what_does_not_exist_is_refused_with_a_reason(ours: Ours, loaded: LoadedModel) -> None:
    for query in (LensQuery(1, (FED, None)), NormsQuery(1, FED), NormsQuery(1, -1, True), LensQuery(1, (0, 2), row=1),
                  AttributionQuery(1, 3, loaded.info.vocab_size), AttributionQuery(1, 3, -1),
                  LensQuery(1, (0, 2), top=0), LensQuery(1, (0, 2), top=-1), HeadsQuery(1, ())):  # fmt: skip
        with pytest.raises(ViewUnavailableError) as refused:
            ours.session.answer(query)
        assert str(refused.value).endswith(".")


def test_a_final_norm_that_is_no_norm_is_refused() -> None:
    from core.trace.attribution import linear_norm

    with pytest.raises(ViewUnavailableError, match="Tanh"):
        linear_norm(torch.nn.Tanh(), torch.randn(16), torch.float32)
