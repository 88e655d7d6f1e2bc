"""From a `ModelSpec` to a model in memory, with progress, cancellable, every failure one sentence.

Loading changes process-wide torch state while it runs (default dtype, patched initialisers), so it must happen in
the thread that also generates, never beside it.
"""

from __future__ import annotations

import time
import traceback
import weakref
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import GenerationConfig, PreTrainedModel

from core.contract.errors import LoadCancelledError, ModelLoadError, TokenglassError
from core.contract.specs import ModelSpec
from core.domains.byte_tokenizer import build_byte_tokenizer
from core.domains.chat import sandboxed_template
from core.domains.domain import Domain
from core.domains.encoding import SandboxedEncoder
from core.domains.image import ImageDomain, canvas_of, colour_cube
from core.domains.sandboxed import one_line
from core.domains.text import IdDomain, TextDomain
from core.models.blueprint import Blueprint, check_memory, check_stored, draw_up
from core.models.facts import model_info
from core.models.files import folder_name
from core.models.load_control import LoadControl, stop_if_cancelled, watched_transformers
from core.models.loaded import LoadedModel
from core.models.new_model import NewModel
from core.models.own_attention import widen_causal_tables
from core.models.palette import read_image_domain
from core.models.placement import available_bytes, check_dtype, choose_device, choose_dtype
from core.models.preflight import CheckedFolder, check_folder
from core.models.random_weights import build_random
from core.models.settle import check_finite, settle
from core.models.sources import ModelSource, resolve
from core.models.tokenizer_files import tried_tokenizer
from core.models.whereabouts import find_folder

__all__ = ["LoadControl", "load"]

_in_use: weakref.WeakValueDictionary[tuple[object, ...], Any] = weakref.WeakValueDictionary()  # trusted tokenizers


def load(spec: ModelSpec, model_id: int, control: LoadControl) -> LoadedModel:
    """Load the model `spec` names. Raises `ModelLoadError`, and `LoadCancelledError` when `control` says so."""
    try:
        return _load(spec, model_id, control)
    except (KeyboardInterrupt, SystemExit):
        raise
    except TokenglassError as error:
        if error.message.isprintable():
            raise
        # Names of files and values of a config are not ours: no second line, no control characters.
        sentence = "".join(c if c.isprintable() else " " for c in error.message)
        raise type(error)(" ".join(sentence.split()), detail=error.detail) from error
    except BaseException as error:  # tokenizers panics with a BaseException
        sentence, detail = _sentence(Path(spec.name).name, error), traceback.format_exc()
    # Outside the handler, so that no traceback keeps half a model alive.
    if control.cancelled():
        raise LoadCancelledError("The load was cancelled.", detail=detail)
    raise ModelLoadError(sentence, detail=detail)


def _load(spec: ModelSpec, model_id: int, control: LoadControl) -> LoadedModel:
    started = time.perf_counter()
    # 1. What was asked for
    device = choose_device(spec.device)
    check_dtype(spec.dtype)
    source = resolve(spec.name)
    stop_if_cancelled(control)
    with watched_transformers(control):
        # 2. Tokens and weights
        if source.new is not None:
            module, text, notices = _make(source.new, spec, device, control)
            revision = ""
        else:
            place = find_folder(source, control)
            module, text, notices = _read(source, place.folder, spec, device, control)
            revision = place.revision
        # 3. Ours alone, on its device
        stop_if_cancelled(control)
        control.progress(f"Moving to {device}", None)
        settle(module, device, control)
        widen_causal_tables(module)
        check_finite(source.title, module, control)
        stop_if_cancelled(control)
    load_ms = (time.perf_counter() - started) * 1e3
    info = model_info(model_id=model_id, spec=spec, title=source.title, module=module, text=text, load_ms=load_ms)
    info = replace(info, revision=revision, notices=notices + info.notices)
    return LoadedModel(spec, module, text, info, module.device, module.dtype)


def _make(
    new: NewModel, spec: ModelSpec, device: torch.device, control: LoadControl
) -> tuple[PreTrainedModel, Domain, tuple[str, ...]]:
    """A model with random weights."""
    control.progress("Drawing weights", None)
    blueprint = draw_up(new.title, new.config())
    needed = blueprint.weight_bytes(torch.float32) + blueprint.buffer_bytes
    check_memory(new.title, needed, available_bytes(torch.device("cpu")))
    dtype = choose_dtype(spec.dtype, device, blueprint.parameters)
    module = build_random(blueprint, new.seed, dtype, control)
    return module, _new_domain(new, blueprint), new.notices


def _new_domain(new: NewModel, blueprint: Blueprint) -> Domain:
    if blueprint.paints:
        height, width = canvas_of(blueprint.size.max_positions)
        return ImageDomain(colour_cube(blueprint.embedding_rows - 1), height, width)
    return TextDomain(build_byte_tokenizer()) if new.types_text else IdDomain()


