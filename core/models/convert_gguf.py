"""A GGUF file becomes a transformers folder: `python -m core.models.convert_gguf`, in a sandbox.

A child, because GGUF parsers have a history of memory errors and because most of the work holds the GIL for seconds.

DEST appears all at once or not at all: everything is written to `partial_folder(dest, pid)` beside it and then
renamed, so several converters at once are safe; the first to finish wins.

Weights are saved in fp32. De-quantisation (scale × integer + offset, the scales being fp16) yields values that
need more than the 8 bits of a bf16 significand, so a bf16 copy would be half the size but `--dtype fp32` on it would
no longer be the model in the GGUF file.
"""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

from core.domains.sandboxed import say, serve

CONVERTER_VERSION = 1
_STAGES = {"Loading weights": "Building the model", "Writing model shards": "Saving the converted model"}
_DEQUANTISING = "De-quantising weights"


def main() -> None:
    """Serve requests with `source` and `dest`; the answer comes when DEST is there."""
    warnings.simplefilter("ignore")
    import torch  # noqa: F401  before the limits count
    import transformers.modeling_gguf_pytorch_utils  # noqa: F401

    partial: list[Path] = []

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        source, dest = Path(request["source"]), Path(request["dest"])
        partial.append(partial_folder(dest, os.getpid()))
        convert(source, dest, partial[-1])
        return {}

    serve(handle, on_abandoned=lambda: _remove(partial))


def convert(source: Path, dest: Path, partial: Path) -> None:
    """Make DEST from SOURCE, unless it is there."""
    if dest.exists():
        return
    try:
        _remove([partial])
        partial.mkdir(parents=True)
        _convert(source, partial)
        _publish(partial, dest)
    finally:
        _remove([partial])


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def partial_folder(dest: Path, pid: int) -> Path:
    """Where the converter with this process id writes what will become `dest`."""
    return dest.parent / f".{dest.name}.{pid}.partial"


def _convert(source: Path, folder: Path) -> None:
    say("Reading the GGUF file")
    parse_once()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.set_tqdm_hook(lambda _factory, args, kwargs: _Bar(*args, **kwargs))
    _watch_dequantising()
    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **where)
    say(_DEQUANTISING, 0.0)
    model = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **where)
    # The weights are plain fp32 by now, but save_pretrained refuses whatever was loaded by a quantiser.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config.eos_token_id = _end_tokens(source, model, tokenizer)
    model.generation_config._from_model_config = False  # saved on its own from here on, not derived
    say("Saving the converted model", 0.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def parse_once() -> None:
    """Let the parts of transformers share one parsed file and one name map: 9 s instead of 20 s for SmolLM2.

    It reads the file three times and builds the map of tensor names once for each submodule.
    """
    import gguf

    gguf.GGUFReader = functools.lru_cache(maxsize=1)(gguf.GGUFReader)
    gguf.get_tensor_name_map = functools.lru_cache(maxsize=8)(gguf.get_tensor_name_map)


def _watch_dequantising() -> None:
    """That loop asks tqdm directly, so transformers' hook does not see it."""
    from transformers import modeling_gguf_pytorch_utils as legacy

    legacy.tqdm = _Bar


def _end_tokens(source: Path, model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a turn: the file's EOS and end-of-turn, the tokenizer's EOS."""
    import gguf
    from transformers.modeling_gguf_pytorch_utils import read_field

    reader = gguf.GGUFReader(str(source))
    ids: list[Any] = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    ids += [n for key in ("eos", "eot") for n in read_field(reader, f"tokenizer.ggml.{key}_token_id")]
    flat = [n for item in ids for n in (item if isinstance(item, list) else [item]) if n is not None]
    return sorted({int(n) for n in flat if 0 <= int(n) < model.config.vocab_size})


def _publish(partial: Path, dest: Path) -> None:
    """Make it durable, then visible in one step."""
    for path in partial.iterdir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    try:
        os.replace(partial, dest)
    except OSError:
        if not dest.exists():  # else another converter was faster, with the same result
            raise


class _Bar:
    """Stands in for a tqdm bar and reports its progress, in steps of one per cent."""

    def __init__(self, iterable: Iterable[Any] = (), *_: Any, **kwargs: Any) -> None:
        self._items = iterable
        self._stage = _STAGES.get(str(kwargs.get("desc", "")), _DEQUANTISING)
        self._total = kwargs.get("total") or (len(iterable) if isinstance(iterable, Sized) else 0)
        self._done = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None

    def update(self, n: float = 1) -> None:
        before, self._done = self._done, self._done + int(n)
        if self._total and self._done * 100 // self._total > before * 100 // self._total:
            say(self._stage, min(1.0, self._done / self._total))


if __name__ == "__main__":
    main()
