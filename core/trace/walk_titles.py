"""What modules are called in a walk, by the last part of their name; class and path stay beside it."""

from __future__ import annotations

NAMED = frozenset({"gpt2", "imagegpt", "llama", "qwen2"})

_TITLES = {
    "": "model",
    "transformer": "decoder",
    "model": "decoder",
    "wte": "token embeddings",
    "embed_tokens": "token embeddings",
    "wpe": "position embeddings",
    "drop": "dropout",
    "rotary_emb": "rotary positions",
    "ln_1": "norm",
    "input_layernorm": "norm",
    "attn": "attention",
    "self_attn": "attention",
    "c_attn": "q, k, v",
    "q_attn": "q",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "projection",
    "attn_dropout": "dropout",
    "resid_dropout": "dropout",
    "ln_cross_attn": "norm",
    "crossattention": "cross attention",
    "ln_2": "norm",
    "post_attention_layernorm": "norm",
    "mlp": "MLP",
    "c_fc": "up",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "act": "activation",
    "act_fn": "activation",
    "dropout": "dropout",
    "ln_f": "final norm",
    "norm": "final norm",
    "lm_head": "head",
}


def title_of(name: str, kind: str, call: int) -> str:
    """`attention` for `transformer.h.3.attn`; `layer 3` for a layer; the name itself where there is no better one."""
    parent, _, short = name.rpartition(".")
    if short.isdigit():
        return f"layer {short}"
    if short == "c_proj":
        return "down" if parent.endswith("mlp") else "projection"
    if short == "wte" and call > 1:
        return "token type embeddings"
    if short == "c_attn" and parent.endswith("crossattention"):
        return "k, v"
    return _TITLES.get(short, short or kind)
