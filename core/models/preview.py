"""What a model would take, before a byte of its weights is read."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch

from core.contract.errors import ModelLoadError, TokenglassError
from core.contract.preview import DtypeEstimate, ModelPreview
from core.contract.specs import ModelSpec
from core.domains.sandboxed import one_line
from core.models.blueprint import Blueprint, check_stored, draw_up
from core.models.clean import clean_config
from core.models.conversion import known_conversion
from core.models.download import Survey, cached_folder, survey
from core.models.files import check_file
from core.models.gguf_header import GgufHeader, read_gguf_header
from core.models.load_control import LoadControl, Unwatched
from core.models.placement import DTYPE_NAMES, DTYPES, available_bytes, check_dtype, choose_device, choose_dtype
from core.models.preflight import CONFIG, check_folder, check_small_files
from core.models.sources import ModelSource, resolve


def asks_the_hub(spec: ModelSpec) -> bool:
    """Whether a preview needs `survey_hub` first: the model is on the hub and not on this disk."""
    source = resolve(spec.name)
    return source.hub is not None and cached_folder(source.hub) is None


def survey_hub(spec: ModelSpec, control: LoadControl) -> Survey:
    """The part of a preview that waits for the network, for at most 30 s; may run beside anything.

    Raises `ModelLoadError`, `LoadCancelledError`.
    """
    hub = resolve(spec.name).hub
    assert hub is not None
    return survey(hub, control)


def preview(spec: ModelSpec, control: LoadControl | None = None, found: Survey | None = None) -> ModelPreview:
    """Parameters, bytes and free memory of the model `spec` names; nothing of it is loaded.

    For a model of the hub that is not on this disk its small files are downloaded, with a limit of 30 s, unless
    `found` says where they are. Takes milliseconds otherwise. Raises `ModelLoadError`, `LoadCancelledError`.
    """
    try:
        return _preview(spec, control or Unwatched(), found)
    except (KeyboardInterrupt, SystemExit, TokenglassError):
        raise
    except BaseException as error:
        raise ModelLoadError(
            f"“{Path(spec.name).name}” cannot be looked at: {one_line(error)}.", detail=traceback.format_exc()
        ) from None


def _preview(spec: ModelSpec, control: LoadControl, found: Survey | None) -> ModelPreview:
    device = choose_device(spec.device)
    check_dtype(spec.dtype)
    source = resolve(spec.name)
    here: dict[str, Any] = {
        "spec": spec,
        "title": source.title,
        "kind": source.kind,
        "device": str(device),
        "available_bytes": available_bytes(device),
    }
    if source.new is not None:
        return _of_blueprint(draw_up(source.title, source.new.config()), here, notices=source.new.notices)
    if source.hub is not None:
        found = found or survey(source.hub, control)
        return _of_folder(source, found.folder, here, download_bytes=found.missing_bytes, revision=found.folder.name)
    if source.path is None:
        raise ModelLoadError(f"{source.title} cannot be loaded: {source.reason}")
    if source.path.suffix.lower() != ".gguf":
        return _of_folder(source, source.path, here)
    check_file(source.path, None)
    converted = known_conversion(source.path)
    if converted is not None:
        return _of_folder(source, converted, here)
    return _of_header(source, read_gguf_header(source.path), here)


def _of_folder(source: ModelSource, folder: Path, here: dict[str, Any], **more: Any) -> ModelPreview:
    if more.get("download_bytes"):  # the weights are not there yet
        _, parsed = check_small_files(folder)
        return _of_blueprint(draw_up(source.title, clean_config(parsed[CONFIG])), here, **more)
    checked = check_folder(folder)
    blueprint = draw_up(source.title, checked.config)
    check_stored(source.title, blueprint, checked.stored)
    return _of_blueprint(blueprint, here, notices=checked.notices, **more)


def _of_blueprint(blueprint: Blueprint, here: dict[str, Any], *, revision: str = "", **more: Any) -> ModelPreview:
    size = blueprint.size
    return ModelPreview(
        family=str(blueprint.config.model_type),
        revision=revision,
        parameters=blueprint.parameters,
        dtype=_dtype_name(here, blueprint.parameters),
        layers=size.layers,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        hidden_size=size.hidden_size,
        vocab_size=int(blueprint.config.get_text_config().vocab_size),
        max_positions=size.max_positions,
        estimates=tuple(
            DtypeEstimate(name, blueprint.weight_bytes(dtype), size.kv_bytes_per_token(dtype))
            for name, dtype in DTYPES.items()
        ),
        **here,
        **more,
    )


def _dtype_name(here: dict[str, Any], parameters: int) -> str:
    return DTYPE_NAMES[choose_dtype(here["spec"].dtype, torch.device(here["device"]), parameters)]


def _of_header(source: ModelSource, header: GgufHeader, here: dict[str, Any]) -> ModelPreview:
    """From what the file says of itself; the vocabulary is its tokens, which the header lists but we skip."""
    number = header.number
    layers, heads, hidden = number("block_count"), number("attention.head_count"), number("embedding_length")
    positions = number("context_length")
    if not (layers and heads and hidden and positions):
        raise ModelLoadError(
            f"{source.title} is a GGUF file of {header.architecture or 'an unknown architecture'}, which does not say "
            "how large its layers are; it is no language model."
        )
    kv_heads = number("attention.head_count_kv") or heads
    head_dim = number("attention.key_length") or hidden // heads
    latent = number("attention.kv_lora_rank")  # then the rotary part is all that each head needs beside it
    per_token = layers * (latent + (number("rope.dimension_count") or 0) if latent else 2 * kv_heads * head_dim)
    return ModelPreview(
        family=header.architecture,
        revision="",
        parameters=header.parameters,
        dtype=_dtype_name(here, header.parameters),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=hidden,
        vocab_size=number("vocab_size") or header.tokens,
        max_positions=positions,
        estimates=tuple(
            DtypeEstimate(name, header.parameters * dtype.itemsize, per_token * dtype.itemsize)
            for name, dtype in DTYPES.items()
        ),
        exact=False,
        **here,
    )
