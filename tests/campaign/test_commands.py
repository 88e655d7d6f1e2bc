"""Any commands in any order: a grammar of events that always holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from core.contract import (
    Ask,
    AttentionQuery,
    CancelLoad,
    ChatMessage,
    CommandRefused,
    DistributionQuery,
    DropBranch,
    LoadFailed,
    ModelReady,
    ModelSpec,
    ParamsApplied,
    PauseRun,
    PrefillProgress,
    PreviewModel,
    Prompt,
    ResumeRun,
    RunFinished,
    RunStarted,
    SetParams,
    StartBranch,
    StepSnapshot,
    StopRun,
    SwitchBranch,
    ThumbnailQuery,
    Tokenize,
    Withdraw,
    WorkerState,
)
from tests.campaign.driver import LONG, PROMPT, TINY, Driver

PROMPTS = st.sampled_from(
    [
        PROMPT,
        LONG,
        (Prompt(text=""),),
        (Prompt(ids=(10**6,)),),
        (Prompt(ids=(5,) * 600),),
        (Prompt(text="\ud800"),),
        (Prompt(messages=(ChatMessage("user", "hi"),)),),
        (),
        (*PROMPT, Prompt(text="A much longer row beside the first one")),
    ]
)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 50.0, -1.0, float("nan")]),
        "top_k": st.sampled_from([0, 1, 40, 10**9, -3]),
        "top_p": st.sampled_from([0.0, 0.5, 1.0, 1.5]),
        "do_sample": st.booleans(),
        "repetition_penalty": st.sampled_from([1.0, 1.3, 0.0]),
        "stop_strings": st.sampled_from([(), (" the",), ("",)]),
        "num_return_sequences": st.sampled_from([1, 2, 0]),
        "no_such_parameter": st.just(1),
    },
)
SLOTS = st.sampled_from(["focus", "thumbs", "next"])


class Machine(RuleBasedStateMachine):
    """Commands to one lab that all examples share."""

    driver: ClassVar[Driver]

    def __init__(self) -> None:
        super().__init__()
        self.driver.settle()
        self.driver.forget()
        self.runs: list[int] = []
        self.parted: list[int] = []  # the run of each branch asked for
        self.loads: list[int] = []

    @rule(prompts=PROMPTS, values=VALUES, tokens=st.sampled_from([1, 5, 400]), steps=st.sampled_from([None, 1, 3]))
    def start(self, prompts: tuple[Prompt, ...], values: dict[str, object], tokens: int, steps: int | None) -> None:
        self.runs.append(self.driver.start(prompts, steps, **{"max_new_tokens": tokens, **values}))

    @rule(steps=st.sampled_from([None, 1, 2]))
    def resume(self, steps: int | None) -> None:
        self.driver.submit(ResumeRun(steps))

    @rule(command=st.sampled_from([PauseRun(), StopRun(), CancelLoad(), Withdraw("focus")]))
    def simple(self, command: PauseRun | StopRun | CancelLoad | Withdraw) -> None:
        self.driver.submit(command)

    @rule(values=VALUES, epoch=st.integers(0, 100))
    def change(self, values: dict[str, object], epoch: int) -> None:
        self.driver.submit(SetParams(values, epoch))

    @rule(name=st.sampled_from(["tiny-gpt2", "tiny-gpt2", "no-such-model", "", "new:nothing"]))
    def load(self, name: str) -> None:
        self.loads.append(self.driver.load(ModelSpec(name, "cpu", "fp32")))

    @rule(prompts=PROMPTS)
    def tokenize(self, prompts: tuple[Prompt, ...]) -> None:
        for prompt in prompts:
            self.driver.submit(Tokenize(0, prompt))

    @rule(name=st.sampled_from(["tiny-gpt2", "nothing"]))
    def preview(self, name: str) -> None:
        self.driver.submit(PreviewModel(0, ModelSpec(name)))

    @rule(slot=SLOTS, layer=st.integers(-1, 8), position=st.integers(-2, 20), late=st.booleans())
    def ask(self, slot: str, layer: int, position: int, late: bool) -> None:
        run_id = self.runs[-1] if self.runs and not late else 0
        queries = {
            "focus": AttentionQuery(run_id, layer, rows=(position, None), recompute=late),
            "thumbs": ThumbnailQuery(run_id, (layer, 0)),
            "next": DistributionQuery(run_id, position, layer, final=True),
        }
        self.driver.submit(Ask(slot, 1, queries[slot]))

    @rule(
        position=st.integers(-1, 30), parent=st.integers(0, 3), values=VALUES,
        token_id=st.sampled_from([(), (5,), (10**6,), (7, 8, 9)]),
        steps=st.sampled_from([None, 0, 2]), text=st.sampled_from([None, " dog", "\ud800", ""]),
    )  # fmt: skip
    def part(
        self, position: int, parent: int, token_id: tuple[int, ...], values: dict[str, object], steps: int | None,
        text: str | None,
    ) -> None:  # fmt: skip
        if self.runs:
            number = len(self.parted) + 1
            self.parted.append(self.runs[-1])
            command = StartBranch(self.runs[-1], number, position, parent, 0, token_id, text, None, values, steps)
            self.driver.submit(command)

    @rule(branch_id=st.integers(0, 4), back=st.integers(1, 3))
    def switch(self, branch_id: int, back: int) -> None:
        if len(self.runs) >= back:
            self.driver.submit(SwitchBranch(self.runs[-back], branch_id))

    @rule(branch_id=st.integers(0, 4))
    def drop(self, branch_id: int) -> None:
        if self.runs:
            self.driver.submit(DropBranch(self.runs[-1], branch_id))

    @rule(events=st.integers(1, 4))
    def live(self, events: int) -> None:
        """Let the worker get on for a few batches."""
        for _ in range(events):
            self.driver.drain()

    def teardown(self) -> None:
        self.driver.settle()
        assert self.driver.alive
        assert self.driver.state is WorkerState.READY
        self.check_loads()
        for run_id in self.runs:
            self.check_run(run_id)

    def check_loads(self) -> None:
        ended = [e.info.model_id if isinstance(e, ModelReady) else e.model_id for e in self.driver.events
                 if isinstance(e, ModelReady | LoadFailed)]  # fmt: skip
        assert ended == self.loads

    def check_run(self, run_id: int) -> None:
        """Started and finished once, in between steps without a gap whose texts make the whole."""
        mine = [e for e in self.driver.events if _run_of(e) == run_id]
        if not mine:
            refused = [e for e in self.driver.events if isinstance(e, CommandRefused) and e.command == "StartRun"]
            assert refused
            return
        assert isinstance(mine[0], RunStarted)
        if run_id in self.parted and not isinstance(mine[-1], RunFinished):
            return  # it was left for a branch, and waits
        assert isinstance(mine[-1], RunFinished)
        assert sum(isinstance(e, RunStarted | RunFinished) for e in mine) == 2
        for row, text in enumerate(mine[-1].texts):
            steps = [e for e in mine if isinstance(e, StepSnapshot) and e.id.row == row]
            assert [step.id.index for step in steps] == list(range(len(steps)))
            said = "".join(step.text for step in steps)
            # A character that stopped half way is told at the end only.
            assert text == said or (text.startswith(said) and set(text[len(said) :]) == {"�"})
            assert list(mine[-1].sequences[row][mine[-1].prompt_tokens[row] :]) == [step.token_id for step in steps]


def _run_of(event: object) -> int | None:
    if isinstance(event, StepSnapshot):
        return event.id.run_id if event.id.branch_id == 0 else None
    if isinstance(event, RunStarted | RunFinished | PrefillProgress | ParamsApplied):
        return event.run_id if event.branch_id == 0 else None
    return None


@pytest.fixture
def machine() -> Iterator[type[Machine]]:
    Machine.driver = Driver(TINY)
    yield Machine
    Machine.driver.close()


def explore(machine: type[Machine], examples: int, steps: int) -> None:
    patient = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, suppress_health_check=patient, deadline=None
        ),
    )


def test_any_commands_in_any_order_end_well(machine: type[Machine]) -> None:
    explore(machine, 10, 15)


@pytest.mark.slow
def test_very_many_commands_in_any_order_end_well(machine: type[Machine]) -> None:
    explore(machine, 300, 50)
