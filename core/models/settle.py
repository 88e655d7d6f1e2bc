"""The last steps of a load: weights of our own, on their device, in their precision, all of them numbers."""

from __future__ import annotations

from itertools import chain

import torch
from transformers import PreTrainedModel

from core.contract.errors import ModelLoadError
from core.models.load_control import LoadControl, stop_if_cancelled

_WHOLE, _SAMPLE = 1 << 14, 1 << 10  # values: of small parameters all, of large ones so many


def settle(module: PreTrainedModel, device: torch.device, control: LoadControl) -> None:
    """Evaluation mode, no gradients, weights in memory of our own.

    Nothing may stay a map of the user's file, should a version of transformers make one: once that file is cut, the
    next forward pass would kill the process with SIGBUS. Parameters keep their identity, so tied weights stay tied.
    """
    module.eval()
    module.requires_grad_(False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a copy gains nothing from more, and waits 20 times as long for them on a busy machine
    try:
        for tensor in chain(module.parameters(), module.buffers()):
            stop_if_cancelled(control)
            tensor.data = tensor.data.to(device, copy=True)
    finally:
        torch.set_num_threads(threads)


def check_finite(title: str, module: PreTrainedModel, control: LoadControl) -> None:
    """Look at all values of each small parameter and at evenly spaced ones of the others. Raises `ModelLoadError`.

    A model of NaN decodes greedily as if nothing were wrong. Single damaged values between the samples are found by the
    check of each step's logits.
    """
    with torch.inference_mode():
        for name, parameter in module.named_parameters():
            stop_if_cancelled(control)
            values = parameter.detach().flatten()
            sample = values if values.numel() <= _WHOLE else values[:: values.numel() // _SAMPLE]
            if sample.is_floating_point() and not bool(sample.isfinite().all()):
                raise ModelLoadError(
                    f"The weights of “{title}” are damaged: {name} holds values that are not numbers (NaN or "
                    "infinite); download it again."
                )
