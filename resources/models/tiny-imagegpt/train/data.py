"""The pictures: groups of near-duplicates, the split by groups, the learned palette."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

SIDE, COLOURS = 16, 64
HELD_OUT_GROUPS, DEV_GROUPS, LARGEST_HELD_OUT = 150, 60, 40
CORRELATION, DISTANCE = 0.95, 0.05  # near-duplicates: brightness correlates, or colours hardly differ

Pictures = NDArray[np.uint8]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Indices into the pictures: all of the training part, one picture a group of the others."""

    train: NDArray[np.int64]
    dev: NDArray[np.int64]
    held_out: NDArray[np.int64]
    group: NDArray[np.int64]  # (N,)


def read(path: Path) -> tuple[Pictures, list[str]]:
    """Return the pictures (N, 16, 16, 3) and their names."""
    with np.load(path, allow_pickle=False) as data:
        return data["images"], [str(name) for name in data["names"]]


def groups(pictures: Pictures) -> NDArray[np.int64]:
    """Number the connected components of the near-duplicates, mirrored ones included."""
    colour = torch.from_numpy(pictures).float() / 255
    near = torch.zeros(len(pictures), len(pictures), dtype=torch.bool)
    for other in (colour, colour.flip(2)):
        left, right = (c.mean(3).flatten(1) for c in (colour, other))
        left, right = (torch.nn.functional.normalize(g - g.mean(1, keepdim=True), dim=1) for g in (left, right))
        apart = torch.cdist(colour.flatten(1), other.flatten(1)) / colour[0].numel() ** 0.5
        near |= (left @ right.T > CORRELATION) | (apart < DISTANCE)
    links, found, component = (near | near.T).numpy(), 0, np.full(len(pictures), -1)
    for start in range(len(pictures)):
        if component[start] < 0:
            waiting, component[start] = [start], found
            while waiting:
                fresh = np.nonzero(links[waiting.pop()] & (component < 0))[0]
                component[fresh] = found
                waiting += fresh.tolist()
            found += 1
    return component


def split(pictures: Pictures, seed: int) -> Split:
    """Draw whole groups for the dev and held-out parts; score one picture of each, train on none."""
    group = groups(pictures)
    sizes = np.bincount(group)
    order = np.random.default_rng(seed).permutation(np.nonzero(sizes <= LARGEST_HELD_OUT)[0])
    held, dev = order[:HELD_OUT_GROUPS], order[HELD_OUT_GROUPS : HELD_OUT_GROUPS + DEV_GROUPS]
    first = np.unique(group, return_index=True)[1]
    train = np.nonzero(~np.isin(group, np.concatenate([held, dev])))[0]
    return Split(train, np.sort(first[dev]), np.sort(first[held]), group)


def weights(group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how often each picture is drawn: a group counts as the root of its size."""
    weight = np.bincount(group)[group] ** -0.5
    return weight / weight.sum()


def learn_palette(pictures: Pictures, weight: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    """k-means over the pixels; white, the ground of every picture, is one colour of its own.

    Returns (COLOURS, 3) floats in [-1, 1], darkest first.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(pictures).flatten(1, 2).double() / 127.5 - 1  # (N, 256, 3)
    mass = torch.from_numpy(weight)[:, None].expand(pixels.shape[:2]).flatten()
    pixels = pixels.flatten(0, 1)
    coloured = (pixels < 0.97).any(1)
    pixels, mass = pixels[coloured], mass[coloured]
    centres = pixels[torch.multinomial(mass, COLOURS - 1, generator=generator)]
    for _ in range(60):
        nearest = torch.cdist(pixels, centres).argmin(1)
        total = torch.zeros(len(centres), dtype=torch.double).index_add_(0, nearest, mass)
        moved = torch.zeros_like(centres).index_add_(0, nearest, pixels * mass[:, None])
        centres = torch.where(total[:, None] > 0, moved / total[:, None].clamp(min=1e-12), centres)
    palette = torch.cat([centres, torch.ones(1, 3, dtype=torch.double)])
    order = (palette @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.double)).argsort()
    return palette[order].float().numpy()


def quantise(pictures: Pictures, palette: NDArray[np.float32]) -> Ids:
    """Return the nearest colour of each pixel, (N, 16, 16)."""
    pixels = torch.from_numpy(pictures).float() / 127.5 - 1
    nearest = torch.cdist(pixels.flatten(0, 2), torch.from_numpy(palette)).argmin(1)
    return nearest.reshape(pictures.shape[:3]).numpy()


def augment(ids: Ids, white: int, rng: np.random.Generator) -> Ids:
    """Mirror one picture in two, and shift one in two by up to a pixel each way; (N, 16, 16)."""
    result = ids.copy()
    for i in range(len(result)):
        if rng.random() < 0.5:
            result[i] = result[i][:, ::-1]
        if rng.random() < 0.5:
            down, right = rng.integers(-1, 2, 2)
            padded = np.pad(result[i], 1, constant_values=white)
            result[i] = padded[1 - down : 1 - down + SIDE, 1 - right : 1 - right + SIDE]
    return result