def _read(
    source: ModelSource, path: Path, spec: ModelSpec, device: torch.device, control: LoadControl
) -> tuple[PreTrainedModel, Domain, tuple[str, ...]]:
    """A model from a folder, checked before transformers sees anything of it."""
    folder = check_folder(path)
    stop_if_cancelled(control)
    blueprint = draw_up(source.title, folder.config)
    check_stored(source.title, blueprint, folder.stored)
    dtype = choose_dtype(spec.dtype, device, blueprint.parameters)
    check_memory(source.title, blueprint.weight_bytes(dtype) + blueprint.buffer_bytes, available_bytes(device))
    text: Domain
    if blueprint.paints:
        text = read_image_domain(folder, blueprint.embedding_rows, blueprint.size.max_positions)
    else:
        text = _load_text(source, folder, blueprint.embedding_rows, control)
    stop_if_cancelled(control)
    control.progress("Loading weights", 0.0)
    module, unused = _load_module(folder, blueprint, dtype)
    notices = folder.notices
    if unused:
        notices += (f"{len(unused)} tensors of the files do not belong to the model and are not used ({unused[0]} …).",)
    return module, text, notices


def _load_text(source: ModelSource, folder: CheckedFolder, rows: int, control: LoadControl) -> TextDomain:
    """Tokens; those of models that nobody vouches for are tried in a child process first."""
    if not folder.has_tokenizer:
        return IdDomain()
    try:
        if source.trusted:
            control.progress("Loading the tokenizer", None)
            text = TextDomain(_trusted_tokenizer(folder.path))
            _check_ids(source.title, max(text.tokenizer.get_vocab().values(), default=0), rows)
            return text
        with tried_tokenizer(folder, control) as tried:
            _check_ids(source.title, tried.largest_id, rows)
            control.progress("Loading the tokenizer", None)
            tokenizer = _tokenizer(tried.folder)
            encoder = SandboxedEncoder(tokenizer, tried.folder)
        tokenizer.name_or_path = str(folder.path)
        template = sandboxed_template(tokenizer)
        if template is None:
            tokenizer.chat_template = None  # whatever it is, it is not rendered in this process
        return TextDomain(tokenizer, template, encoder)
    except (KeyboardInterrupt, SystemExit, TokenglassError):
        raise
    except BaseException as error:
        raise ModelLoadError(
            f"The tokenizer of “{folder_name(folder.path)}” cannot be loaded: {one_line(error)}.",
            detail=traceback.format_exc(),
        ) from None


def _trusted_tokenizer(folder: Path) -> Any:
    """The one that a loaded model uses already, while its files are the same: reading it holds every thread up."""
    state = ((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir() if f.suffix != ".safetensors")
    key = (str(folder), *sorted(state))
    tokenizer = _in_use.get(key)
    if tokenizer is None:
        tokenizer = _in_use[key] = _tokenizer(folder)
    return tokenizer


def _tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _check_ids(title: str, largest_id: int, rows: int) -> None:
    """An id beyond the embedding rows would end the first forward pass with an IndexError."""
    if largest_id >= rows:
        raise ModelLoadError(
            f"The tokenizer of “{title}” has ids up to {largest_id}, but the model embeds only {rows}; "
            "they do not belong together."
        )


def _load_module(
    folder: CheckedFolder, blueprint: Blueprint, dtype: torch.dtype
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model, and the names of tensors that it does not use.

    transformers is given the checked config and the tensors of the checked files, not the folder: no adapter, no
    distributed checkpoint, no index and no generation code in it can be found.
    """
    with ExitStack() as files:
        weights: dict[str, Any] = {}
        files.callback(weights.clear)  # what is not read by then would keep its file open
        for path in folder.weight_files:
            # Read, not mapped: touching a map of a file that was cut meanwhile would kill the process.
            file = files.enter_context(safe_open(str(path), framework="pt", backend="pread"))
            weights |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
        module, report = blueprint.kind.from_pretrained(
            None,
            config=blueprint.config,
            state_dict=weights,
            generation_config=_generation_config(folder),
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported and refused below, by name
        )
    for problem in ("missing_keys", "mismatched_keys"):
        names = _names(report[problem])
        if names:  # transformers fills them with random numbers
            what = "are missing from" if problem == "missing_keys" else "have another shape in"
            raise ModelLoadError(
                f"Some weights of “{folder_name(folder.path)}” {what} its files ({len(names)}, {names[0]} first); "
                "config.json and weights do not belong together.",
                detail="\n".join(names),
            )
    module.config.name_or_path = str(folder.path)
    return module, _names(report["unexpected_keys"])


def _names(keys: Any) -> tuple[str, ...]:
    return tuple(sorted(str(key[0] if isinstance(key, tuple) else key)[:200] for key in keys))


def _generation_config(folder: CheckedFolder) -> GenerationConfig:
    """As transformers makes it: from generation_config.json, else from what old models say in config.json."""
    if folder.generation is not None:
        return GenerationConfig.from_dict(dict(folder.generation))
    return GenerationConfig.from_model_config(dict(folder.config))


def _sentence(name: str, error: BaseException) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"“{name}” needs more memory than there is; close something, or choose bf16 or a smaller model."
    return f"“{name}” could not be loaded: {one_line(error)}."
