"""Every mode, every view, branches, desks: each function of core that they call fails once; the next run works."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType

import pytest

from core.contract import ErrorReport, Event, WorkerState
from core.onnx_desk import extra
from tests.campaign.call_sites import Failing, functions, noted_threads, watched
from tests.campaign.driver import Driver, errors
from tests.campaign.figures import note
from tests.campaign.scenarios import DESKS, SCENARIOS, Scenario
from tests.campaign.test_faults import FAULTS
from tests.hostile import build_base

SHORT = 2  # functions of each scenario in the short set
OFTEN = 2  # scenarios in which a function fails in the long one: most are called by nearly all of them
QUICK = [name for name, scenario in SCENARIOS.items() if not scenario.slow]

_failed: Counter[str] = Counter()


class Made:
    """A driver, how it is asked for a run, and what that run says when nothing fails."""

    def __init__(self, desk: str, folder: Path) -> None:
        self._spec, self.prompts = DESKS[desk].spec(folder), DESKS[desk].prompts
        self.last = 0
        with noted_threads():
            self.driver = Driver(self._spec)
        self.reference = self.run()

    def begin(self) -> None:
        """Another lab; the one before may be beyond help."""
        self.driver.lab.close(5)
        with noted_threads():
            self.driver = Driver(self._spec)

    def run(self) -> tuple[int, ...]:
        done = self.driver.run(self.prompts)
        self.last = done.run_id
        self.driver.forget()
        return done.sequences[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Made]]:
    import core.decode.session  # noqa: F401  watched, the worker would take ten times as long for its imports

    folder = build_base(tmp_path_factory.mktemp("faults") / "model")
    found = {desk: Made(desk, folder) for desk in DESKS}
    yield found
    for one in found.values():
        one.driver.close()


def carry_out(one: Made, scenario: Scenario, folder: Path, done: Callable[[], bool]) -> list[Event]:
    driver = one.driver
    start = len(driver.events)
    driver.submit(*scenario.commands(driver, one.last, folder))
    driver.until(lambda: any(isinstance(e, scenario.done) for e in driver.events[start:]) or done())
    return driver.events[start:]


def called(one: Made, scenario: Scenario, folder: Path) -> list[FunctionType]:
    """What the scenario calls when nothing fails, in the worker and in the threads that it begins."""
    with noted_threads(), watched() as calls:
        carried = carry_out(one, scenario, folder / "clean", lambda: False)
        found = set(calls)
    assert carried
    one.driver.settle()
    assert one.run() == one.reference
    return functions(found)


def fail(one: Made, scenario: Scenario, function: FunctionType, fault: str, folder: Path) -> str:
    """What went wrong; empty where nothing did."""
    driver = one.driver
    with Failing(function, FAULTS[fault]) as trap:
        trap.armed = True
        said = carry_out(one, scenario, folder, lambda: bool(errors(driver.events)))
        trap.armed = False
    driver.settle()
    carried = [e for e in said if isinstance(e, scenario.done)]
    told: list[ErrorReport | None] = [*errors(said), *(getattr(e, "error", None) for e in carried)]
    driver.forget()
    if trap.fired and not any(told) and not carried:
        return "nobody was told"
    if any(not (report.message.isprintable() and report.message.endswith(".")) for report in told if report):
        return "no sentence"
    driver.until(lambda: driver.state is WorkerState.READY or not driver.alive)  # it may have to feed positions again
    if not driver.alive:
        return "the worker has ended"
    return "" if one.run() == one.reference else "the next run differs"


def campaign(one: Made, name: str, folder: Path, most: int | None) -> list[str]:
    scenario = SCENARIOS[name]
    chosen = called(one, scenario, folder)
    assert len(chosen) > 3, "nothing was watched"
    if most is not None:
        chosen = random.Random(name).sample(chosen, most)
    else:
        chosen = [function for function in chosen if _failed[_named(function)] < OFTEN]
        _failed.update(map(_named, chosen))
    wrong = []
    for number, function in enumerate(chosen):
        fault = [*FAULTS][number % len(FAULTS)]
        try:
            found = fail(one, scenario, function, fault, folder / str(number))
        except AssertionError as vain:
            found = str(vain)
        if not one.driver.alive:  # the others are tried all the same
            one.begin()
        if found:
            wrong.append(f"{_named(function)}, {fault}: {found}")
    return wrong


def _named(function: FunctionType) -> str:
    return f"{function.__module__}:{function.__qualname__}"


@pytest.mark.parametrize("name", QUICK)
def test_a_failure_anywhere_is_told_and_the_next_run_works(made: dict[str, Made], name: str, tmp_path: Path) -> None:
    assert campaign(made[SCENARIOS[name].desk], name, tmp_path, SHORT) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_failure_everywhere_is_told_and_the_next_run_works(made: dict[str, Made], tmp_path: Path) -> None:
    wrong = []
    for name, scenario in SCENARIOS.items():
        if scenario.desk == "export" and extra.missing_packages():
            continue
        one = made[scenario.desk]
        try:
            wrong += [f"{name}: {found}" for found in campaign(one, name, tmp_path / name, None)]
        except AssertionError as vain:
            wrong.append(f"{name}: {vain}")
            one.begin()
    note("faults everywhere", f"functions that failed, at most {OFTEN} times each", len(_failed), "functions")
    note("faults everywhere", "failures", _failed.total(), "times")
    assert wrong == []
