"""A hundred thousand tokens: memory stays flat and the last ones come as fast as the first."""

from __future__ import annotations

import gc
import os
import time

import numpy as np
import pytest

from core.contract import Ask, AttentionQuery, RunFinished, StepSnapshot
from tests.campaign.driver import Driver, descriptors, rss_bytes, threads
from tests.campaign.figures import note

TOKENS = int(os.environ.get("TOKENGLASS_SOAK_TOKENS", "100000"))
A_RUN = 480  # tokens until a reset: the model has 512 positions
SAMPLE = 1000  # tokens between two looks at the memory
SLOPE_MB, SPEED = 1.0, 0.95


class Soak:
    """Run after run; memory and time after every `SAMPLE` tokens."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.tokens = 0
        self.decode_s: list[float] = []  # of each sample
        self.rss: list[int] = []

    def go(self, tokens: int) -> None:
        begun, since = time.perf_counter(), 0
        while self.tokens < tokens:
            run_id = self.driver.start(max_new_tokens=A_RUN, do_sample=True, top_k=40)
            done = False
            while not done:
                batch = self.driver.drain()
                new = sum(isinstance(event, StepSnapshot) for event in batch)
                done = any(isinstance(event, RunFinished) and event.run_id == run_id for event in batch)
                self.driver.forget()
                self.tokens, since = self.tokens + new, since + new
                if since >= SAMPLE:
                    self.decode_s.append((time.perf_counter() - begun) / since)
                    self.rss.append(rss_bytes())
                    begun, since = time.perf_counter(), 0
                time.sleep(0.03)  # a frame
            if self.tokens % 5 == 0:  # somebody looks, now and then
                self.driver.submit(Ask("focus", 1, AttentionQuery(run_id, layer=2, pool=(256, 256))))
            gc.collect(0)


def slope_mb(rss: list[int]) -> float:
    """Growth per 10,000 tokens after the first tenth, by least squares."""
    kept = np.array(rss[len(rss) // 10 :]) / 1e6
    at = np.arange(len(kept)) * SAMPLE / 1e4
    return float(np.polyfit(at, kept, 1)[0])


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
    first, last = np.mean(soak.decode_s[:tenth]), np.mean(soak.decode_s[-tenth:])
    campaign = f"soak of {soak.tokens:,} tokens"
    note(campaign, "first tenth", 1 / first, "tokens/s")
    note(campaign, "last tenth", 1 / last, "tokens/s")
    note(campaign, "memory, first to last", (soak.rss[-1] - soak.rss[0]) / 1e6, "MB")
    kept = [
        note(campaign, "memory per 10,000 tokens", slope_mb(soak.rss), "MB", SLOPE_MB),
        note(campaign, "speed of the last tenth over the first", float(first / last), "", SPEED, at_least=True),
        note(campaign, "threads", threads() - before[0], "more", 0),
        note(campaign, "file descriptors", descriptors() - before[1], "more", 0),
    ]
    soak.driver.close()
    assert all(figure.kept for figure in kept), kept
