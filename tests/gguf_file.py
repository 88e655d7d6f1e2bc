"""A tiny Llama as a GGUF file, laid out as llama.cpp's converter does."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from tests.models import CHAT_TEMPLATE, build_llama, build_tokenizer

HEADS, KV_HEADS, WIDTH = 2, 1, 64  # rows of 32 weights and more can be quantised
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TOP_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def build_gguf(folder: Path, *, quantised: bool = False, end_of_turn: int | None = None) -> tuple[Path, Path]:
    """A transformers folder with a tied Llama, and the GGUF file made of it (Q4_1 when `quantised`)."""
    source = build_llama(
        folder / "source",
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        tie_word_embeddings=True,
    )
    build_tokenizer(source, chat_template=CHAT_TEMPLATE)
    path = folder / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    _write_sizes(writer)
    _write_tokenizer(writer, source, end_of_turn)
    kind = gguf.GGMLQuantizationType.Q4_1 if quantised else gguf.GGMLQuantizationType.F32
    for name, weights in load_file(source / "model.safetensors").items():
        _write_tensor(writer, name, weights, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return source, path


def _write_sizes(writer: gguf.GGUFWriter) -> None:
    writer.add_name("Tiny")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(300)


def _write_tokenizer(writer: gguf.GGUFWriter, source: Path, end_of_turn: int | None) -> None:
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))  # control, normal
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    if end_of_turn is not None:
        writer.add_eot_token_id(end_of_turn)


def _write_tensor(writer: gguf.GGUFWriter, name: str, weights: np.ndarray, kind: gguf.GGMLQuantizationType) -> None:
    for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
        if part in name:  # llama.cpp interleaves the two halves of each head for its rotary kernel
            rows = weights.shape[0]
            weights = weights.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(rows, -1)
    if weights.ndim == 1:
        kind = gguf.GGMLQuantizationType.F32
    writer.add_tensor(_gguf_name(name), gguf.quants.quantize(weights, kind), raw_dtype=kind)


def _gguf_name(name: str) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    _, _, layer, *part, ending = name.split(".")
    return f"blk.{layer}.{_NAMES['.'.join(part)]}.{ending}"
