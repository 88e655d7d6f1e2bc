"""The walk through a forward pass: real shapes, in order, and no hook is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from core.contract import ViewUnavailableError, WalkAnswer, WalkNode, WalkQuery
from core.models.loaded import LoadedModel
from core.trace.walk import Walk
from tests.leaks import hooks_of
from tests.parity.reference import Ours, plain, prompt_of, run, twin

PROMPT, NEW = 11, 5


@pytest.fixture
def ours(loaded: LoadedModel) -> Ours:
    return run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": NEW})


def walk(ours: Ours, positions: tuple[int, int], **kwargs: int) -> WalkAnswer:
    answer = ours.session.answer(WalkQuery(1, positions, **kwargs))
    assert isinstance(answer, WalkAnswer)
    return answer


def titled(answer: WalkAnswer, title: str) -> list[WalkNode]:
    return [node for node in answer.nodes if node.title == title]


def test_first_step_and_later_step_differ_where_caching_matters(ours: Ours, loaded: LoadedModel) -> None:
    first, later = walk(ours, (0, PROMPT)), walk(ours, (PROMPT + 2, PROMPT + 3))
    info, T = loaded.info, PROMPT
    assert first.named
    assert (first.positions, first.past) == ((0, T), 0)
    assert (later.positions, later.past) == ((T + 2, T + 3), T + 2)
    assert [n.key for n in first.nodes] == [n.key for n in later.nodes]
    for answer, n, held in ((first, T, T), (later, 1, T + 3)):
        summed = titled(answer, "embeddings, summed")
        learned = info.family in ("gpt2", "imagegpt")
        assert [node.made[0].shape for node in summed] == [(1, n, info.hidden_size)] * learned
        (mask,) = titled(answer, "attention mask")
        assert info.family == "imagegpt" or ("one query" in mask.note) == (n == 1)
        for stage in titled(answer, "split heads"):
            shapes = [fact.shape for fact in stage.made]
            assert shapes[0] == (1, info.heads, n, info.head_dim)
            assert shapes[1] == shapes[2] == (1, info.kv_heads, n, info.head_dim)
        for stage in titled(answer, "cache append"):
            assert stage.note == f"{held - n} → {held} positions"
            assert stage.made[0].shape == (1, info.kv_heads, held, info.head_dim)
        for title in ("scores", "softmax"):
            assert len(titled(answer, title)) == info.layers
            assert titled(answer, title)[0].made[0].shape == (1, info.heads, n, held)
        (head,) = titled(answer, "head")
        kept = 1 if "logits_to_keep" in ours.session.forward.anatomy.accepts else n
        assert head.made[0].shape == (1, kept, info.output_size)
        assert [n.title for n in answer.nodes if n.title.startswith("layer")] == [
            f"layer {i}" for i in range(info.layers)
        ]
    assert titled(first, "norm")[0].made[0].shape == (1, T, info.hidden_size)


def test_every_module_that_runs_is_there_and_times_add_up(ours: Ours, loaded: LoadedModel) -> None:
    answer = walk(ours, (2, 3))
    ran: list[str] = []
    copy = twin(loaded)
    for name, module in copy.module.named_modules():
        module.register_forward_pre_hook(lambda m, a, name=name: ran.append(name))
    with plain(copy) as model:
        model(input_ids=torch.tensor([ours.sequences[0][:3]]))
    modules = [node for node in answer.nodes if node.kind != "stage"]
    assert [node.key.partition("#")[0] for node in modules] == ran
    stack: list[WalkNode] = []
    inside: dict[str, float] = {}
    for node in modules:
        del stack[node.depth :]
        if stack:
            inside[stack[-1].key] = inside.get(stack[-1].key, 0.0) + (node.ms or 0.0)
        stack.append(node)
    for node in modules:
        assert node.ms is not None
        assert node.ms >= 0.0
        assert inside.get(node.key, 0.0) <= node.ms + 1e-6
    assert answer.total_ms == modules[0].ms


def test_statistics_are_those_of_the_tensors(ours: Ours, loaded: LoadedModel) -> None:
    answer = walk(ours, (0, PROMPT))
    with plain(twin(loaded)) as model:
        hidden = model(input_ids=torch.tensor([ours.sequences[0][:PROMPT]]), output_hidden_states=True).hidden_states
    (first,) = titled(answer, "layer 0")
    (fact,) = [f for f in first.given if len(f.shape) == 3 and f.shape[-1] == loaded.info.hidden_size][:1]
    assert fact.mean == pytest.approx(float(hidden[0].mean()), abs=1e-4)
    assert fact.std == pytest.approx(float(hidden[0].std(correction=0)), rel=1e-4)
    assert fact.high == pytest.approx(float(hidden[0].max()), rel=1e-4)
    made = first.made[0]
    assert made.low == pytest.approx(float(hidden[1].min()), rel=1e-3)


def test_no_hook_is_left_behind_and_nothing_changes(ours: Ours, loaded: LoadedModel) -> None:
    before = ours.session.cache.layers[0].length
    walk(ours, (0, PROMPT))
    assert hooks_of(loaded.module) == []
    with pytest.raises(RuntimeError, match="broken off"), Walk(loaded.module).hooked():
        raise RuntimeError("broken off")
    assert hooks_of(loaded.module) == []
    assert ours.session.cache.layers[0].length == before
    again = walk(ours, (PROMPT, PROMPT + 1))
    assert again.past == PROMPT


def test_only_as_many_positions_as_were_fed_at_once(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": 2}, prefill_chunk=4)
    assert walk(ours, (0, PROMPT)).positions == (0, 4)


@pytest.mark.parametrize("start", [0, 1])
def test_a_row_of_a_batch_is_walked_behind_its_padding(loaded: LoadedModel, start: int) -> None:
    ours = run(loaded, [prompt_of(loaded, 3), prompt_of(loaded, 7)], {"max_new_tokens": 3}, prefill_chunk=2)
    width = loaded.info.head_dim
    for row, padding in ((0, 4), (1, 0)):
        at = (3, 7)[row] + start
        answer = walk(ours, (at, at + 1), row=row)
        assert (answer.positions, answer.past) == ((at, at + 1), at)
        assert (answer.batch, answer.padding, answer.unpadded) == (2, padding, False)
        assert titled(answer, "split heads")[0].made[0].shape == (1, loaded.info.heads, 1, width)
        note = titled(answer, "cache append")[0].note
        assert note == f"{at} → {at + 1} positions" + (f", behind {padding} of padding" if padding else "")
        assert titled(answer, "scores")[0].made[0].shape == (1, loaded.info.heads, 1, padding + at + 1)
        masks = titled(answer, "attention mask")
        assert padding == 0 or f"the last query sees {at + 1} of {padding + at + 1}" in masks[0].note
        (head,) = titled(answer, "head")
        with plain(twin(loaded)) as model:
            logits = model(input_ids=torch.tensor([ours.sequences[row][: at + 1]])).logits[0, -1]
        assert head.made[0].mean == pytest.approx(float(logits.mean()), abs=1e-4)
        assert head.made[0].high == pytest.approx(float(logits.max()), abs=1e-4)


def test_a_row_that_left_its_batch_is_walked_alone(random_gpt2: LoadedModel) -> None:
    prompts = [prompt_of(random_gpt2, 3), prompt_of(random_gpt2, 7)]
    first = run(random_gpt2, prompts, {"max_new_tokens": 1}).sequences[0][-1]
    ours = run(random_gpt2, prompts, {"max_new_tokens": 4, "eos_token_id": (first,)})
    assert len(ours.sequences[0]) < len(ours.sequences[1]) - 4
    answer = walk(ours, (2, 3), row=0)
    assert (answer.past, answer.padding, answer.unpadded) == (2, 4, True)
    assert titled(answer, "cache append")[0].note == "2 → 3 positions"
    assert "padding" not in titled(walk(ours, (6, 7), row=1), "cache append")[0].note


def test_a_window_shows_in_the_mask(random_qwen2_sliding: LoadedModel) -> None:
    ours = run(random_qwen2_sliding, [prompt_of(random_qwen2_sliding, 20)], {"max_new_tokens": 2})
    answer = walk(ours, (0, 20))
    last = next(n for n in answer.nodes if n.title == f"layer {random_qwen2_sliding.info.layers - 1}")
    assert any(f.name == "attention_mask" and f.shape == (1, 1, 20, 20) for f in last.given)


def test_cross_attention_and_token_types_are_told_when_they_are_given() -> None:
    sizes = {"vocab_size": 50, "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32}
    model = GPT2LMHeadModel(GPT2Config(**sizes, add_cross_attention=True)).eval()
    ids = torch.arange(5)[None]
    told = Walk(model)
    with torch.inference_mode(), told.hooked():
        model(input_ids=ids, token_type_ids=torch.ones_like(ids), encoder_hidden_states=torch.randn(1, 7, 16))
    titles = [node.title for node in told.nodes]
    assert titles.count("token type embeddings") == 1
    assert titles.count("cross attention") == 2
    assert "residual + cross attention" in titles
    cross = next(i for i, n in enumerate(told.nodes) if n.title == "cross attention")
    assert told.nodes[cross + 1].title in ("q", "k, v")
    assert hooks_of(model) == []
    alone = Walk(model)
    with torch.inference_mode(), alone.hooked():
        model(input_ids=ids)
    notes = [n.note for n in alone.nodes if n.title == "cross attention"]
    assert notes == ["did not run: no encoder states were given"] * 2
    inner = [n.title for n in alone.nodes if n.depth == next(x.depth for x in alone.nodes if x.title == "layer 0") + 1]
    assert inner[:6] == ["norm", "attention", "residual + attention", "cross attention", "norm", "MLP"]


def test_token_types_and_encoder_states_may_be_given(tmp_path: Path) -> None:
    from core.api import load_model

    sizes = {"vocab_size": 50, "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32}
    torch.manual_seed(3)
    GPT2LMHeadModel(GPT2Config(**sizes, add_cross_attention=True)).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu", dtype="fp32")
    ours = run(loaded, [[1, 2, 3, 4, 5]], {"max_new_tokens": 2})
    states = torch.randn(3, 16)
    given = WalkQuery(1, (0, 5), token_type=7, encoder_states=tuple(map(tuple, states.tolist())))
    answer = ours.session.answer(given)
    assert isinstance(answer, WalkAnswer)
    with plain(twin(loaded)) as model:
        logits = model(
            input_ids=torch.tensor([[1, 2, 3, 4, 5]]),
            token_type_ids=torch.full((1, 5), 7),
            encoder_hidden_states=states[None],
        ).logits
    (head,) = titled(answer, "head")
    assert head.made[0].mean == pytest.approx(float(logits[:, -head.made[0].shape[1] :].mean()), abs=1e-4)
    assert len(titled(answer, "token type embeddings")) == 1
    assert not any("did not run" in node.note for node in answer.nodes)
    assert titled(answer, "residual + cross attention")
    for wrong in (WalkQuery(1, (0, 5), token_type=50), WalkQuery(1, (0, 5), encoder_states=((1.0,),))):
        with pytest.raises(ViewUnavailableError):
            ours.session.answer(wrong)


def test_what_a_family_cannot_be_given_is_refused(ours: Ours, loaded: LoadedModel) -> None:
    with pytest.raises(ViewUnavailableError, match="no cross attention"):
        ours.session.answer(WalkQuery(1, (0, 2), encoder_states=((0.0,) * loaded.info.hidden_size,)))


def test_imagegpt_tells_its_stages_without_an_attention_interface(tmp_path: Path) -> None:
    from core.api import load_model

    loaded = load_model("new:imagegpt?n_layer=2&n_embd=32&n_head=2&n_positions=64", device="cpu", dtype="fp32")
    ours = run(loaded, [[1, 2, 3, 4, 5, 6]], {"max_new_tokens": 3})
    for positions, n, held in (((0, 6), 6, 6), ((7, 8), 1, 8)):
        answer = walk(ours, positions)
        assert answer.named
        split = titled(answer, "split heads")
        assert [f.shape for f in split[0].made] == [(1, 2, n, 16)] * 3
        assert titled(answer, "cache append")[0].note == f"{held - n} → {held} positions"
        assert titled(answer, "softmax")[0].made[0].shape == (1, 2, n, held)
        inside = [node.title for node in answer.nodes if node.depth == split[0].depth]
        order = ["q, k, v", "split heads", "cache append", "scores", "softmax", "dropout", "merge heads", "projection"]
        assert inside[: len(order)] == order
        (mask,) = titled(answer, "attention mask")
        assert "causal table" in mask.note
    assert hooks_of(loaded.module) == []


def test_any_other_model_is_a_plain_tree_of_its_modules() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=32)).eval()
    told = Walk(model)
    with torch.inference_mode(), told.hooked():
        model(input_ids=torch.arange(4)[None])
    assert not told.named
    assert {node.kind for node in told.nodes} >= {"GPTNeoXLayer", "GPTNeoXAttention"}
    assert "stage" not in {node.kind for node in told.nodes}
    assert told.nodes[1].title == "gpt_neox"


def test_what_the_cache_got_is_told_without_reading_all_of_it(ours: Ours) -> None:
    later = walk(ours, (PROMPT + 2, PROMPT + 3))
    for cache, split in zip(titled(later, "cache append"), titled(later, "split heads"), strict=True):
        for held, new in zip(cache.made, split.made[1:], strict=True):
            assert held.shape[2] == PROMPT + 3
            assert held.mean == pytest.approx(new.mean)
