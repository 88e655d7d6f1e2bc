"""A hundred thousand tokens: memory stays flat and the last ones come as fast as the first.

The speed is told against `generate()` timed in the same minute: a shared machine drifts by more than the bound.
"""

from __future__ import annotations

import gc
import os
import time

import numpy as np
import pytest

from core import api
from core.bench_steps import generate_s, prompt_ids
from core.contract import Ask, AttentionQuery, RunFinished, StepSnapshot
from tests.campaign.driver import Driver, descriptors, rss_bytes, threads
from tests.campaign.figures import note

TOKENS = int(os.environ.get("TOKENGLASS_SOAK_TOKENS", "100000"))
A_RUN = 480  # tokens until a reset: the model has 512 positions
SAMPLE = 1000  # tokens at least between two looks at the memory
YARD = 64  # tokens of `generate()` between two runs
SLOPE_MB, SPEED = 1.0, 0.95


class Soak:
    """Run after run; memory and time after every `SAMPLE` tokens, beside the time `generate()` takes then."""

    def __init__(self) -> None:
        self.plain = api.load_model("tiny-gpt2", device="cpu", dtype="fp32")
        self.ids = prompt_ids(self.plain, 16)
        self.yard()
        self.driver = Driver()
        self.tokens = 0
        self.at: list[int] = []  # tokens when each sample was taken
        self.decode_s: list[float] = []  # of each sample
        self.yard_s: list[float] = []  # a token of `generate()`, in each sample
        self.rss: list[int] = []

    def yard(self) -> float:
        """Seconds that a token of `generate()` takes now."""
        return generate_s(self.plain, self.ids, YARD, {})

    def go(self, tokens: int) -> None:
        decode_s, yards, since = 0.0, list[float](), 0
        while self.tokens < tokens:
            run_id = self.driver.start(max_new_tokens=A_RUN, do_sample=True, top_k=40)
            begun, done = time.perf_counter(), False
            while not done:
                batch = self.driver.drain()
                new = sum(isinstance(event, StepSnapshot) for event in batch)
                done = any(isinstance(event, RunFinished) and event.run_id == run_id for event in batch)
                self.driver.forget()
                self.tokens, since = self.tokens + new, since + new
                time.sleep(0.03)  # a frame
            decode_s += time.perf_counter() - begun
            if self.tokens % 5 == 0:  # somebody looks, now and then
                self.driver.submit(Ask("focus", 1, AttentionQuery(run_id, layer=2, pool=(256, 256))))
            gc.collect(0)
            yards.append(self.yard())
            if since >= SAMPLE:
                self.decode_s.append(decode_s / since)
                self.yard_s.append(float(np.median(yards)))
                self.rss.append(rss_bytes())
                self.at.append(self.tokens)
                decode_s, yards, since = 0.0, [], 0


def slope_mb(at: list[int], rss: list[int]) -> float:
    """Growth per 10,000 tokens after the first tenth, by least squares."""
    begun = len(rss) // 10
    return float(np.polyfit(np.array(at[begun:]) / 1e4, np.array(rss[begun:]) / 1e6, 1)[0])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_soak_keeps_memory_flat_and_speed_up() -> None:
    gc.collect()
    gc.freeze()
    soak = Soak()
    soak.driver.run()
    before = threads(), descriptors()
    soak.go(TOKENS)
    tenth = max(1, len(soak.decode_s) // 10)
    ours, theirs = np.array(soak.decode_s), np.array(soak.yard_s)
    first, last = np.mean((ours / theirs)[:tenth]), np.mean((ours / theirs)[-tenth:])
    campaign = f"soak of {soak.tokens:,} tokens"
    for name, part in (("first tenth", slice(tenth)), ("last tenth", slice(-tenth, None))):
        note(campaign, name, 1 / np.mean(ours[part]), "tokens/s")
        note(campaign, f"generate() in the {name}", 1 / np.mean(theirs[part]), "tokens/s")
    note(campaign, "memory, first to last", (soak.rss[-1] - soak.rss[0]) / 1e6, "MB")
    kept = [
        note(campaign, "memory per 10,000 tokens", slope_mb(soak.at, soak.rss), "MB", SLOPE_MB),
        note(campaign, "last tenth over the first, each against generate()", first / last, "", SPEED, at_least=True),
        note(campaign, "threads", threads() - before[0], "more", 0),
        note(campaign, "file descriptors", descriptors() - before[1], "more", 0),
    ]
    soak.driver.close()
    assert all(figure.kept for figure in kept), kept
