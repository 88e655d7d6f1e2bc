"""Completions of held-out pictures as one PNG: the picture, what was given, and unedited completions."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from data import COLOURS, SIDE, Ids
from numpy.typing import NDArray
from transformers import ImageGPTForCausalImageModeling

SHOWN, DRAWN, GIVEN_ROWS, SCALE, GAP = 12, 5, 8, 4, 4
TOP_P = 0.95


@torch.no_grad()
def complete(model: ImageGPTForCausalImageModeling, ids: Ids, seed: int) -> Ids:
    """Sample the rest of one picture (16, 16) ``DRAWN`` times; the given rows stay."""
    start = torch.from_numpy(np.concatenate([[COLOURS], ids[:GIVEN_ROWS].reshape(-1)]))
    torch.manual_seed(seed)
    drawn = model.generate(
        start.repeat(DRAWN, 1),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=TOP_P,
        max_new_tokens=SIDE * SIDE - GIVEN_ROWS * SIDE,
    )
    return drawn[:, 1:].reshape(DRAWN, SIDE, SIDE).numpy()


def completions(
    model: ImageGPTForCausalImageModeling,
    held_out: Ids,
    names: list[str],
    palette: NDArray[np.float32],
    path: Path,
    seed: int,
) -> list[str]:
    """Draw ``SHOWN`` held-out pictures chosen by the seed, in two columns; return their names in order."""
    rgb = np.rint((palette + 1) * 127.5).astype(np.uint8)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(held_out))[:SHOWN])
    strips = []
    for i in chosen:
        given = rgb[held_out[i]]
        given[GIVEN_ROWS:] = (given[GIVEN_ROWS:] // 4) + 165  # faded: not given
        tiles = [rgb[held_out[i]], given, *rgb[complete(model, held_out[i], seed)]]
        strips.append(np.concatenate([framed(tile) for tile in tiles], 1))
    half = len(strips) // 2
    columns = [np.concatenate(strips[:half], 0), np.concatenate(strips[half:], 0)]
    between = np.full((columns[0].shape[0], 6 * GAP, 3), 128, np.uint8)
    write_png(path, np.concatenate([columns[0], between, columns[1]], 1))
    return [names[i] for i in chosen]


def framed(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge by whole pixels and put a grey edge around."""
    large = tile.repeat(SCALE, 0).repeat(SCALE, 1)
    return np.pad(large, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=128)


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) as an 8-bit RGB PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = rgb.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rgb.reshape(height, -1)], 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + chunk(b"IEND", b"")
    )
