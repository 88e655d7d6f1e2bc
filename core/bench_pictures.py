"""What a pixel costs in `generate()`, for the benchmark of the window, which paints the same number of them."""

from __future__ import annotations

from collections.abc import Callable

from core import api
from core.bench_steps import generate_s, prompt_ids


def painter(name: str, given: int, pixels: int) -> Callable[[], float]:
    """Load a model of its own; each call paints `pixels` after `given` ones, greedily, and gives seconds a pixel."""
    loaded = api.load_model(name)
    image = loaded.info.image
    assert image is not None
    ids = (image.sos_token_id, *prompt_ids(loaded, given))
    return lambda: generate_s(loaded, ids, pixels, {})
