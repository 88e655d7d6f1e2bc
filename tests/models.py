"""Small random models for tests: the real families, sharp distributions, made in a tenth of a second.

Weights are drawn with a standard deviation of 0.3, ten times the usual one: distributions are sharp, so that a mistake
in a mask or a position changes tokens instead of the fifth decimal.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as tokenizer_models
from tokenizers.trainers import BpeTrainer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    ImageGPTConfig,
    ImageGPTForCausalImageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging

END = "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCAB_SIZE = 300
INIT_STD = 0.3
TEXT = [
    "Once upon a time there was a little dog who lived in a big house.",
    "The dog was happy, and the cat was happy, too. They played all day.",
    "Then it was night and they said good night to the moon.",
]


def build_tokenizer(path: Path, *, vocab_size: int = VOCAB_SIZE, chat_template: str | None = None) -> Path:
    """A byte-level BPE in `path`: id 0 is `<|endoftext|>` (BOS and EOS), every byte has an id."""
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    _wrap(tokenizer, bos_token=END, eos_token=END, chat_template=chat_template).save_pretrained(path)
    return path


def build_sentencepiece_tokenizer(path: Path) -> Path:
    """A Llama-2-like BPE in `path`: `▁` for spaces, `<0xNN>` for bytes, the first space stripped when decoding."""
    specials = ["<unk>", "<s>", "</s>"]
    vocabulary = [*specials, *(f"<0x{n:02X}>" for n in range(256)), "▁", *"adeghlnorstuwy.,é", "▁t", "he", "▁the"]
    tokenizer = Tokenizer(
        tokenizer_models.BPE(
            vocab={token: n for n, token in enumerate(vocabulary)},
            merges=[("▁", "t"), ("h", "e"), ("▁t", "he")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    _wrap(tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(path)
    return path


def build_gpt2(path: Path, *, tokenizer: bool = True, seed: int = 0, **config: Any) -> Path:
    """GPT-2 with 3 layers × 48, 4 heads, 64 positions, tied head."""
    sizes = {"n_layer": 3, "n_embd": 48, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    made = GPT2Config(**{"vocab_size": VOCAB_SIZE, "initializer_range": INIT_STD, **sizes, **dropout, **config})
    return _save(GPT2LMHeadModel, made, path, tokenizer, seed)


def build_draft(path: Path, of: Path, layers: int = 2) -> Path:
    """A smaller model with the vocabulary of a GPT-2 in `of`: its first layers alone, under its own norm and head."""
    whole = GPT2LMHeadModel.from_pretrained(of)
    whole.transformer.h = whole.transformer.h[:layers]
    whole.config.n_layer = layers
    whole.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(of / name, path / name)
    return path


def build_llama(path: Path, *, tokenizer: bool = True, seed: int = 0, **config: Any) -> Path:
    """Llama with 2 layers × 48, 6 heads over 2 key/value heads, 128 positions, head not tied."""
    return _save(LlamaForCausalLM, LlamaConfig(**_rotary(**config)), path, tokenizer, seed)


def build_qwen2(
    path: Path, *, sliding_window: int | None = None, tokenizer: bool = True, seed: int = 0, **config: Any
) -> Path:
    """Qwen2 with 3 layers × 48, 6 heads over 2, 128 positions; with `sliding_window` all but the first layer slide."""
    sliding: dict[str, Any] = {"num_hidden_layers": 3}
    if sliding_window is not None:
        sliding |= {"use_sliding_window": True, "sliding_window": sliding_window, "max_window_layers": 1}
    return _save(Qwen2ForCausalLM, Qwen2Config(**_rotary(**sliding, **config)), path, tokenizer, seed)


def build_imagegpt(
    path: Path, *, height: int = 8, width: int = 8, colours: int = 40, seed: int = 0, **config: Any
) -> Path:
    """ImageGPT with 3 layers × 48, 4 heads, a palette of random colours and one position a pixel."""
    sizes = {"n_layer": 3, "n_embd": 48, "n_head": 4, "n_positions": height * width, "vocab_size": colours + 1}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    made = ImageGPTConfig(**{"initializer_range": INIT_STD, **sizes, **dropout, **config})
    _save(ImageGPTForCausalImageModeling, made, path, False, seed)
    generator = torch.Generator().manual_seed(seed)
    clusters = (torch.rand(made.vocab_size - 1, 3, generator=generator) * 2 - 1).tolist()
    processor = {"clusters": clusters, "size": {"height": height, "width": width}, "resample": 2}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def _rotary(**config: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": INIT_STD,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
        **config,
    }


def _save(kind: type[PreTrainedModel], config: Any, path: Path, tokenizer: bool, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(path)
    finally:
        if bar:
            logging.enable_progress_bar()
    if tokenizer:
        build_tokenizer(path, vocab_size=min(VOCAB_SIZE, config.vocab_size))
    return path


def _wrap(tokenizer: Tokenizer, chat_template: str | None = None, **tokens: str) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **tokens)
    wrapped.chat_template = chat_template
    return wrapped
