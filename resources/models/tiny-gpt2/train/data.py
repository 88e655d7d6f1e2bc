"""The stories of tiny-gpt2: the split into training and held-out part, and the rows."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import re
from pathlib import Path
from typing import Any

import numpy as np

STORIES = Path(__file__).resolve().parent / "stories.jsonl.xz"
HELD_OUT_SHARE, DEV_SHARE, MAX_OVERLAP = 0.05, 0.05, 0.1

Story = dict[str, str]


def hash_share(key: str, salt: str) -> float:
    """Map a string to a fixed, evenly spread number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8]) / 2**64


def shingles(text: str, width: int = 5) -> set[tuple[str, ...]]:
    """Return the set of word 5-grams of a text, for the near-duplicate guard."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + width]) for i in range(len(words) - width + 1)}


def split_stories() -> tuple[list[Story], list[Story], dict[str, float]]:
    """Split into training and held-out stories; also report on near duplicates.

    The hash is of the prompt, so stories of one prompt stay together. A held-out story
    that shares more than MAX_OVERLAP of its word 5-grams with any one training story
    is dropped from the held-out part.
    """
    with lzma.open(STORIES, "rt", encoding="utf-8") as lines:
        stories: list[Story] = [json.loads(line) for line in lines]
    train = [s for s in stories if hash_share(s["prompt"], "held-out") >= HELD_OUT_SHARE]
    held_out = [s for s in stories if hash_share(s["prompt"], "held-out") < HELD_OUT_SHARE]
    index: dict[tuple[str, ...], list[int]] = {}
    for number, story in enumerate(train):
        for shingle in shingles(story["text"]):
            index.setdefault(shingle, []).append(number)
    kept, dropped, largest = [], 0, 0.0
    for story in held_out:
        own = shingles(story["text"])
        shared: dict[int, int] = {}
        for shingle in own:
            for number in index.get(shingle, ()):
                shared[number] = shared.get(number, 0) + 1
        overlap = max(shared.values(), default=0) / max(1, len(own))
        if overlap > MAX_OVERLAP:
            dropped += 1
        else:
            kept.append(story)
            largest = max(largest, overlap)
    report = {"near_duplicates_dropped": dropped, "largest_5gram_overlap": round(largest, 4)}
    return train, kept, report


def in_dev(story: Story) -> bool:
    """Tell whether a training story belongs to the part that tunes the trigram."""
    return hash_share(story["prompt"], "dev") < DEV_SHARE


def encode(tokenizer: Any, stories: list[Story]) -> list[list[int]]:
    """Encode each story as <eos> text <eos>."""
    eos = tokenizer.eos_token_id
    return [[eos, *ids, eos] for ids in tokenizer([s["text"] for s in stories])["input_ids"]]


def epoch_rows(stories: list[list[int]], context: int, rng: random.Random) -> list[list[int]]:
    """Cut one epoch of shuffled stories into rows of context + 1 tokens.

    A row starts at every second story, which leaves rows that hardly overlap. It starts
    with <eos>, with the first word, or (one row in four) inside the story, so that
    the model knows all three kinds of first position.
    """
    order = rng.sample(stories, len(stories))
    stream = [token for story in order for token in story[:-1]] + [order[0][0]]
    starts = np.cumsum([0] + [len(story) - 1 for story in order]).tolist()
    rows = []
    for i in range(0, len(order), 2):
        inside = rng.randrange(len(order[i]) - 1)
        start = starts[i] + rng.choice([0, 1, 1, inside])
        if start + context < len(stream):
            rows.append(stream[start : start + context + 1])
    return rng.sample(rows, len(rows))
