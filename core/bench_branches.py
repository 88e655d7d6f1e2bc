"""A branch against feeding its prefix again: the time until its first token is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

from core.bench_steps import bare_spec, prompt_ids
from core.contract import StartBranch, StepSnapshot
from core.decode.branch import begin_branch
from core.decode.session import Session
from core.models.loaded import LoadedModel

POSITIONS = (100, 500, 1000, 2000)
AFTER = 6  # tokens that the parent says beyond the parting; the median of their steps is a step
TARGET_TIMES, TARGET_AT = 20.0, 1000


def measure_branches(
    name: str, loaded: LoadedModel, quick: bool, say: Callable[[str | None], None]
) -> Iterator[dict[str, Any]]:
    """For each length: milliseconds of fork and resume, of the same prefix fed again, and of an ordinary step."""
    for positions in POSITIONS:
        if positions + AFTER + 1 <= loaded.info.max_positions:
            say(f"{name}: branches at {positions:,} positions")
            yield {"model": name, "dtype": loaded.info.dtype, **_at(loaded, positions, 1 if quick else 3)}


def _at(loaded: LoadedModel, positions: int, rounds: int) -> dict[str, Any]:
    ids = prompt_ids(loaded, positions)
    spec = dataclasses.replace(bare_spec(ids, AFTER + 1, {}), prefill_chunk=256)
    parent = Session(loaded, spec)
    with parent.attached():
        while parent.new_tokens < 1:
            parent.advance()
        steps = [_timed(lambda: parent.advance())[0] for _ in range(AFTER)]
    at = StartBranch(0, 1, position=positions + 1, reroll=1)
    fresh = dataclasses.replace(spec, prompts=bare_spec((*ids, *parent.rows[0].token_ids[:1]), 1, {}).prompts)
    forks, feeds = [], []
    for number in range(rounds + 1):  # the first round warms up and does not count
        fork_s, branch = _timed(lambda: _first_token(begin_branch(parent, at)[0]))
        feed_s, again = _timed(lambda: _first_token(Session(loaded, fresh)))
        assert branch.rows[0].token_ids[1] == again.rows[0].token_ids[0] or loaded.info.dtype != "fp32"
        branch.close()
        again.close()
        if number:
            forks.append(1e3 * fork_s)
            feeds.append(1e3 * feed_s)
    parent.close()
    fork_ms, feed_ms, step_ms = median(forks), median(feeds), 1e3 * median(steps)
    return {
        "positions": positions,
        "fork_ms": fork_ms,
        "prefill_ms": feed_ms,
        "times": feed_ms / fork_ms,
        "step_ms": step_ms,
        "steps": fork_ms / step_ms,
    }


def _first_token(run: Session) -> Session:
    with run.attached():
        while not any(isinstance(event, StepSnapshot) for event in run.advance()):
            pass
    return run


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = perf_counter()
    result = work()
    return perf_counter() - begun, result


def branches_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The results for people."""
    if not results:
        return []
    head = f"{'branch':<12}{'dtype':<7}{'positions':>10}{'fork ms':>10}{'prefill ms':>12}"
    lines = [f"{head}{'×':>8}{'steps':>8}{'to reach':>10}"]
    for one in results:
        reach = f"{TARGET_TIMES:.0f}" if one["positions"] == TARGET_AT else ""
        head = f"{one['model']:<12}{one['dtype']:<7}{one['positions']:>10,}"
        numbers = f"{one['fork_ms']:>10.1f}{one['prefill_ms']:>12.1f}{one['times']:>8.1f}{one['steps']:>8.2f}"
        lines.append(f"{head}{numbers}{reach:>10}")
    return lines
