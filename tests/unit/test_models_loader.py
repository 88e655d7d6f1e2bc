"""Loading: what is known of a model afterwards, and that every failure is one sentence that harms nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import DynamicCache
from transformers.utils import logging

import core
from core.contract import LoadCancelledError, ModelLoadError, ModelSpec, PromptError
from core.models import loader, placement
from core.models.loaded import LoadedModel
from core.models.loader import load
from tests.models import build_gpt2, build_imagegpt, build_llama, build_qwen2, build_tokenizer


@dataclass
class Control:
    """Counts what it is told, and cancels after the n-th progress."""

    cancel_after: int | None = None
    told: list[tuple[str, float | None]] = field(default_factory=list)

    def progress(self, stage: str, fraction: float | None) -> None:
        self.told.append((stage, fraction))

    def cancelled(self) -> bool:
        return self.cancel_after is not None and len(self.told) >= self.cancel_after


def _load(folder: Path | str, dtype: str = "fp32", control: Control | None = None) -> LoadedModel:
    return load(ModelSpec(str(folder), device="cpu", dtype=dtype), 7, control or Control())


def _edit(folder: Path, file: str = "config.json", **changes: Any) -> None:
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    make = tmp_path_factory.mktemp
    return {
        "gpt2": build_gpt2(make("gpt2")),
        "llama": build_llama(make("llama")),
        "qwen2": build_qwen2(make("qwen2")),
        "qwen2-sliding": build_qwen2(make("qwen2-sliding"), sliding_window=8),
    }


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["gpt2"], tmp_path / "model"))


FACTS = {
    "gpt2": {"family": "gpt2", "layers": 3, "heads": 4, "kv_heads": 4, "head_dim": 12, "max_positions": 64},
    "llama": {"family": "llama", "layers": 2, "heads": 6, "kv_heads": 2, "head_dim": 8, "max_positions": 128},
    "qwen2": {"family": "qwen2", "layers": 3, "heads": 6, "kv_heads": 2, "sliding_window": None},
    "qwen2-sliding": {"family": "qwen2", "layers": 3, "heads": 6, "kv_heads": 2, "sliding_window": 8},
}
COMMON = {"model_id": 7, "device": "cpu", "hidden_size": 48, "vocab_size": 300, "bos_token_id": 0, "views": ()}


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_facts_of_a_model_are_those_of_its_tensors(folders: dict[str, Path], name: str, dtype: str) -> None:
    model = _load(folders[name], dtype)
    info = model.info
    for fact, value in {**FACTS[name], **COMMON, "eos_token_ids": (0,), "dtype": dtype}.items():
        assert getattr(info, fact) == value, fact
    weights = {p.data_ptr(): p for p in model.module.parameters()}.values()
    assert info.parameters == sum(p.numel() for p in weights)
    assert info.weight_bytes == sum(p.nbytes for p in weights) == info.parameters * model.dtype.itemsize
    cache = DynamicCache()
    with torch.inference_mode():
        model.module(torch.tensor([[1]]), past_key_values=cache)
    assert info.kv_bytes_per_token == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_tied_weights_stay_tied_and_count_once(folders: dict[str, Path]) -> None:
    model = _load(folders["gpt2"])
    assert model.module.lm_head.weight is model.module.transformer.wte.weight
    stored = sum(tensor.nbytes for tensor in load_file(folders["gpt2"] / "model.safetensors").values())
    assert model.info.weight_bytes == stored


def test_a_loaded_model_is_ready_for_inference(folders: dict[str, Path]) -> None:
    model = _load(folders["llama"])
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    assert model.text.decode(model.text.encode("the dog")) == "the dog"
    assert model.info.load_ms > 0
    assert model.info.title == folders["llama"].name


def test_the_embedded_model_is_stored_in_fp16_and_loads_as_asked() -> None:
    for dtype, kind in placement.DTYPES.items():
        model = _load("tiny-gpt2", dtype)
        assert {p.dtype for p in model.module.parameters()} == {kind}
        assert (model.info.title, model.info.max_positions) == ("Tiny GPT-2", 512)


def test_defaults_come_from_the_generation_config(folder: Path) -> None:
    _edit(folder, "generation_config.json", do_sample=True, temperature=0.7, top_k=0, eos_token_id=[0, 5, 9999])
    _edit(folder, "generation_config.json", top_p=7.0, min_p=0.05, num_beams=4)  # top_p is out of bounds
    info = _load(folder).info
    defaults = info.defaults
    assert (defaults.do_sample, defaults.temperature, defaults.top_k, defaults.min_p) == (True, 0.7, 0, 0.05)
    assert defaults.top_p == 1.0
    assert defaults.eos_token_id == info.eos_token_ids == (0, 5)
    assert defaults.num_beams == 4
    assert info.from_generation_config == {"do_sample", "temperature", "top_k", "min_p", "eos_token_id", "num_beams"}
    assert info.notices == ("The generation config says top_p = 7.0, which cannot be used; it is ignored.",)


def test_the_watermark_of_a_generation_config_is_in_force_as_in_generate(folder: Path) -> None:
    _edit(folder, "generation_config.json", watermarking_config={"bias": 3.0, "seeding_scheme": "selfhash"})
    ids = [5, 9, 40, 7]
    ours = core.run(folder, prompt_ids=ids, params={"max_new_tokens": 8}, device="cpu", dtype="fp32")
    plan = ours.started.plan
    assert plan.value("watermarking_config").origin == "model"
    assert [stage.name for stage in plan.processors] == ["watermarking_config"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert ours.sequences == theirs.generate(torch.tensor([ids]), max_new_tokens=8, pad_token_id=0).tolist()
    without = {"max_new_tokens": 8, "watermarking_config": None}
    assert core.run(folder, prompt_ids=ids, params=without, device="cpu", dtype="fp32").sequences != ours.sequences
    core.unload(folder)


def test_a_watermark_that_cannot_be_used_is_ignored_and_said(folder: Path) -> None:
    for wrong in ({"bias": "much"}, {"greenlist_ratio": 2.0}, {"colour": "green"}):
        _edit(folder, "generation_config.json", watermarking_config=wrong)
        info = _load(folder).info
        assert info.defaults.watermarking_config == ()
        [notice] = info.notices
        assert notice.startswith("The generation config says watermarking_config = {")
        assert notice.endswith("which cannot be used; it is ignored.")


def test_what_a_generation_config_asks_beyond_bounds_is_ignored_and_said(folder: Path) -> None:
    _edit(folder, "generation_config.json", num_beams=10**6, max_length=10**12, eos_token_id=["a", 5], top_k="all")
    model = _load(folder)
    assert model.info.eos_token_ids == (5,)
    assert model.module.generation_config.num_beams in (None, 1)
    said = " ".join(model.info.notices)
    assert "num_beams = 1000000, which is not between 1 and 16; it is ignored." in said
    assert "max_length = 1000000000000, which is too large" in said
    assert "top_k = all, which cannot be used" in said


BAD = {
    "cache_implementation": "bogus",
    "early_stopping": [1],
    "max_new_tokens": 0,
    "pad_token_id": "a",
    "suppress_tokens": 5,
    "watermarking_config": True,
    "num_return_sequences": 7,
}


def test_what_transformers_refuses_of_a_generation_config_is_ignored_and_said(folder: Path) -> None:
    """Each of them alone would refuse the model; what is good beside them holds."""
    for key, value in BAD.items():
        with pytest.raises((ValueError, TypeError, AttributeError)):
            transformers.GenerationConfig.from_dict({key: value})
    _edit(folder, "generation_config.json", temperature=0.7, **BAD)
    info = _load(folder).info
    assert info.defaults.temperature == 0.7
    assert not info.from_generation_config & set(BAD)
    said = {f"The generation config says {k} = {v}, which cannot be used; it is ignored." for k, v in BAD.items()}
    assert said == set(info.notices)


def test_what_is_right_only_with_its_neighbour_is_kept(folder: Path) -> None:
    several = {"num_return_sequences": 3, "num_beams": 4, "cache_implementation": "bogus"}
    _edit(folder, "generation_config.json", **several)
    info = _load(folder).info
    assert (info.defaults.num_return_sequences, info.defaults.num_beams) == (3, 4)
    assert len(info.notices) == 1


def test_a_model_without_a_generation_config_takes_what_its_config_says(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    _edit(folder, eos_token_id=7, bos_token_id=3)
    info = _load(folder).info
    assert (info.eos_token_ids, info.bos_token_id) == ((7,), 3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-sliding"])
def test_a_model_is_what_transformers_itself_would_load(folders: dict[str, Path], name: str) -> None:
    """Though transformers is given a cleaned config and tensors, not the folder."""
    model = _load(folders[name]).module
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        folders[name], dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    ours, theirs = model.config.to_dict(), reference.config.to_dict()
    assert {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)} <= {"dtype", "architectures"}
    assert model.generation_config.to_dict() == reference.generation_config.to_dict()
    for (key, a), (_, b) in zip(model.state_dict().items(), reference.state_dict().items(), strict=True):
        assert torch.equal(a, b), key
    for (key, a), (_, b) in zip(model.named_buffers(), reference.named_buffers(), strict=True):
        assert torch.equal(a, b), key
    assert type(model) is type(reference)


def test_weights_in_shards_are_one_model(folders: dict[str, Path], tmp_path: Path) -> None:
    reference = _load(folders["llama"]).module
    reference.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    model = _load(tmp_path / "sharded").module
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))


def test_tensors_that_the_model_does_not_use_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"adapter.weight": torch.ones(3)}, folder / "model.safetensors", {"format": "pt"})
    assert _load(folder).info.notices == (
        "1 tensors of the files do not belong to the model and are not used (adapter.weight …).",
    )


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "available_bytes", lambda _device: 300_000)
    with pytest.raises(ModelLoadError, match=r"“model” needs 410 kB for its weights and 300 kB are free"):
        _load(folder)
    assert _load(folder, "bf16").info.weight_bytes == 204_768


def test_nothing_beside_the_checked_files_can_steer_the_load(folder: Path) -> None:
    """A distributed checkpoint would be unpickled, an adapter would fetch another model."""
    (folder / ".metadata").write_bytes(b"\x80\x04evil")
    (folder / "__0_0.distcp").write_bytes(b"evil")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere", "peft_type": "LORA"}')
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')
    assert _load(folder).info.layers == 3


def test_a_folder_without_tokenizer_loads_for_ids(tmp_path: Path) -> None:
    model = _load(build_llama(tmp_path, tokenizer=False))
    assert model.text.piece(17) == "⟨17⟩"
    assert not model.info.has_chat_template
    with pytest.raises(PromptError, match="no tokenizer"):
        model.text.encode("text")


def test_an_image_model_loads_though_it_is_no_language_model(tmp_path: Path) -> None:
    info = _load(build_imagegpt(tmp_path, colours=16)).info
    assert (info.family, info.vocab_size, info.max_positions, info.kv_heads) == ("imagegpt", 17, 64, 4)


def test_weights_are_no_map_of_the_users_file(folder: Path) -> None:
    """Else cutting the file would kill the process with SIGBUS, and writing to it would change the model."""
    model = _load(folder)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        before = model.module(ids).logits
        path = folder / "model.safetensors"
        with path.open("r+b") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
            file.seek(header)
            file.write(bytes(path.stat().st_size - header))
        assert not any(tensor.any() for tensor in load_file(path).values())
        assert torch.equal(model.module(ids).logits, before)


def test_progress_reaches_the_end_of_the_weights(folders: dict[str, Path]) -> None:
    control = Control()
    _load(folders["gpt2"], control=control)
    weights = [fraction for stage, fraction in control.told if stage == "Loading weights"]
    assert weights[0] == 0.0
    assert weights[-1] == 1.0
    assert weights == sorted(weights)
    assert control.told[0][0] == "Loading the tokenizer"


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 30])
def test_a_load_is_cancelled_after_any_progress_and_harms_nothing(folders: dict[str, Path], n: int) -> None:
    kept = _load(folders["llama"])
    control = Control(cancel_after=n)
    with pytest.raises(LoadCancelledError):
        _load(folders["gpt2"], "bf16", control)
    assert len(control.told) <= n + 1
    assert torch.get_default_dtype() == torch.float32
    with torch.inference_mode():
        assert kept.module(torch.tensor([[1, 2]])).logits.isfinite().all()
    assert _load(folders["gpt2"], "bf16").info.layers == 3


def _another_layer(folder: Path) -> None:
    _edit(folder, n_layer=4)


def _another_shape(folder: Path) -> None:
    _edit(folder, n_positions=65)


def _one_weight_less(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _drop(folder: Path, key: str) -> None:
    content = json.loads((folder / "config.json").read_text())
    content.pop(key, None)
    (folder / "config.json").write_text(json.dumps(content))


def _bert(folder: Path) -> None:
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 300, **sizes}))


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonsense"}}')


def _long_tokenizer(folder: Path) -> None:
    build_tokenizer(folder, vocab_size=301)


PROBLEMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a layer more": (_another_layer, r"weights of “model” are missing from its files \(12, transformer.h.3"),
    "another shape": (
        _another_shape,
        r"weights of “model” have another shape in its files \(1, transformer.wpe.weight first",
    ),
    "a weight less": (
        _one_weight_less,
        r"weights of “model” are missing from its files \(1, .*h\.1\.mlp\.c_fc\.weight first",
    ),
    "family unknown": (lambda f: _edit(f, model_type="gpt99"), "a family that transformers .* does not know"),
    "family without text": (lambda f: _edit(f, model_type="vit"), "vit model, which does not generate text"),
    "heads do not divide": (lambda f: _edit(f, n_head=5), "does not describe a gpt2 model: ValueError"),
    "a far larger model": (
        lambda f: _edit(f, n_layer=300),
        "describes 8,499,168 parameters, its weight files hold 102,384",
    ),
    "more than there is memory": (lambda f: _edit(f, n_layer=512, n_embd=65_536), "describes [0-9,]{15,} parameters"),
    "reads in both directions": (_bert, "bert model that reads in both directions .is_decoder is off."),
    "without a cache": (lambda f: _edit(f, model_type="openai-gpt"), "“model” .openai-gpt. keeps no KV cache"),
    "encoder-decoder": (
        lambda f: (_edit(f, model_type="t5"), _drop(f, "is_encoder_decoder")),
        "“model” is an encoder-decoder model .t5.; choose a decoder-only one",
    ),
    "values of another type": (
        lambda f: _edit(f, layer_norm_epsilon="small"),
        "config.json of “model” does not describe a gpt2 model",
    ),
    "tokenizer broken": (_broken_tokenizer, "The tokenizer of “model” cannot be loaded"),
    "tokenizer too long": (_long_tokenizer, "has ids up to 300, but the model embeds only 300"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_model_that_does_not_fit_together_is_refused(folder: Path, case: str) -> None:
    change, sentence = PROBLEMS[case]
    change(folder)
    with pytest.raises(ModelLoadError, match=sentence) as raised:
        _load(folder)
    assert "\n" not in raised.value.message
    assert torch.get_default_dtype() == torch.float32


class Panic(BaseException):
    """What tokenizers raises when Rust panics."""


@pytest.mark.parametrize("error", [Panic("regex too slow"), MemoryError(), ValueError("a\nb"), RecursionError("deep")])
@pytest.mark.parametrize("where", ["AutoTokenizer", "GPT2LMHeadModel"])
def test_whatever_is_raised_becomes_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(getattr(transformers, where), "from_pretrained", fail)
    with pytest.raises(ModelLoadError, match=r"loaded|memory") as raised:
        _load(folder)
    assert "\n" not in raised.value.message
    assert "Traceback" in raised.value.detail


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_wish_to_leave_is_not_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def leave(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loader, "check_folder", leave)
    with pytest.raises(error):
        _load(folder)


@pytest.fixture
def loud_transformers() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    yield
    logging.set_verbosity(before)


def test_loading_prints_nothing_and_leaves_settings_as_they_were(
    folder: Path, loud_transformers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = object()
    previous = logging.set_tqdm_hook(hook)
    try:
        _edit(folder, "generation_config.json", temperature=0.5, do_sample=False)  # transformers warns of this
        _load(folder)
        assert logging.get_verbosity() == logging.INFO
        assert logging.set_tqdm_hook(hook) is hook
    finally:
        logging.set_tqdm_hook(previous)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("device", "dtype", "sentence"),
    [
        ("gpu", "auto", "Unknown device “gpu”"),
        ("cuda:x", "auto", "Unknown device"),
        ("cpu", "int3", "Unknown precision “int3”"),
        pytest.param(
            "cuda",
            "auto",
            "no GPU that torch can use here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        pytest.param(
            "mps",
            "auto",
            "no Apple GPU",
            marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one"),
        ),
    ],
)
def test_a_device_or_precision_that_is_not_there_is_refused(device: str, dtype: str, sentence: str) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        load(ModelSpec("tiny-gpt2", device, dtype), 1, Control())


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert placement.choose_device("cuda:1") == torch.device("cuda:1")
    assert placement.choose_device("auto") == torch.device("cuda")
    with pytest.raises(ModelLoadError, match="no device cuda:2 here; the last one is cuda:1"):
        placement.choose_device("cuda:2")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"architecture": "arm64", "neon": True, "bf16": True}, torch.bfloat16),
    ],
)
def test_auto_precision_is_bf16_where_the_cpu_computes_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert placement.choose_dtype("auto", torch.device("cpu"), 10**9) == expected


def test_auto_precision_of_weights_that_stay_in_the_caches_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "computes_bf16", lambda device: True)
    most = placement.CACHED_BYTES // 4
    found = [placement.choose_dtype("auto", torch.device("cpu"), n) for n in (most, most + 1)]
    assert found == [torch.float32, torch.bfloat16]
    assert placement.choose_dtype("auto", torch.device("cuda"), 1) == torch.bfloat16
    assert placement.choose_dtype("bf16", torch.device("cpu"), 1) == torch.bfloat16
