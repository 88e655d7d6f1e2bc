"""What the chooser says of a model before it is loaded, from its preview alone."""

from __future__ import annotations

from dataclasses import dataclass

from app.state.texts import tr
from app.widgets.numbers import byte_count
from core.contract import ModelPreview

_KINDS = {
    "embedded": "comes with Tokenglass",
    "package": "from a package",
    "folder": "a folder",
    "gguf": "a GGUF file",
    "hub": "Hugging Face hub",
    "new": "random weights",
}


@dataclass(frozen=True, slots=True)
class Precision:
    """One line of the table of precisions, ready to show."""

    dtype: str
    weights: str
    per_token: str
    full: str
    used: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Lines of name and value, the precisions, and the verdict on memory."""

    title: str
    lines: tuple[tuple[str, str], ...]
    precisions: tuple[Precision, ...]
    verdict: str
    fits: bool
    notices: tuple[str, ...]


def facts(preview: ModelPreview) -> Facts:
    """The facts, ready to show."""
    verdict, fits = _verdict(preview)
    about = "" if preview.exact else tr("about ")
    heads = f"{preview.heads}" if preview.heads == preview.kv_heads else f"{preview.heads} / {preview.kv_heads} KV"
    lines = [
        (tr("source"), tr(_KINDS.get(preview.kind, preview.kind))),
        (tr("family"), preview.family),
        (tr("parameters"), about + count(preview.parameters)),
        (tr("layers × heads"), f"{preview.layers} × {heads}"),
        (tr("positions"), f"{preview.max_positions:,}"),
        (tr("vocabulary"), f"{preview.vocab_size:,}"),
    ]
    if preview.revision:
        lines.append((tr("commit"), preview.revision[:12]))
    if preview.download_bytes:
        lines.append((tr("to download"), byte_count(preview.download_bytes)))
    precisions = tuple(
        Precision(
            e.dtype,
            byte_count(e.weight_bytes),
            byte_count(e.kv_bytes_per_token),
            byte_count(e.kv_bytes_per_token * preview.max_positions),
            e.dtype == preview.dtype,
        )
        for e in preview.estimates
    )
    return Facts(preview.title, tuple(lines), precisions, verdict, fits, preview.notices)


def _verdict(preview: ModelPreview) -> tuple[str, bool]:
    free = byte_count(preview.available_bytes)
    where = f"{preview.device} · {preview.dtype}"
    needed = byte_count(preview.estimate().needed_bytes(preview.max_positions))
    missing = preview.missing_bytes()
    if not missing:
        return tr("Fits on {0}: {1} with a full context, {2} are free.").format(where, needed, free), True
    positions = preview.fitting_positions()
    if positions:
        text = tr("A full context does not fit on {0}, by {1}; {2} of {3} positions do ({4} are free).")
        short = byte_count(missing)
        return text.format(where, short, f"{positions:,}", f"{preview.max_positions:,}", free), True
    short = byte_count(preview.missing_bytes(positions=0))
    return tr("Does not fit on {0}: the weights alone exceed the {1} free by {2}.").format(where, free, short), False


def count(parameters: int) -> str:
    """`134.5 M`, `7.24 B`: how model sizes are written."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.4g} {unit}"
    return str(parameters)


NEW_SIZES: dict[str, tuple[str, str, str]] = {
    "gpt2": ("", "n_layer=8&n_embd=256&n_head=8", "n_layer=12&n_embd=768&n_head=12"),
    "llama": (
        "",
        "hidden_size=256&intermediate_size=704&num_hidden_layers=8&num_attention_heads=8&num_key_value_heads=4",
        "hidden_size=768&intermediate_size=2048&num_hidden_layers=12&num_attention_heads=12&num_key_value_heads=4",
    ),
    "qwen2": (
        "",
        "hidden_size=256&intermediate_size=704&num_hidden_layers=8&num_attention_heads=8&num_key_value_heads=4",
        "hidden_size=768&intermediate_size=2048&num_hidden_layers=12&num_attention_heads=12&num_key_value_heads=4",
    ),
    "imagegpt": ("", "n_layer=8&n_embd=256&n_head=8", "n_layer=12&n_embd=512&n_head=8"),
}
NEW_TITLES = {"gpt2": "GPT-2", "llama": "Llama", "qwen2": "Qwen2", "imagegpt": "ImageGPT"}


def new_name(family: str, size: int, seed: int) -> str:
    """The `ModelSpec.name` of a new model: small, medium or large, with its seed."""
    options = [o for o in (NEW_SIZES[family][size], f"seed={seed}" if seed else "") if o]
    return f"new:{family}" + (f"?{'&'.join(options)}" if options else "")
