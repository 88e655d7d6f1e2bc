"""Random weights from a config: names with options, the same model for the same name, text that can be typed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
import transformers

from core.contract import LoadCancelledError, ModelLoadError, ModelSpec, PromptError
from core.models import loader
from core.models.loaded import LoadedModel
from core.models.loader import load
from core.models.new_model import FAMILIES, parse_new

ALL = tuple(f"new:{name}" for name in FAMILIES)


@dataclass
class Control:
    cancel_after: int | None = None
    told: list[tuple[str, float | None]] = field(default_factory=list)

    def progress(self, stage: str, fraction: float | None) -> None:
        self.told.append((stage, fraction))

    def cancelled(self) -> bool:
        return self.cancel_after is not None and len(self.told) >= self.cancel_after


def _load(name: str, dtype: str = "fp32", control: Control | None = None) -> LoadedModel:
    return load(ModelSpec(name, "cpu", dtype), 7, control or Control())


@pytest.mark.parametrize("name", ALL)
def test_every_family_runs_with_its_defaults(name: str) -> None:
    model = _load(name)
    assert model.info.family == name.removeprefix("new:")
    assert model.info.title.startswith("New ")
    assert "random" in model.info.notices[0]
    assert model.info.layers == 4
    with torch.inference_mode():
        assert model.module(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_the_options_of_a_family_are_names_of_its_config_class(name: str) -> None:
    family = parse_new(name).family
    config = transformers.AutoConfig.for_model(family.name)
    for option in family.options:
        known = option.name in ("seed", "rope_theta") or hasattr(config, option.name)
        assert known, option.name
        assert option.doc.endswith(".")


def test_options_reach_the_model() -> None:
    info = _load("new:gpt2?n_layer=2&n_embd=48&n_head=3&n_positions=64&vocab_size=300&seed=5").info
    assert (info.layers, info.hidden_size, info.heads, info.max_positions, info.vocab_size) == (2, 48, 3, 64, 300)
    llama = _load("new:llama?num_attention_heads=8&num_key_value_heads=1&head_dim=6&rope_theta=5000")
    assert (llama.info.heads, llama.info.kv_heads, llama.info.head_dim) == (8, 1, 6)
    assert llama.module.config.rope_parameters["rope_theta"] == 5000.0
    qwen = _load("new:qwen2?use_sliding_window=true&sliding_window=8&max_window_layers=1&tie_word_embeddings=false")
    assert qwen.info.sliding_window == 8
    assert qwen.module.config.layer_types == ["full_attention"] + ["sliding_attention"] * 3
    assert qwen.module.lm_head.weight is not qwen.module.model.embed_tokens.weight


def test_weights_are_a_function_of_the_name_alone() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one, two, other = (_load(f"new:gpt2?seed={seed}").module.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["transformer.wte.weight"], other["transformer.wte.weight"])


def test_the_standard_deviation_is_the_one_asked_for() -> None:
    weights = _load("new:llama?initializer_range=0.3").module.model.layers[0].mlp.up_proj.weight
    assert weights.std().item() == pytest.approx(0.3, rel=0.05)


def test_bf16_is_the_same_model_rounded() -> None:
    wide, narrow = (_load("new:qwen2?seed=3", dtype).module for dtype in ("fp32", "bf16"))
    for (name, a), (_, b) in zip(wide.named_parameters(), narrow.named_parameters(), strict=True):
        assert torch.equal(a.bfloat16(), b), name
    assert narrow.model.rotary_emb.inv_freq.dtype == torch.float32


def test_text_can_be_typed_where_every_byte_has_an_id() -> None:
    model = _load("new:llama?vocab_size=300")
    text = "é👍 \n<b>\x00 end"
    ids = model.text.encode(text)
    assert ids == list(text.encode())
    assert model.text.decode(ids) == text
    assert model.text.piece(256) == "<|endoftext|>"
    assert model.text.piece(299) == "⟨299⟩"
    assert (model.info.bos_token_id, model.info.eos_token_ids) == (256, (256,))
    assert not model.info.has_chat_template


def test_ids_are_typed_where_not() -> None:
    model = _load("new:gpt2?vocab_size=100")
    with pytest.raises(PromptError, match="no tokenizer"):
        model.text.encode("a")
    assert model.text.piece(7) == "⟨7⟩"
    assert model.info.eos_token_ids == ()
    assert "one id a byte." not in model.info.notices[0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("new:", "There is no new model “”; choose new:gpt2, new:llama, new:qwen2, new:imagegpt"),
        ("new:bert", "There is no new model “bert”"),
        ("new:gpt2?n_lyers=4", "GPT-2 has no option “n_lyers”; the nearest one is “n_layer”"),
        ("new:gpt2?auto_map=x", "has no option “auto_map”"),
        ("new:gpt2?_name_or_path=x", "has no option"),
        ("new:gpt2?n_layer=4&n_layer=5", "n_layer is given twice"),
        ("new:gpt2?n_layer", "not of the form"),
        ("new:gpt2?n_layer=", "n_layer cannot be “”; it is a whole number from 1 to 512"),
        ("new:gpt2?n_layer=4.5", "n_layer cannot be “4.5”"),
        ("new:gpt2?n_layer=1e9", "n_layer cannot be"),
        ("new:gpt2?n_layer=513", "n_layer cannot be “513”"),
        ("new:gpt2?n_layer=" + "9" * 5000, "n_layer cannot be “999"),
        ("new:gpt2?n_embd=100&n_head=3", "n_embd = 100 cannot be divided among n_head = 3 heads"),
        ("new:llama?num_key_value_heads=3", "num_attention_heads = 4 is no multiple of num_key_value_heads = 3"),
        ("new:llama?head_dim=7", "Heads of 7 values cannot be rotated in pairs"),
        ("new:gpt2?initializer_range=nan", "initializer_range cannot be “nan”; it is a number from 0 to 1"),
        ("new:gpt2?activation_function=os.system", "choose gelu_new, gelu"),
        ("new:gpt2?scale_attn_weights=1", "it is true or false"),
        ("new:gpt2?seed=-1", "seed cannot be “-1”"),
        ("new:gpt2?" + "&".join(f"a{n}=1" for n in range(200)), "not of the form"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(ModelLoadError, match=sentence) as raised:
        parse_new(name)
    assert raised.value.message.isprintable()
    assert raised.value.message.endswith(".")


def test_equal_models_have_equal_names() -> None:
    assert parse_new("new:gpt2?seed=1&n_layer=2").name == "new:gpt2?n_layer=2&seed=1"
    assert parse_new("new:GPT2?n_layer=4").name == "new:gpt2"
    assert parse_new("new:llama?head_dim=none&mlp_bias=TRUE").name == "new:llama?mlp_bias=true"
    name = "new:qwen2?initializer_range=0.3&seed=7"
    assert parse_new(parse_new(name).name) == parse_new(name)


def test_more_than_there_is_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "available_bytes", lambda _device: 10_000_000_000)
    with pytest.raises(ModelLoadError, match=r"“New Llama” needs 2\.\d+ TB for its weights and 10 GB are free"):
        _load("new:llama?hidden_size=8192&intermediate_size=60000&num_hidden_layers=300&vocab_size=257")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_making_one_can_be_cancelled(n: int) -> None:
    control = Control(cancel_after=n)
    with pytest.raises(LoadCancelledError):
        _load("new:gpt2?n_layer=8&n_embd=256", control=control)
    assert len(control.told) <= n


def test_progress_reaches_the_end() -> None:
    control = Control()
    _load("new:gpt2", control=control)
    fractions = [f for stage, f in control.told if stage == "Drawing weights" and f is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.9
