"""How surprising a given picture is to a model: one teacher-forced pass, nothing generated and nothing recorded."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import torch

from core.contract.errors import ViewUnavailableError
from core.contract.picture import PictureAnswer, PictureQuery
from core.contract.snapshot import FloatArray
from core.decode.forward import Forward
from core.decode.kv import new_cache
from core.models.loaded import LoadedModel

CHUNK = 64  # positions fed in one slice


def derive_picture(loaded: LoadedModel, query: PictureQuery) -> Generator[None, None, PictureAnswer]:
    """The picture in the model's size and colours, and the bits of each pixel, a few positions at a time.

    Raises `ViewUnavailableError` where another model is loaded, `PromptError` for a model of text.
    """
    image, info = loaded.info.image, loaded.info
    if query.model_id != info.model_id:
        raise ViewUnavailableError("That model is no longer loaded; ask again.")
    ids = torch.tensor([loaded.text.encode_picture(query.picture)], device=loaded.device)  # (1, 1 + H · W)
    if image is None:
        raise ViewUnavailableError(f"{info.title} does not paint pictures.")
    forward = Forward(loaded, [0], lambda: False)
    fed = image.pixels  # of the last pixel only the surprisal is wanted
    cache, parts = new_cache(len(forward.anatomy.layers), fed), []
    for start in range(0, fed, CHUNK):
        stop = min(start + CHUNK, fed)
        # Hooks and inference mode end before others have their turn.
        with torch.inference_mode(), forward.attached():
            logits = forward.positions(ids[:, start:stop], cache, None, stop - start)[0]  # (n, V)
            chosen = torch.log_softmax(logits, dim=-1).gather(1, ids[0, start + 1 : stop + 1, None])
            parts.append((chosen.squeeze(1) / -math.log(2.0)).cpu().numpy())
        yield
    shape = (image.height, image.width)
    tokens = ids[0, 1:].cpu().numpy().reshape(shape)
    bits: FloatArray = np.concatenate(parts).reshape(shape)
    tokens.flags.writeable = bits.flags.writeable = False
    return PictureAnswer(query, tokens, bits)
