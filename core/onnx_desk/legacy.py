"""The graph as `transformers.onnx` described it, which was removed in transformers 5.

After `OnnxConfig` and `OnnxConfigWithPast` (src/transformers/onnx/config.py) and `GPT2OnnxConfig`, `ImageGPTOnnxConfig`
(src/transformers/models/*/configuration_*.py) of transformers 4.
"""

from __future__ import annotations

from core.contract.onnx import DummyInput, OnnxForm, OnnxTensor
from core.onnx_desk.images import IMAGE_SIDE
from core.onnx_desk.sizes import BATCH, GraphSizes

GPT2_OPSET, IMAGEGPT_OPSET = 13, 11  # GPT2OnnxConfig said 13, ImageGPTOnnxConfig kept the default
WITH_PAST, ALONE = "past_sequence + sequence", "sequence"


def legacy_form(sizes: GraphSizes, past: bool) -> OnnxForm:
    """Names and moving axes as they were described, and the dummy inputs that were made from them."""
    if sizes.family == "imagegpt":
        return _image_form(sizes)
    total = WITH_PAST if past else ALONE
    axes = ((0, "batch"), (2, WITH_PAST))
    inputs = [OnnxTensor("input_ids", ((0, "batch"), (1, ALONE)))]
    outputs = [OnnxTensor("logits", ((0, "batch"), (1, ALONE)))]
    if past:
        inputs += [OnnxTensor(f"past_key_values.{{i}}.{k}", axes, count=sizes.layers) for k in ("key", "value")]
        outputs += [OnnxTensor(f"present.{{i}}.{k}", axes, count=sizes.layers) for k in ("key", "value")]
    inputs.append(OnnxTensor("attention_mask", ((0, "batch"), (1, total))))
    return OnnxForm(
        title="transformers 4",
        opset=GPT2_OPSET,
        facts=_facts(sizes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        dummies=_dummies(sizes, past),
    )


def _facts(sizes: GraphSizes) -> tuple[tuple[str, str], ...]:
    described = sizes.family == "gpt2"
    return (
        ("class", "GPT2OnnxConfig" if described else "OnnxConfigWithPast; this family had no class of its own"),
        ("opset", str(GPT2_OPSET)),
        ("num_layers", str(sizes.layers)),
        ("num_attention_heads", str(sizes.heads)),
        ("pad_token_id", "0, the model has none" if sizes.pad_token_id is None else str(sizes.pad_token_id)),
    )


def _dummies(sizes: GraphSizes, past: bool) -> tuple[DummyInput, ...]:
    """`generate_dummy_inputs`: a past two longer than the sequence, all zeros, and a mask that covers both."""
    length = sizes.sequence
    words = "the tokenizer's unknown token, else “0”, over and over"
    found = [DummyInput("input_ids", "int64", (BATCH, length), words)]
    if past:
        shape = (BATCH, sizes.heads, sizes.past, sizes.hidden_size // sizes.heads)
        note = f"zeros; past length = sequence length + 2 = {sizes.past}"
        found += [
            DummyInput(f"past_key_values.{{i}}.{k}", "float32", shape, note, sizes.layers) for k in ("key", "value")
        ]
    covered = length + sizes.past if past else length
    found.append(
        DummyInput("attention_mask", "int64", (BATCH, covered), "ones over past and sequence" if past else "ones")
    )
    return tuple(found)


def _image_form(sizes: GraphSizes) -> OnnxForm:
    pixels = IMAGE_SIDE * IMAGE_SIDE
    return OnnxForm(
        title="transformers 4",
        opset=IMAGEGPT_OPSET,
        facts=(
            ("class", "ImageGPTOnnxConfig; it knew no past"),
            ("opset", str(IMAGEGPT_OPSET)),
            ("num_layers", str(sizes.layers)),
            ("num_attention_heads", str(sizes.heads)),
        ),
        inputs=(OnnxTensor("input_ids", ((0, "batch"), (1, ALONE))),),
        outputs=(OnnxTensor("logits", ((0, "batch"), (1, ALONE))),),
        dummies=(
            DummyInput(
                "input_ids",
                "int64",
                (1, pixels),
                f"a random image of {IMAGE_SIDE} × {IMAGE_SIDE}, each pixel the number of the nearest colour cluster",
            ),
        ),
    )
