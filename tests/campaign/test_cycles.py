"""Start, stop, pause, step, change and close, in every state and in no order: nothing lags, leaks or dies."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable

import pytest

import core
from core.contract import (
    Ask,
    AttentionQuery,
    CancelLoad,
    LoadFailed,
    ModelReady,
    ModelSpec,
    PauseRun,
    Prompt,
    ResumeRun,
    SetParams,
    StopRun,
    ThumbnailQuery,
    Tokenize,
    Withdraw,
    WorkerState,
)
from tests.campaign.driver import IDLE, LONG, TINY, Driver, descriptors, rss_bytes, threads
from tests.campaign.figures import note, p99

STATES = ("idle", "loading", "prefill", "decoding", "paused", "failed")
CLOSE_EVERY, SAMPLE_EVERY = 15, 10  # cycles
LATEST_MS, MEMORY_MB = 150.0, 5.0


def has(name: str) -> bool:
    return any(m.name == name and m.available for m in core.list_models())


def reach(driver: Driver, state: str, spec: ModelSpec) -> None:
    """Bring an idle worker into a state."""
    if state == "loading":
        driver.load(spec)
        driver.until(lambda: driver.state is WorkerState.LOADING or bool(driver.events))
    elif state == "prefill":
        driver.start(LONG)
        driver.until(lambda: driver.state in (WorkerState.PREFILL, WorkerState.DECODING))
    elif state in ("decoding", "paused"):
        run_id = driver.start(max_steps=2 if state == "paused" else None)
        driver.until(lambda: bool(driver.steps(run_id)))
    elif state == "failed":
        driver.start((Prompt(ids=(10**9,)),))  # no such token
        driver.load(ModelSpec("/no/such/folder"))
        driver.until_event(LoadFailed, since=0)


def bustle(driver: Driver, dice: random.Random) -> None:
    """A handful of commands that make sense in some states only."""
    view = AttentionQuery(dice.choice([1, 10**6]), layer=dice.randrange(8))
    acts: list[Callable[[], None]] = [
        lambda: driver.submit(PauseRun()),
        lambda: driver.submit(ResumeRun()),
        lambda: driver.submit(ResumeRun(max_steps=1)),
        lambda: driver.submit(SetParams({"temperature": dice.choice([0.0, 0.5, 2.0, -1.0])}, dice.randrange(1000))),
        lambda: driver.submit(SetParams({"top_k": dice.randrange(100)}, 5)),
        lambda: driver.submit(Tokenize(1, Prompt(text="word " * dice.randrange(50)))),
        lambda: driver.submit(Ask("focus", 1, view), Ask("thumbs", 1, ThumbnailQuery(1, (0, 1)))),
        lambda: driver.submit(Withdraw("focus")),
        lambda: time.sleep(dice.random() * 0.02),
    ]
    for _ in range(dice.randrange(5)):
        dice.choice(acts)()


def cancelled_ms(driver: Driver, state: str) -> float:
    """Cancel; how long until the worker is idle and takes the next command."""
    driver.drain()
    begun = time.perf_counter()
    driver.submit(CancelLoad(), StopRun()) if state == "loading" else driver.submit(StopRun())
    driver.sync()
    spent_ms = 1e3 * (time.perf_counter() - begun)
    assert driver.state in IDLE
    return spent_ms


def cycles(spec: ModelSpec, count: int, warm_up: int, seed: int = 1) -> tuple[dict[str, list[float]], float, int, int]:
    """Cancel times by state, growth of memory in MB, of threads and of descriptors."""
    dice = random.Random(seed)
    spent: dict[str, list[float]] = {state: [] for state in STATES}
    driver = Driver(spec)
    driver.run()
    before, rss = (0, 0), []
    for cycle in range(warm_up + count):
        if cycle == warm_up:
            before = threads(), descriptors()
        state = STATES[cycle % len(STATES)] if cycle < 3 * len(STATES) else dice.choice(STATES)
        reach(driver, state, spec)
        bustle(driver, dice)
        spent_ms = cancelled_ms(driver, state)
        if cycle >= warm_up:
            spent[state].append(spent_ms)
        assert driver.alive
        driver.forget()
        gc.collect(1)  # the window's collector does this every second
        if cycle >= warm_up and cycle % SAMPLE_EVERY == 0:
            rss.append(rss_bytes())
        if cycle % CLOSE_EVERY == CLOSE_EVERY - 1:
            reach(driver, dice.choice(STATES), spec)
            driver.close()
            assert driver.state is WorkerState.CLOSED or not driver.alive
            driver = Driver(spec)
    assert driver.run().finish_reason == "length"
    after = threads(), descriptors()
    driver.close()
    return spent, grown_mb(rss), after[0] - before[0], after[1] - before[1]


def grown_mb(rss: list[int]) -> float:
    """The least of the last third over the least of the first: what the allocator has just not given back comes and
    goes by tens of megabytes, what leaks stays."""
    third = max(1, len(rss) // 3)
    return (min(rss[-third:]) - min(rss[:third])) / 1e6


def test_forty_cycles_leave_no_thread_and_no_descriptor() -> None:
    spent, _, more_threads, more_files = cycles(TINY, 40, 2)
    assert sum(map(len, spent.values())) == 40
    assert more_threads == 0
    assert more_files == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "warm_up"),  # loads of 270 MB take the allocator longer to come to rest
    [
        ("tiny-gpt2", 300, 100),
        pytest.param("smollm2", 300, 200, marks=pytest.mark.skipif(not has("smollm2"), reason="not installed")),
    ],
)
def test_random_cycles_stay_within_their_bounds(name: str, count: int, warm_up: int) -> None:
    spec = TINY if name == "tiny-gpt2" else ModelSpec(name)
    spent, grown_mb, more_threads, more_files = cycles(spec, count, warm_up)
    campaign = f"{count} cycles of {name}"
    everything = [ms for values in spent.values() for ms in values]
    for state, values in spent.items():
        note(campaign, f"cancel to idle, {state} ({len(values)}), p99", p99(values), "ms")
    kept = [
        note(campaign, "cancel to idle, p99", p99(everything), "ms", LATEST_MS),
        note(campaign, "memory after warm-up", grown_mb, "MB", MEMORY_MB),
        note(campaign, "threads", more_threads, "more", 0),
        note(campaign, "file descriptors", more_files, "more", 0),
    ]
    assert all(figure.kept for figure in kept), kept


def test_a_load_can_be_given_up_and_the_next_one_works() -> None:
    driver = Driver()
    driver.load()
    driver.submit(CancelLoad())
    driver.until_event(LoadFailed, since=0)
    driver.forget()
    driver.load()
    driver.until_event(ModelReady, since=0)
    driver.close()
