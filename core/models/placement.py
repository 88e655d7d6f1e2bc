"""On which device and in which precision a model runs."""

from __future__ import annotations

import re

import psutil  # type: ignore[import-untyped]
import torch

from core.contract.errors import ModelLoadError

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CACHED_BYTES = 32 * 2**20  # weights of so many bytes stay in a processor's caches from step to step
DTYPE_NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}


def choose_device(asked: str) -> torch.device:
    """`auto` is cuda, else mps, else cpu. Raises `ModelLoadError` for a device that is not there."""
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if asked == "cpu":
        return torch.device("cpu")
    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise ModelLoadError("There is no Apple GPU (mps) that torch can use here; choose auto or cpu.")
        return torch.device("mps")
    match = re.fullmatch(r"cuda(?::(\d+))?", asked)
    if match is None:
        raise ModelLoadError(f"Unknown device “{asked}”; choose auto, cpu, cuda, cuda:0, cuda:1, … or mps.")
    if not torch.cuda.is_available():
        raise ModelLoadError("There is no GPU that torch can use here (cuda); choose auto or cpu.")
    if match[1] is not None and int(match[1]) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ModelLoadError(f"There is no device {asked} here; the last one is cuda:{last}.")
    return torch.device(asked)


def choose_dtype(asked: str, device: torch.device, parameters: int) -> torch.dtype:
    """`auto` is bf16 where the device computes it natively and the weights are many, else fp32.

    bf16 is faster because fewer bytes are read. Weights that stay in the processor's caches are not read from memory at
    each step, so that there it only costs: tiny-imagegpt is 1.6 times as fast in fp32. Raises `ModelLoadError`.
    """
    if asked == "auto":
        cached = device.type == "cpu" and parameters * torch.float32.itemsize <= CACHED_BYTES
        return torch.bfloat16 if computes_bf16(device) and not cached else torch.float32
    check_dtype(asked)
    return DTYPES[asked]


def check_dtype(asked: str) -> None:
    """Raises `ModelLoadError` for what is neither `auto` nor a precision, before anything is read or downloaded."""
    if asked != "auto" and asked not in DTYPES:
        raise ModelLoadError(f"Unknown precision “{asked}”; choose auto, bf16 or fp32.")


def computes_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 itself; emulated, it is slower than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)  # where Metal has the type
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


def available_bytes(device: torch.device) -> int:
    """Memory that new weights may fill: free on a GPU, available without swapping elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)  # Apple GPUs share it
