"""A program for `test_tiny_imagegpt`: a few steps of the training script twice, and once with an interruption."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

FOLDER = Path(__file__).parents[2] / "resources" / "models" / "tiny-imagegpt" / "train"
STEPS, INTERRUPTED_AT = 2, 1


def weights(checkpoints: Path, resume: bool = False, stop_at: int | None = None) -> str:
    """Train as `main` does, on a part of the pictures; the digest of the palette and of all weights."""
    import train

    if stop_at is not None:
        kept = train.augment
        steps = iter(range(STEPS))

        def interrupted(*arguments: Any) -> Any:
            if next(steps) == stop_at:
                raise KeyboardInterrupt
            return kept(*arguments)

        train.augment = interrupted
    train.STEPS, train.CHECK_EVERY = STEPS, INTERRUPTED_AT
    pictures, _ = train.read(FOLDER / "emoji16.npz")
    set_seed(train.SEED)
    weight = np.full(60, 1 / 60)
    palette = train.learn_palette(pictures[:60], weight, train.SEED)
    ids = train.quantise(pictures[:60], palette)
    checkpoints.mkdir(parents=True, exist_ok=True)
    model = train.build_model()
    train.use_fast_attention(model)
    try:
        train.train_model(model, ids, weight, ids[:4], palette, checkpoints, resume)
    except KeyboardInterrupt:
        train.augment = kept
        return ""
    digest = hashlib.sha256(np.ascontiguousarray(palette).tobytes())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = Path(sys.argv[1])
    found = [weights(folder / "a"), weights(folder / "b")]
    weights(folder / "c", stop_at=INTERRUPTED_AT)
    found.append(weights(folder / "c", resume=True))
    print(*found)
