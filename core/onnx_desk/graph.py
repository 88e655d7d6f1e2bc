"""The model as a graph: names and shapes, the inputs it is traced with, and the module that is traced.

Keys and values go in and out as plain tensors, `past_key_values.{i}.key` to `present.{i}.key`, since a graph knows no
cache. Left padding needs `position_ids`: GPT-2 has no other way to know where a row begins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import DynamicCache

from core.contract.errors import ExportError
from core.contract.onnx import DummyInput, OnnxForm, OnnxTensor
from core.models.loaded import LoadedModel
from core.onnx_desk.images import dummy_images
from core.onnx_desk.sizes import BATCH, GraphSizes

TOTAL, COVERED = "past_sequence + sequence", "total_sequence"
_KINDS = ("key", "value")
_MOVING_ROPE = ("dynamic", "longrope")


class Graph(torch.nn.Module):
    """`past`: K and V of each layer in turn, (B, H_kv, P, D) each; without them the whole sequence is given."""

    def __init__(self, module: torch.nn.Module, past: bool) -> None:
        super().__init__()
        self.module, self.past = module, past

    def forward(
        self,
        input_ids: torch.Tensor,  # (B, T)
        attention_mask: torch.Tensor,  # (B, P + T)
        position_ids: torch.Tensor,  # (B, T)
        past: list[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Logits (B, T, V), then K and V of each layer, (B, H_kv, P + T, D) each."""
        named = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        if past is None:
            return (self.module(**named, use_cache=False).logits,)
        pairs = [(past[i], past[i + 1]) for i in range(0, len(past), 2)]
        # Without the model's config every layer keeps all positions; the window is then the mask's affair.
        out = self.module(**named, past_key_values=DynamicCache(pairs), use_cache=True)
        present = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
        return (out.logits, *present)


def check_exportable(loaded: LoadedModel) -> None:
    """Raises `ExportError` for families whose forward takes no positions, since padding would go wrong, and for rotary
    embeddings that change with the text, which a graph cannot.
    """
    taken = inspect.signature(loaded.module.forward).parameters
    for name in ("input_ids", "attention_mask", "position_ids", "past_key_values"):
        if name not in taken:
            raise ExportError(
                f"{loaded.info.title} is a {loaded.info.family} model, whose forward takes no {name}; choose GPT-2, "
                "Llama, Qwen2, ImageGPT or one of their relatives."
            )

    found = rope_types(loaded.module.config.get_text_config())
    moving = next((kind for kind in _MOVING_ROPE if kind in found), None)
    if moving is not None:
        raise ExportError(
            f"{loaded.info.title} turns its keys by frequencies that depend on how long the text is (rope_type "
            f"{moving}), which a graph cannot; choose a model with another rope_type."
        )


def rope_types(config: Any) -> set[str]:
    """The kinds of rotary embedding that a configuration names, of each type of layer where they differ."""
    rope = getattr(config, "rope_parameters", None) or {}
    each = [rope, *(part for part in rope.values() if isinstance(part, dict))] if isinstance(rope, dict) else []
    return {str(part["rope_type"]) for part in each if "rope_type" in part}


def input_names(layers: int, past: bool) -> list[str]:
    """In the order of the graph."""
    more = [f"past_key_values.{i}.{k}" for i in range(layers) for k in _KINDS] if past else []
    return ["input_ids", "attention_mask", "position_ids", *more]


def output_names(layers: int, past: bool) -> list[str]:
    """In the order of the graph."""
    return ["logits", *([f"present.{i}.{k}" for i in range(layers) for k in _KINDS] if past else [])]


def moving_axes(layers: int, past: bool, name: Callable[[str], object]) -> dict[str, Any]:
    """Axes whose length may change, by argument, as `torch.export` takes them; `name` makes one of a text."""
    axes: dict[str, Any] = {
        "input_ids": {0: name("batch"), 1: name("sequence")},
        "attention_mask": {0: name("batch"), 1: name(COVERED if past else "sequence")},
        "position_ids": {0: name("batch"), 1: name("sequence")},
    }
    if past:
        axes["past"] = [{0: name("batch"), 2: name("past_sequence")} for _ in range(2 * layers)]
    return axes


