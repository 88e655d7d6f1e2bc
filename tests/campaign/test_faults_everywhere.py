"""Every mode, every view, branches, desks: each function of core that they call fails once; the next run works."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from core.contract import (
    Answered,
    Ask,
    AttributionQuery,
    BranchSwitched,
    CheckOnnx,
    ColumnQuery,
    Command,
    CommandRefused,
    ConfigDescribed,
    DescribeConfig,
    DescribeOnnx,
    Event,
    ExportOnnx,
    Grammar,
    HeadsQuery,
    LensQuery,
    ModelSaved,
    ModelSpec,
    NormsQuery,
    OnnxDescribed,
    OnnxFinished,
    Planned,
    PreviewPlan,
    Prompt,
    RolloutQuery,
    RunFinished,
    RunSpec,
    SaveModel,
    StartBranch,
    StartRun,
    SwitchBranch,
    WalkQuery,
    WaterfallQuery,
    WorkerState,
)
from tests.campaign.call_sites import Failing, functions, noted_threads, watched
from tests.campaign.driver import PROMPT, Driver, errors
from tests.campaign.test_faults import FAULTS

SHORT = 2  # functions of each scenario in the short set
BASE = {"eos_token_id": (), "max_new_tokens": 4, "do_sample": False}
_numbers = itertools.count(10_000)


@dataclass(frozen=True)
class Scenario:
    """Commands for a run that has ended, and the events of which one says that they were carried out."""

    commands: Callable[[int, Path], tuple[Command, ...]]
    done: tuple[type, ...]


def run(params: dict[str, Any], **spec: Any) -> Scenario:
    def commands(_before: int, _folder: Path) -> tuple[Command, ...]:
        return (StartRun(next(_numbers), RunSpec(PROMPT, {**BASE, **params}, **spec)),)

    return Scenario(commands, (RunFinished,))


def view(make: Callable[[int], Any]) -> Scenario:
    return Scenario(lambda before, _folder: (Ask("view", 1, make(before)),), (Answered,))


def branch(before: int, _folder: Path) -> tuple[Command, ...]:
    return (StartBranch(before, 1, len(PROMPT_IDS) + 1, reroll=1),)


def put(before: int, _folder: Path) -> tuple[Command, ...]:
    return (StartBranch(before, 1, len(PROMPT_IDS) + 1, text=" dog"), SwitchBranch(before, 0))


PROMPT_IDS = range(7)
BEAMS = {"num_beams": 3}
SCENARIOS: dict[str, Scenario] = {
    "beam search": run(BEAMS),
    "beam sampling": run({**BEAMS, "do_sample": True}),
    "beam groups": run({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}),
    "constrained beams": run({**BEAMS, "force_words_ids": ((5,),)}),
    "contrastive": run({"penalty_alpha": 0.5, "top_k": 4}),
    "DoLa": run({"dola_layers": "high"}),
    "prompt lookup": run({"prompt_lookup_num_tokens": 3}),
    "early exit": run({"assistant_early_exit": 2}),
    "draft model": run({}, assistant=ModelSpec("tiny-gpt2", device="cpu", dtype="fp32")),
    "guidance": run({"guidance_scale": 2.0}, negative_prompt=Prompt(text="It was")),
    "grammar": run({}, grammar=Grammar("regex", r" [a-z ]+\.")),
    "torch's draws": run({"do_sample": True, "top_p": 0.9}, draw_source="torch"),
    "rows": run({"num_return_sequences": 2, "do_sample": True, "repetition_penalty": 1.2}),
    "reused prefix": run({}, reuse_prefix=True),
    "lens": view(lambda n: LensQuery(n, (2, 5))),
    "norms": view(lambda n: NormsQuery(n, 4, contributions=True)),
    "attribution": view(lambda n: AttributionQuery(n, 4, 5)),
    "walk": view(lambda n: WalkQuery(n, (4, 6))),
    "waterfall": view(lambda n: WaterfallQuery(n, 7, {"temperature": 0.5, "do_sample": True})),
    "rollout": view(lambda n: RolloutQuery(n, (2, 5))),
    "column": view(lambda n: ColumnQuery(n, 1, 2)),
    "heads": view(lambda n: HeadsQuery(n, (0, 1))),
    "branch": Scenario(branch, (RunFinished, CommandRefused)),
    "branch with a text": Scenario(put, (CommandRefused, BranchSwitched)),
    "plan": Scenario(lambda _b, _f: (PreviewPlan(1, RunSpec(PROMPT, BASE)),), (Planned,)),
    "config": Scenario(lambda _b, _f: (DescribeConfig(1, "gpt2", {"n_layer": 2}),), (ConfigDescribed,)),
    "config of the model": Scenario(lambda _b, _f: (DescribeConfig(1, ""),), (ConfigDescribed,)),
    "save": Scenario(
        lambda _b, folder: (SaveModel(1, "new:gpt2?n_layer=1&n_embd=32&n_head=2&vocab_size=300", str(folder / "new")),),
        (ModelSaved,),
    ),
    "graph": Scenario(lambda _b, _f: (DescribeOnnx(1),), (OnnxDescribed,)),
    "refused export": Scenario(lambda _b, f: (ExportOnnx(1, str(f / "no.onnx"), 3),), (OnnxFinished,)),
    "check of nothing": Scenario(lambda _b, f: (CheckOnnx(1, str(f / "none.onnx")),), (OnnxFinished,)),
}


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    import core.decode.session  # noqa: F401  watched, the worker would take ten times as long for its imports

    with noted_threads():
        one = Driver()
    yield one
    one.close()


@pytest.fixture(scope="module")
def reference(driver: Driver) -> tuple[int, ...]:
    return driver.run().sequences[0]


def carry_out(driver: Driver, scenario: Scenario, before: int, folder: Path, done: Callable[[], bool]) -> list[Event]:
    start = len(driver.events)
    driver.submit(*scenario.commands(before, folder))
    driver.until(lambda: any(isinstance(e, scenario.done) for e in driver.events[start:]) or done())
    return driver.events[start:]


def called(driver: Driver, scenario: Scenario, folder: Path) -> list[FunctionType]:
    """What the scenario calls when nothing fails."""
    before = driver.run().run_id
    with watched() as calls:
        carry_out(driver, scenario, before, folder / "clean", lambda: False)
        found = set(calls)
    driver.settle()
    driver.forget()
    return functions(found)


def fail(
    driver: Driver, scenario: Scenario, function: FunctionType, fault: str, folder: Path, reference: tuple[int, ...]
) -> str:
    """What went wrong; empty where nothing did."""
    before = driver.run().run_id
    driver.forget()
    with Failing(function, FAULTS[fault]) as trap:
        trap.armed = True
        said = carry_out(driver, scenario, before, folder, lambda: bool(errors(driver.events)))
        trap.armed = False
    driver.settle()
    carried = [e for e in said if isinstance(e, scenario.done)]
    told = errors(said) or [e.error for e in carried if getattr(e, "error", None) is not None]
    wrong = ""
    if trap.fired and not told and not carried:
        wrong = "nobody was told"
    elif any(not (report.message.isprintable() and report.message.endswith(".")) for report in told if report):
        wrong = "no sentence"
    elif not driver.alive or driver.state is not WorkerState.READY:
        wrong = f"the worker is {driver.state}"
    elif driver.run().sequences[0] != reference:
        wrong = "the next run differs"
    driver.forget()
    return wrong


def campaign(driver: Driver, reference: tuple[int, ...], name: str, folder: Path, most: int | None) -> list[str]:
    scenario = SCENARIOS[name]
    chosen = called(driver, scenario, folder)
    assert len(chosen) > 3, "nothing was watched"
    if most is not None:
        chosen = random.Random(name).sample(chosen, most)
    wrong = []
    for number, function in enumerate(chosen):
        fault = [*FAULTS][number % len(FAULTS)]
        found = fail(driver, scenario, function, fault, folder / str(number), reference)
        if found:
            wrong.append(f"{function.__module__}:{function.__qualname__}, {fault}: {found}")
    return wrong


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_failure_anywhere_is_told_and_the_next_run_works(
    driver: Driver, reference: tuple[int, ...], name: str, tmp_path: Path
) -> None:
    assert campaign(driver, reference, name, tmp_path, SHORT) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_failure_everywhere_is_told_and_the_next_run_works(
    driver: Driver, reference: tuple[int, ...], name: str, tmp_path: Path
) -> None:
    assert campaign(driver, reference, name, tmp_path, None) == []
