"""The architectures of which new models can be made: every option with its meaning, default and bounds.

The options are fields of the family's config class, verbatim, plus `rope_theta` and `seed`. What is not named has a
small default. Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.domains.byte_tokenizer import BYTE_VOCABULARY

AUTO = "auto"  # of ids: the end of text where every byte has an id, else none
LARGEST_VOCABULARY = 1 << 20
_ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh")
Value = int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class NewOption:
    """One option of a family. Numbers have inclusive bounds, texts choices; None is allowed where it is the default.

    kind: `id` is a token id, several as a list, none or auto; `json` an object or a list, as its JSON text.
    """

    name: str
    default: Value
    doc: str
    low: float = 0
    high: float = 1
    choices: tuple[str, ...] = ()
    kind: Literal["plain", "id", "json"] = "plain"


@dataclass(frozen=True, slots=True)
class NewFamily:
    """A family of which new models can be made."""

    name: str  # config.model_type
    title: str
    options: tuple[NewOption, ...]
    heads: tuple[str, ...]  # the width must be a multiple of the first, the first a multiple of the second
    width: str
    text: bool = True

    def option(self, name: str) -> NewOption | None:
        """The option of this name, if there is one."""
        return next((option for option in self.options if option.name == name), None)


def _seed() -> NewOption:
    return NewOption("seed", 0, "Seed of the random weights.", 0, (1 << 63) - 1)


def _std() -> NewOption:
    return NewOption(
        "initializer_range", 0.02, "Standard deviation of the weights; 0.3 gives sharp distributions.", 0.0, 1.0
    )


def _size(name: str, default: int | None, doc: str, high: int) -> NewOption:
    return NewOption(name, default, doc, 1, high)


def _vocabulary(default: int) -> NewOption:
    return _size("vocab_size", default, "Tokens.", LARGEST_VOCABULARY)


def _ids() -> tuple[NewOption, ...]:
    def one(name: str, default: Value, doc: str) -> NewOption:
        return NewOption(name, default, doc, 0, LARGEST_VOCABULARY, kind="id")

    return (
        one("bos_token_id", AUTO, "The token that begins a text."),
        one("eos_token_id", AUTO, "The token that ends a text, or several; generation stops there."),
        one("pad_token_id", None, "The token that fills up shorter rows of a batch in training."),
    )


def _dropout(name: str, default: float, where: str) -> NewOption:
    return NewOption(name, default, f"Share of values set to zero {where}, in training only.", 0.0, 1.0)


def _use_cache() -> NewOption:
    return NewOption("use_cache", True, "Whether forward returns K and V unless told otherwise.")


def _gpt(vocab_size: int, positions: int, activation: str, tied: bool, *more: NewOption) -> tuple[NewOption, ...]:
    return (
        _vocabulary(vocab_size),
        _size("n_positions", positions, "Positions the model has embeddings for.", 1 << 20),
        _size("n_embd", 128, "Width of the residual stream.", 65_536),
        _size("n_layer", 4, "Layers.", 512),
        _size("n_head", 4, "Attention heads of a layer.", 1024),
        _size("n_inner", None, "Width inside the feed-forward layers; four times n_embd when none.", 1 << 20),
        NewOption("activation_function", activation, "Activation in the feed-forward layers.", choices=_ACTIVATIONS),
        NewOption("layer_norm_epsilon", 1e-5, "Added to the variance in layer norms.", 0.0, 1.0),
        NewOption("scale_attn_weights", True, "Divide attention scores by the root of the head dim."),
        NewOption("scale_attn_by_inverse_layer_idx", False, "Divide them by the number of the layer, too."),
        NewOption(
            "reorder_and_upcast_attn", False, "Compute attention scores in fp32; heeded by eager attention only."
        ),
        NewOption("tie_word_embeddings", tied, "The head uses the weights of the embedding."),
        *_ids(),
        _dropout("resid_pdrop", 0.1, "after attention and feed-forward layers"),
        _dropout("embd_pdrop", 0.1, "after the embeddings"),
        _dropout("attn_pdrop", 0.1, "in the attention weights"),
        *more,
        _use_cache(),
        _std(),
        _seed(),
    )


def _summary() -> tuple[NewOption, ...]:
    """Settings of the second head of GPT2DoubleHeadsModel, which a language model does not have."""
    kinds = ("last", "first", "mean", "cls_index", "attn")
    where = "of the second head that GPT2DoubleHeadsModel has; without effect here."
    return (
        NewOption("summary_type", "cls_index", f"The position read by it: a setting {where}", choices=kinds),
        NewOption("summary_use_proj", True, f"A projection {where}"),
        NewOption("summary_activation", None, f"The activation {where}", choices=("tanh",)),
        NewOption("summary_proj_to_labels", True, f"The width of the projection {where}"),
        _dropout("summary_first_dropout", 0.1, "before the second head"),
    )


def _rotary(*more: NewOption, tied: bool = False) -> tuple[NewOption, ...]:
    return (
        _vocabulary(BYTE_VOCABULARY),
        _size("max_position_embeddings", 512, "Positions.", 1 << 20),
        _size("hidden_size", 128, "Width of the residual stream.", 65_536),
        _size("intermediate_size", 352, "Width inside the feed-forward layers.", 1 << 20),
        _size("num_hidden_layers", 4, "Layers.", 512),
        _size("num_attention_heads", 4, "Attention heads of a layer.", 1024),
        _size("num_key_value_heads", 2, "Key/value heads, shared by groups of attention heads.", 1024),
        NewOption("hidden_act", "silu", "Activation in the feed-forward layers.", choices=_ACTIVATIONS),
        NewOption("rms_norm_eps", 1e-6, "Added to the mean square in norms.", 0.0, 1.0),
        NewOption("rope_theta", 10_000.0, "Base of the rotary frequencies.", 1.0, 1e12),
        NewOption("rope_parameters", None, "Rotary frequencies in full: rope_theta, rope_type, scaling.", kind="json"),
        *more,
        NewOption("tie_word_embeddings", tied, "The head uses the weights of the embedding."),
        *_ids(),
        _dropout("attention_dropout", 0.0, "in the attention weights"),
        _use_cache(),
        _std(),
        _seed(),
    )


FAMILIES: Mapping[str, NewFamily] = {
    family.name: family
    for family in (
        NewFamily("gpt2", "GPT-2", _gpt(BYTE_VOCABULARY, 512, "gelu_new", True, *_summary()), ("n_head",), "n_embd"),
        NewFamily(
            "llama",
            "Llama",
            _rotary(
                _size("head_dim", None, "Values of a head; hidden_size / num_attention_heads when none.", 8192),
                NewOption("attention_bias", False, "Biases in the attention projections."),
                NewOption("mlp_bias", False, "Biases in the feed-forward layers."),
                _size("pretraining_tp", 1, "Slices the weights were trained in; without effect here.", 1024),
            ),
            ("num_attention_heads", "num_key_value_heads"),
            "hidden_size",
        ),
        NewFamily(
            "qwen2",
            "Qwen2",
            _rotary(
                NewOption("use_sliding_window", False, "The upper layers see a window only."),
                _size("sliding_window", 64, "Positions of that window.", 1 << 20),
                NewOption("max_window_layers", 2, "So many lower layers see everything.", 0, 512),
                NewOption("layer_types", None, "What each layer sees; from the two above when none.", kind="json"),
                tied=True,
            ),
            ("num_attention_heads", "num_key_value_heads"),
            "hidden_size",
        ),
        NewFamily("imagegpt", "ImageGPT", _gpt(513, 1024, "quick_gelu", False), ("n_head",), "n_embd", text=False),
    )
}