def dummy_inputs(loaded: LoadedModel, sizes: GraphSizes, past: bool) -> tuple[Any, ...]:
    """What the model is traced with: see `current_form(…).dummies`."""
    length, before = sizes.sequence, sizes.past if past else 0
    if sizes.family == "imagegpt":
        ids = dummy_images(loaded, BATCH, length)
    else:
        ids = torch.randint(0, sizes.vocab_size, (BATCH, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(BATCH, before + length, dtype=torch.int64)
    positions = torch.arange(before, before + length).repeat(BATCH, 1)
    if not past:
        return ids, mask, positions
    shape = (BATCH, sizes.kv_heads, before, sizes.head_dim)
    return ids, mask, positions, [torch.zeros(shape) for _ in range(2 * sizes.layers)]


def current_form(sizes: GraphSizes, past: bool, opset: int) -> OnnxForm:
    """Names and shapes of the graph that is exported now; a test reads them back from a file."""
    batch, length = (0, "batch"), (1, "sequence")
    before = ("batch", f"{sizes.kv_heads}", "past_sequence", f"{sizes.head_dim}")
    after = ("batch", f"{sizes.kv_heads}", TOTAL, f"{sizes.head_dim}")
    total = COVERED if past else "sequence"
    inputs = [
        OnnxTensor("input_ids", (batch, length), ("batch", "sequence"), "int64"),
        OnnxTensor("attention_mask", (batch, (1, total)), ("batch", total), "int64"),
        OnnxTensor("position_ids", (batch, length), ("batch", "sequence"), "int64"),
    ]
    outputs = [OnnxTensor("logits", (batch, length), ("batch", "sequence", f"{sizes.logits}"), "float32")]
    if past:
        moves = (batch, (2, "past_sequence"))
        inputs += [OnnxTensor(f"past_key_values.{{i}}.{k}", moves, before, "float32", sizes.layers) for k in _KINDS]
        grown = (batch, (2, TOTAL))
        outputs += [OnnxTensor(f"present.{{i}}.{k}", grown, after, "float32", sizes.layers) for k in _KINDS]
    return OnnxForm(
        title="exported now",
        opset=opset,
        facts=(
            ("exporter", f"torch.onnx {torch.__version__.split('+')[0]}, dynamo"),
            ("opset", str(opset)),
            ("layers", str(sizes.layers)),
            ("key/value heads", str(sizes.kv_heads)),
            ("precision", "float32"),
        ),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        dummies=_dummies(sizes, past),
    )


def _dummies(sizes: GraphSizes, past: bool) -> tuple[DummyInput, ...]:
    length, before = sizes.sequence, sizes.past if past else 0
    image = sizes.family == "imagegpt"
    tokens = "pixels of random images as numbers of colour clusters" if image else "random ids"
    covered = "ones over past and sequence" if past else "ones"
    found = [
        DummyInput("input_ids", "int64", (BATCH, length), tokens),
        DummyInput("attention_mask", "int64", (BATCH, before + length), covered),
        DummyInput("position_ids", "int64", (BATCH, length), f"{before} to {before + length - 1}"),
    ]
    if past:
        shape = (BATCH, sizes.kv_heads, before, sizes.head_dim)
        note = f"zeros; past length = sequence length + 2 = {before}"
        found += [DummyInput(f"past_key_values.{{i}}.{k}", "float32", shape, note, sizes.layers) for k in _KINDS]
    return tuple(found)


def collapse(tensors: list[OnnxTensor]) -> tuple[OnnxTensor, ...]:
    """The tensors of all layers as one line with `{i}`, where they differ in the number of the layer alone."""
    found: dict[OnnxTensor, int] = {}
    for tensor in tensors:
        parts = tensor.name.split(".")
        name = ".".join("{i}" if part.isdigit() else part for part in parts)
        one = OnnxTensor(name, tensor.axes, tensor.shape, tensor.dtype)
        found[one] = found.get(one, 0) + 1
    return tuple(OnnxTensor(t.name, t.axes, t.shape, t.dtype, count) for t, count in found.items())


def read_tensors(values: Iterable[Any]) -> tuple[OnnxTensor, ...]:
    """Inputs or outputs as onnxruntime reports them."""
    made = []
    for value in values:
        shape = tuple(_axis(n) for n in value.shape)
        moves = tuple((i, name) for i, name in enumerate(shape) if not name.isdigit())
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        made.append(OnnxTensor(value.name, moves, shape, {"float": "float32"}.get(kind, kind)))
    return collapse(made)


def _axis(length: object) -> str:
    """A sum in one order: the exporter writes both."""
    return " + ".join(sorted(str(length).split(" + ")))
