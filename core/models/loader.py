"""From a `ModelSpec` to a model in memory, with progress, cancellable, every failure one sentence.

Loading changes process-wide torch state while it runs (default dtype, patched initialisers), so it must happen in
the thread that also generates, never beside it.
"""

from __future__ import annotations

import time
import traceback
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from core.contract.errors import LoadCancelledError, ModelLoadError, TokenglassError
from core.contract.specs import ModelSpec
from core.domains.text import IdDomain, TextDomain
from core.models.conversion import ensure_converted
from core.models.facts import model_info
from core.models.load_control import LoadControl, stop_if_cancelled, watched_transformers
from core.models.loaded import LoadedModel
from core.models.placement import choose_device, choose_dtype
from core.models.preflight import CheckedFolder, check_folder
from core.models.sources import ModelSource, resolve

__all__ = ["LoadControl", "load"]

# A causal model that transformers does not list among the causal language models: its tokens are colours.
_IMAGE_MODELS = {"imagegpt": "ImageGPTForCausalImageModeling"}


def load(spec: ModelSpec, model_id: int, control: LoadControl) -> LoadedModel:
    """Load the model `spec` names. Raises `ModelLoadError`, and `LoadCancelledError` when `control` says so."""
    try:
        return _load(spec, model_id, control)
    except (KeyboardInterrupt, SystemExit, TokenglassError):
        raise
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
    dtype = choose_dtype(spec.dtype, device)
    source = resolve(spec.name)
    stop_if_cancelled(control)
    # 2. A folder that may be trusted to be a model
    folder = check_folder(_folder_of(source, control))
    stop_if_cancelled(control)
    with watched_transformers(control):
        # 3. Tokens, then weights
        control.progress("Loading the tokenizer", None)
        text = _load_text(folder)
        stop_if_cancelled(control)
        control.progress("Loading weights", 0.0)
        module = _load_module(folder, dtype)
        _check_vocabulary(source.title, module, text)
        # 4. Ours alone, on its device
        stop_if_cancelled(control)
        control.progress(f"Moving to {device}", None)
        _settle(module, device)
    load_ms = (time.perf_counter() - started) * 1e3
    info = model_info(model_id=model_id, spec=spec, title=source.title, module=module, text=text, load_ms=load_ms)
    return LoadedModel(spec, module, text, info, module.device, module.dtype)


def _folder_of(source: ModelSource, control: LoadControl) -> Path:
    if source.path is None:
        raise ModelLoadError(f"{source.title} cannot be loaded: {source.reason}")
    if source.path.suffix == ".gguf":
        return ensure_converted(source.path, control)
    return source.path


def _load_text(folder: CheckedFolder) -> TextDomain:
    if not folder.has_tokenizer:
        return IdDomain()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False
        )
        return TextDomain(tokenizer)
    except (KeyboardInterrupt, SystemExit, TokenglassError):
        raise
    except BaseException as error:
        why = _reason(error)
        raise ModelLoadError(
            f"The tokenizer of “{folder.path.name}” cannot be loaded: {why}.", detail=traceback.format_exc()
        ) from None


def _load_module(folder: CheckedFolder, dtype: torch.dtype) -> PreTrainedModel:
    module, report = _model_class(folder).from_pretrained(
        folder.path,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported and refused below, by name
    )
    if module.config.is_encoder_decoder:
        raise ModelLoadError(f"“{folder.path.name}” is an encoder-decoder model; choose a decoder-only one.")
    for problem in ("missing_keys", "mismatched_keys"):
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report[problem])
        if names:  # transformers fills them with random numbers
            what = "are missing from" if problem == "missing_keys" else "have another shape in"
            raise ModelLoadError(
                f"Some weights of “{folder.path.name}” {what} its files ({len(names)}, {names[0]} first); "
                "config.json and weights do not belong together.",
                detail="\n".join(names),
            )
    return module


def _model_class(folder: CheckedFolder) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    family = str(folder.config["model_type"])
    if family in _IMAGE_MODELS:
        return getattr(transformers, _IMAGE_MODELS[family])
    if family not in CONFIG_MAPPING_NAMES:
        raise ModelLoadError(
            f"“{folder.path.name}” is a {family} model, a family that transformers {transformers.__version__} "
            "does not know; a newer transformers may."
        )
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelLoadError(f"“{folder.path.name}” is a {family} model, which does not generate text token by token.")
    return transformers.AutoModelForCausalLM


def _check_vocabulary(title: str, module: PreTrainedModel, text: TextDomain) -> None:
    """An id beyond the embedding rows would end the first forward pass with an IndexError."""
    if text.tokenizer is None:
        return
    largest, rows = max(text.tokenizer.get_vocab().values(), default=0), module.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise ModelLoadError(
            f"The tokenizer of “{title}” has ids up to {largest}, but the model embeds only {rows}; "
            "they do not belong together."
        )


def _settle(module: PreTrainedModel, device: torch.device) -> None:
    """Evaluation mode, no gradients, weights in memory of our own.

    What safetensors loads stays a map of the user's file; should that file be cut, the next forward pass would
    kill the process with SIGBUS. Parameters keep their identity, so tied weights stay tied.
    """
    module.eval()
    module.requires_grad_(False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a copy gains nothing from more, and waits 20 times as long for them on a busy machine
    try:
        for tensor in chain(module.parameters(), module.buffers()):
            tensor.data = tensor.data.to(device, copy=True)
    finally:
        torch.set_num_threads(threads)


def _sentence(name: str, error: BaseException) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"“{name}” needs more memory than there is; close something, or choose bf16 or a smaller model."
    return f"“{name}” could not be loaded: {_reason(error)}."


def _reason(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:200]}".rstrip(": .")
