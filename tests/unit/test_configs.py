"""Configurations explained: numbers against models built without weights, reasons for everything refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from core.configs.describe import describe
from core.configs.estimate import count_parts
from core.configs.save import save_new
from core.contract import ConfigDescription, ModelLoadError, ModelSpec, ParameterError
from core.models import rope
from core.models.blueprint import draw_up
from core.models.load_control import Unwatched
from core.models.loaded import LoadedModel
from core.models.loader import load
from core.models.new_model import FAMILIES, parse_new

SMALL: dict[str, dict[str, object]] = {
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 300, "n_inner": 100},
    "imagegpt": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 17},
    "llama": {
        "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 300, "attention_bias": True, "mlp_bias": True,
        "max_position_embeddings": 64,
    },
    "qwen2": {
        "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 64,
    },
}  # fmt: skip
NO_ENDS = {"bos_token_id": None, "eos_token_id": None}


def small(family: str, **changes: object) -> ConfigDescription:
    return describe(family, {**SMALL[family], **({} if family == "imagegpt" else NO_ENDS), **changes})


def values(found: ConfigDescription) -> dict[str, Any]:
    return json.loads(found.config_json)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_form_is_the_config_class(family: str) -> None:
    found = describe(family)
    kind = type(transformers.AutoConfig.for_model(family))
    assert found.class_name == kind.__name__
    defaults = kind()
    for field in found.fields:
        if field.default is not None:  # else the class fills it in, as it does for sliding_window
            assert getattr(defaults, field.name) in (field.default, None), field.name
        assert field.meaning.endswith("."), field.name
        assert field.documentation, field.name
        assert field.editable or field.name == "add_cross_attention"
    named = {alias: field.name for field in found.fields for alias in field.aliases}
    assert named == dict(kind.attribute_map)
    assert {"n_embd" if "gpt" in family else "hidden_size", "vocab_size", "use_cache"} <= {f.name for f in found.fields}
    assert not found.changes


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_by_part_are_those_of_the_model(family: str, tied: bool) -> None:
    found = small(family, tie_word_embeddings=tied)
    assert found.problems == ()
    assert found.estimate is not None
    blueprint = draw_up(family, values(found))
    counted = {part.name: part.parameters for part in count_parts(blueprint)}
    assert {p.name: p.parameters for p in found.estimate.parts if p.parameters} == counted
    assert found.estimate.parameters == blueprint.parameters
    for estimate, dtype in zip(found.estimate.dtypes, (torch.bfloat16, torch.float32), strict=True):
        assert estimate.weight_bytes == blueprint.weight_bytes(dtype)
    if family == "imagegpt":
        assert found.estimate.buffer_bytes == blueprint.buffer_bytes


def test_the_known_sizes_are_the_published_ones() -> None:
    for family, parameters in (("gpt2", 124_439_808), ("llama", 6_738_415_616)):
        estimate = describe(family).estimate
        assert estimate is not None
        assert estimate.parameters == parameters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("before", [0, 7])
def test_flops_are_what_torch_counts(family: str, before: int) -> None:
    found = small(family)
    assert found.estimate is not None
    assert found.new_name is not None
    module = load(ModelSpec(found.new_name, "cpu", "fp32"), 1, Unwatched()).module
    module.set_attn_implementation("eager")  # sdpa on the CPU is one operation, which torch does not count
    with torch.inference_mode():
        cache = module(torch.ones(1, before, dtype=torch.long)).past_key_values if before else None
        with FlopCounterMode(display=False) as counter:
            module(torch.ones(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    assert counter.get_total_flops() == found.estimate.flops_at(before + 1)


@pytest.mark.parametrize(
    ("family", "changes", "fields", "sentence"),
    [
        ("gpt2", {"n_embd": "770"}, ("n_embd", "n_head"), "n_embd = 770 cannot be divided among n_head = 12 heads"),
        ("gpt2", {"hidden_size": "0"}, ("n_embd",), "n_embd cannot be “0”; it is a whole number from 1 to 65,536"),
        ("gpt2", {"n_layer": "-3"}, ("n_layer",), "from 1 to 512"),
        ("gpt2", {"n_layer": "many"}, ("n_layer",), "n_layer cannot be “many”"),
        ("gpt2", {"bos_token_id": "50257"}, ("bos_token_id", "vocab_size"), "no token of a vocabulary of 50,257"),
        ("gpt2", {"eos_token_id": "[1, 60000]"}, ("eos_token_id", "vocab_size"), "60000"),
        ("gpt2", {"eos_token_id": "auto"}, ("eos_token_id",), "a token id"),
        ("gpt2", {"activation_function": "foo"}, ("activation_function",), "choose gelu_new"),
        ("gpt2", {"n_embd": "65536", "n_layer": "500", "n_head": "64"}, (), "are free"),
        ("imagegpt", {"n_positions": "1048576"}, (), "masks over all pairs of positions"),
        ("llama", {"num_key_value_heads": "3"}, ("num_attention_heads", "num_key_value_heads"), "no multiple"),
        ("llama", {"head_dim": "7"}, ("head_dim",), "even head_dim"),
        ("llama", {"rope_parameters": "[1"}, ("rope_parameters",), "it is JSON"),
        ("llama", {"rope_parameters": "[1]"}, ("rope_parameters",), "must be an object"),
        ("llama", {"rope_parameters": '{"rope_type": "nonsense"}'}, ("rope_parameters",), 'of type "nonsense"'),
        ("llama", {"rope_parameters": '{"rope_type": "linear", "factor": 0}'}, ("rope_parameters",), "factor must be"),
        ("llama", {"rope_parameters": '{"rope_type": "linear", "factor": -2}'}, ("rope_parameters",), "not -2"),
        ("llama", {"rope_parameters": '{"rope_theta": NaN}'}, ("rope_parameters",), "its numbers are finite"),
        ("qwen2", {"rope_parameters": '{"rope_type": "yarn"}'}, (), "Missing required keys"),
        ("llama", {"rope_theta": "abc"}, ("rope_parameters",), "rope_theta must be a number above 0"),
        ("llama", {"rope_theta": "0"}, ("rope_parameters",), "rope_theta must be a number above 0"),
        ("qwen2", {"rope_theta": "-5"}, ("rope_parameters",), "rope_theta must be a number above 0"),
        ("llama", {"rope_theta": "nan"}, ("rope_parameters",), "its numbers are finite"),
        ("imagegpt", {"vocab_size": "1"}, ("vocab_size",), "at least 2"),
        ("qwen2", {"layer_types": "[1]"}, ("layer_types",), "is a list of full_attention and sliding_attention"),
        ("qwen2", {"layer_types": '["foo"]'}, ("layer_types",), "is a list of full_attention and sliding_attention"),
        (
            "qwen2",
            {"layer_types": '["full_attention"]'},
            ("layer_types",),
            "layer_types names 1 layers, but",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    family: str, changes: dict[str, str], fields: tuple[str, ...], sentence: str
) -> None:
    found = describe(family, changes)
    assert found.new_name is None
    problem = next(p for p in found.problems if sentence in p.message)
    assert problem.fields == fields
    assert problem.message.endswith(".")


def test_the_types_of_rotary_positions_are_those_of_transformers() -> None:
    assert set(rope.KINDS) == {"default", *ROPE_INIT_FUNCTIONS}


@pytest.mark.parametrize(
    "rope_parameters", [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}]
)
def test_rotary_positions_that_can_be_are_taken(rope_parameters: dict[str, object]) -> None:
    found = small("llama", rope_parameters=json.dumps({**rope_parameters, "rope_theta": 10000.0}))
    assert found.problems == ()
    assert found.new_name is not None


def test_all_reasons_are_given_at_once() -> None:
    found = describe("gpt2", {"n_head": "7", "pad_token_id": "99999"})
    assert len(found.problems) == 2


def test_names_that_are_no_fields_are_errors() -> None:
    with pytest.raises(ParameterError, match="the nearest one is “n_layer”"):
        describe("gpt2", {"n_layr": 1})
    with pytest.raises(ParameterError, match="it has ") as far:
        describe("gpt2", {"foo": 1})
    assert "nearest" not in far.value.message
    with pytest.raises(ParameterError, match="cannot be changed"):
        describe("gpt2", {"add_cross_attention": True})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_model_has_the_configuration(family: str) -> None:
    found = small(family, initializer_range=0.3)
    assert found.new_name is not None
    assert parse_new(found.new_name).name == found.new_name
    module = load(ModelSpec(found.new_name, "cpu", "fp32"), 1, Unwatched()).module
    wanted = values(found)
    for field in found.fields:
        got = json.loads(json.dumps(getattr(module.config, field.name)))
        assert got == wanted[field.name] or field.name in NO_ENDS, field.name


def test_fields_that_follow_from_others_follow() -> None:
    theta = describe("llama", {**SMALL["llama"], **NO_ENDS, "rope_theta": "5000"})
    assert values(theta)["rope_parameters"] == {"rope_type": "default", "rope_theta": 5000.0}
    scaled = '{"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}'
    found = describe("llama", {**SMALL["llama"], **NO_ENDS, "rope_parameters": scaled})
    assert found.new_name is not None
    module = load(ModelSpec(found.new_name, "cpu", "fp32"), 1, Unwatched()).module
    assert module.config.rope_parameters["factor"] == 2.0
    saved = describe("new:llama?hidden_size=64")
    assert "head_dim" not in saved.changes


def test_an_embedded_model_is_described_from_its_folder() -> None:
    found = describe("tiny-gpt2")
    assert found.changes["n_embd"] == 256
    assert {f.name for f in found.fields if f.changed} == set(found.changes)
    assert found.new_name is not None


def test_the_loaded_model_is_described_without_being_changed(tiny_gpt2: LoadedModel) -> None:
    found = describe("", {"n_layer": "2"}, loaded=tiny_gpt2)
    assert found.changes["n_layer"] == 2
    assert tiny_gpt2.module.config.n_layer == 6
    assert "stays as it is" in found.notices[0]
    plain = describe("", loaded=tiny_gpt2)
    assert plain.estimate is not None
    assert plain.estimate.parameters == tiny_gpt2.info.parameters


def test_files_of_other_families_are_shown_only(tmp_path: Path) -> None:
    config = transformers.MistralConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=100)
    config.num_attention_heads, config.num_key_value_heads = 4, 2
    path = tmp_path / "config.json"
    path.write_text(config.to_json_string(use_diff=False))
    found = describe(str(path))
    assert (found.family, found.new_name) == ("mistral", None)
    assert found.estimate is not None
    assert found.estimate.parameters == draw_up("m", values(found)).parameters
    assert not any(field.editable for field in found.fields)


@pytest.mark.parametrize("text", ["{", '{"model_type": "nothing"}', "[]", '{"model_type": "gpt2", "n_layer": "x"}'])
def test_damaged_files_are_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelLoadError):
        describe(str(path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_again_and_is_the_same(family: str, tmp_path: Path) -> None:
    found = small(family)
    assert found.new_name is not None
    saved = save_new(found.new_name, tmp_path / "made", Unwatched())
    names = {name for name, _ in saved.files}
    assert {"config.json", "model.safetensors", "generation_config.json"} <= names
    assert ("tokenizer.json" in names) == FAMILIES[family].text
    assert ("preprocessor_config.json" in names) == (family == "imagegpt")
    one = load(ModelSpec(found.new_name, "cpu", "fp32"), 1, Unwatched())
    two = load(ModelSpec(saved.path, "cpu", "fp32"), 2, Unwatched())
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        assert torch.equal(one.module(ids).logits, two.module(ids).logits)
    if family == "imagegpt":
        assert torch.equal(torch.as_tensor(two.text.clusters), torch.as_tensor(one.text.clusters))
    if FAMILIES[family].text:
        assert two.text.encode("ab") == one.text.encode("ab")
    assert two.text.piece(3) == one.text.piece(3)
    assert (two.info.image is None) == FAMILIES[family].text
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ModelLoadError, match="not empty"):
        save_new("new:gpt2", tmp_path, Unwatched())
    with pytest.raises(ModelLoadError, match="is a file"):
        save_new("new:gpt2", tmp_path / "mine", Unwatched())
    with pytest.raises(ModelLoadError, match="cannot be written"):
        save_new("new:gpt2", Path("/proc/nowhere/x"), Unwatched())


def test_forward_generate_and_pipeline_do_with_the_cache_what_is_said() -> None:
    key = describe("gpt2").output_keys[0]
    assert key.key == "past_key_values"
    assert [caller for caller, _ in key.uses] == ["forward", "generate", "pipeline", "Trainer"]
    model = load(ModelSpec("new:gpt2?n_layer=1", "cpu", "fp32"), 1, Unwatched())
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        assert model.module(ids, use_cache=True).past_key_values.get_seq_length() == 3
        settings = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
        assert isinstance(model.module.generate(ids, **settings), torch.Tensor)
        assert model.module.generate(ids, return_dict_in_generate=True, **settings).past_key_values is not None
    said = transformers.pipeline("text-generation", model=model.module, tokenizer=model.text.tokenizer)("a", **settings)
    assert list(said[0]) == ["generated_text"]


@pytest.mark.parametrize("seed", [-1, 1 << 63, 10**22])
def test_a_seed_beyond_its_bounds_is_refused(seed: int) -> None:
    with pytest.raises(ModelLoadError, match="seed cannot be"):
        describe("gpt2", {}, seed=seed)
