"""Whatever a user does with branches, each of them is what a fresh run would be that had said the same so far.

Hypothesis acts as the user: intents go through the window's state to a worker that is stepped here, without a thread.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from app.state import acting_intents as a
from app.state import branch_intents as b
from app.state import branches, select, twins
from app.state import intents as i
from app.state import twin_intents as t
from app.state.branch_state import TwinChange
from app.state.effects import commands
from app.state.run import RunView
from app.state.state import AppState
from app.state.update import update
from core.contract import (
    CommandRefused,
    DropBranch,
    Intervention,
    ModelReady,
    SetInterventions,
    StartBranch,
    StartRun,
    SwitchBranch,
    WorkerState,
)
from core.controls import Flags
from core.decode.kv import cache_length
from core.decode.session import Session
from core.mailbox import Mailbox
from core.models.loaded import LoadedModel
from core.worker import Worker
from tests.parity.branching import assert_same_cache, fresh

PARAMS = {"max_new_tokens": 12, "temperature": 1.4, "top_k": 30, "repetition_penalty": 1.2, "eos_token_id": ()}
PROMPT = "The dog"
INDEX = st.integers(0, 11)
Since = list[tuple[int, tuple[Intervention, ...]]]  # from which position on what was in force


class Lab:
    """The worker in this thread: `work` does a unit of it."""

    def __init__(self, loaded: LoadedModel, budget_bytes: int) -> None:
        self.mailbox, self.budget_bytes = Mailbox(), budget_bytes
        self.worker = Worker(queue.SimpleQueue(), self.mailbox, Flags())
        self.worker.shelf.use(loaded)
        self.going = self.worker.going
        self.going.settle()
        self.refusals: list[str] = []

    def take(self, command: object) -> None:
        if isinstance(command, StartRun):
            command = replace(command, spec=replace(command.spec, branch_budget_bytes=self.budget_bytes))
        self.worker._guarded(command)

    def work(self) -> bool:
        """One unit of work; False where there is nothing to do."""
        if self.going.advancing:
            self.worker._advance()
        elif self.going.refilling:
            self.going.refill()
        else:
            return False
        return True

    def drain(self) -> Iterator[object]:
        for event in self.mailbox.drain():
            if isinstance(event, CommandRefused):
                self.refusals.append(event.error.message)
            yield event


class User(RuleBasedStateMachine):
    """Holds the window's state against the worker's."""

    loaded: LoadedModel
    budget_bytes: int

    def __init__(self) -> None:
        super().__init__()
        self.lab = Lab(self.loaded, self.budget_bytes)
        self.fed: dict[tuple[int, int], int] = {}  # of each branch, however much was given up since
        self.since: dict[tuple[int, int], Since] = {}
        self.key: tuple[int, int] | None = None
        self.state = update(AppState(), ModelReady(self.loaded.info))
        for name, value in PARAMS.items():
            self.do(i.SetParameter(name, value))
        self.do(i.EditText(PROMPT))

    def do(self, intent: i.Intent, work: int = 0) -> None:
        self.submit(intent)
        self.settle(work)

    def submit(self, intent: i.Intent) -> None:
        before, self.state = self.state, update(self.state, intent)
        for command in commands(before, self.state, intent):
            self.lab.take(command)
            self.note(command)

    def note(self, command: object) -> None:
        """What the model is to be changed by, from which position on."""
        session = self.lab.going.session
        if session is None:
            return
        key, self.key = self.key, (session.run_id, session.branch_id)
        match command:
            case StartRun():
                self.since[self.key] = [(0, command.spec.interventions)]
            case StartBranch() if key != self.key:
                parent = self.fed.get((command.run_id, command.parent), 0)
                parts = min(command.position, session.ids.shape[1] - 1, parent)
                past = [entry for entry in self.since[command.run_id, command.parent] if entry[0] < parts]
                self.since[self.key] = [*past, (parts, command.interventions or ())]
                self.fed[self.key] = parts
            case SetInterventions():
                for one in self.lab.going.branches.together:
                    if one.finished:
                        continue
                    at = one.run_id, one.branch_id
                    fed = self.fed.get(at, 0)
                    self.since[at] = [*(e for e in self.since[at] if e[0] < fed), (fed, command.interventions)]
        self.learn()

    def learn(self) -> None:
        """A twin is under what the one beside it is under; and how far each was fed."""
        for one in self.lab.going.branches.together:
            at = one.run_id, one.branch_id
            if at not in self.since and self.key in self.since:
                parts = min(one.opening_slots - 1, self.fed.get(self.key, 0))
                base = self.since[self.key]
                self.since[at] = [*(e for e in base if e[0] < parts), (parts, base[-1][1])]
                self.fed[at] = parts
            self.fed[at] = max(self.fed.get(at, 0), cache_length(one.cache))

    def settle(self, work: int = 0) -> None:
        """So many units of work; what must be fed again is fed at once."""
        while work > 0 or self.lab.going.refilling:
            if not self.lab.work():
                break
            work -= 1
            self.learn()
        for event in self.lab.drain():
            self.state = update(self.state, event)
        self.agree()

    def agree(self) -> None:
        """The window shows what the worker is at."""
        run, session = self.state.run, self.lab.going.session
        if run is None or session is None:
            return
        assert run.branch == (session.run_id, session.branch_id)
        assert [s.token_id for s in run.steps()] == list(session.rows[0].token_ids)
        assert (run.finish is not None) == session.finished
        assert select.interventions(run) == session.acts.now.asked
        assert session.finished or self.state.acting.interventions == session.acts.now.asked
        beside = twins.beside(self.state)
        others = self.lab.going.branches.together[1:]
        assert [beside] == [(one.run_id, one.branch_id) for one in others] or (beside is None and not others)
        for key, one in ((beside, one) for one in others):
            view = branches.view_of(self.state, key)
            assert [s.token_id for s in view.steps()] == list(one.rows[0].token_ids)
            assert (view.finish is not None) == one.finished
            assert one.finished or self.state.acting.interventions == one.acts.now.asked
        assert select.is_paused(self.state) == (self.state.worker is WorkerState.PAUSED)

    # -- what a user does

    @rule(work=st.integers(0, 20))
    def run(self, work: int) -> None:
        self.do(i.Run(), work)

    @rule(work=st.integers(1, 16))
    def wait(self, work: int) -> None:
        self.settle(work)

    @rule()
    def step(self) -> None:
        self.do(i.Step(), 3)

    @precondition(lambda self: select.is_active(self.state))
    @rule()
    def pause_or_resume(self) -> None:
        self.do(i.TogglePause())

    @precondition(lambda self: select.is_active(self.state))
    @rule()
    def stop(self) -> None:
        self.do(i.Stop())

    @precondition(lambda self: self.state.run is not None)
    @rule(index=INDEX, work=st.integers(0, 6))
    def rewind(self, index: int, work: int) -> None:
        self.do(b.Rewind(index))
        if work:
            self.do(i.TogglePause(), work)

    @precondition(lambda self: self.state.run is not None)
    @rule(index=INDEX, token_id=st.integers(1, 299), work=st.integers(0, 8))
    def force(self, index: int, token_id: int, work: int) -> None:
        self.do(b.ForceToken(token_id, index), work)

    @precondition(lambda self: self.state.run is not None)
    @rule(position=st.integers(1, 14), text=st.sampled_from([" cat", " was happy", "é☃", ""]), work=st.integers(0, 8))
    def edit(self, position: int, text: str, work: int) -> None:
        self.do(b.EditFrom(position, text), work)

    @precondition(lambda self: self.state.run is not None)
    @rule(index=INDEX, work=st.integers(0, 8))
    def try_again(self, index: int, work: int) -> None:
        self.do(b.AnotherTry(index), work)

    @precondition(lambda self: self.state.run is not None)
    @rule(index=INDEX)
    def fork(self, index: int) -> None:
        self.do(b.Fork(index))

    @precondition(lambda self: self.state.model is not None)
    @rule(
        temperature=st.sampled_from([0.5, 2.0]),
        begin=st.sampled_from(["run", "prompt", "token"]),
        work=st.integers(0, 25),
    )
    def twin(self, temperature: float, begin: t.TwinBegin, work: int) -> None:
        self.do(t.RunTwin(TwinChange({"temperature": temperature}), begin), work)

    @rule()
    def end_twin(self) -> None:
        self.do(t.EndTwinRun())

    @precondition(lambda self: self.state.run is not None)
    @rule(delta=st.sampled_from([-2, -1, 1, 2]), at_once=st.none() | st.integers(0, 1))
    def switch(self, delta: int, at_once: int | None) -> None:
        """at_once: a layer of which a head is muted before anything is fed again."""
        self.submit(b.MoveBranch(delta))
        if at_once is not None:
            self.submit(a.MuteHead(at_once, 0))
        self.settle()

    @rule(layer=st.integers(0, 1), head=st.integers(0, 1), work=st.integers(0, 3))
    def mute(self, layer: int, head: int, work: int) -> None:
        self.do(a.MuteHead(layer, head), work)

    @rule(position=st.integers(0, 4), work=st.integers(0, 3))
    def mute_position(self, position: int, work: int) -> None:
        self.do(a.MutePosition(0, position), work)

    @precondition(lambda self: self.state.run is not None)
    @rule()
    def delete(self) -> None:
        self.do(b.DeleteBranch())

    @rule()
    def undo(self) -> None:
        if self.state.history.past[-1:] and self.state.history.past[-1].values.keys() & {"place", "acts"}:
            self.do(i.Undo())

    @rule()
    def redo(self) -> None:
        if self.state.history.future:
            self.do(i.Redo())

    def teardown(self) -> None:
        for key in self.state.branches.nodes:
            run = branches.view_of(self.state, key)
            if key not in self.state.branches.deleted and run.count:
                self.lab.take(SwitchBranch(*key))
                while self.lab.going.refilling:
                    self.lab.work()
                session = self.lab.going.session
                assert session is not None
                assert (session.run_id, session.branch_id) == key
                as_a_fresh_run(run, session, self.since[key])
        said = ("max_new_tokens", "no position", "before its twin began", "before the twin began")
        for refusal in self.lab.refusals:
            assert any(known in refusal for known in said), refusal
        self.lab.going.end()
        self.lab.going.forget()


def as_a_fresh_run(run: RunView, session: Session, since: Since) -> None:
    """What the window shows of a branch, and what the worker holds, against a run that never branched.

    since: the interventions that it was under.
    """
    steps = run.steps()
    own = next((n for n, step in enumerate(steps) if n >= run.kept and not step.put), len(steps))
    said = [step.token_id for step in steps]
    prompts = [session.rows[0].prompt.token_ids]
    params = {**session.spec.params, "max_new_tokens": len(said)}
    spec = {"seed": session.spec.seed, "reroll": session.spec.reroll, "host_defaults": session.spec.host_defaults}
    theirs, other = fresh(session.loaded, prompts, 0, said[:own], params, since, **spec)
    assert [step.token_id for step in theirs] == said
    for ours, step in zip(steps, theirs, strict=True):
        assert np.isclose(ours.logprob, step.logprob, atol=1e-4)
        assert np.isclose(ours.entropy_bits, step.entropy_bits, atol=1e-3)
        assert np.allclose(np.sort(ours.top.logprob[:50]), np.sort(step.top.logprob[:50]), atol=1e-4)
    assert run.text() == session.rows[0].text[: session.rows[0].ends[-1]] or session.finished
    if cache_length(session.cache) == cache_length(other.cache):
        assert_same_cache(session, other)


@pytest.mark.parametrize("budget_bytes", [1 << 30, 400_000], ids=["roomy", "scarce"])
def test_every_branch_is_what_a_fresh_run_would_be(random_gpt2: LoadedModel, budget_bytes: int) -> None:
    drive(random_gpt2, budget_bytes, 18, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("budget_bytes", [1 << 30, 400_000], ids=["roomy", "scarce"])
def test_whatever_is_done_every_branch_is_what_a_fresh_run_would_be(
    random_gpt2: LoadedModel, budget_bytes: int
) -> None:
    drive(random_gpt2, budget_bytes, 400, derandomize=False)


def drive(loaded: LoadedModel, budget_bytes: int, examples: int, derandomize: bool) -> None:
    """So many sequences of what a user does, the same ones or other ones each time."""
    kind = type("Driven", (User,), {"loaded": loaded, "budget_bytes": budget_bytes})
    drawn = settings(
        max_examples=examples, stateful_step_count=14, deadline=None, derandomize=derandomize, database=None,
        print_blob=True, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(kind, settings=drawn)


def test_what_acts_from_now_on_does_not_act_on_what_is_fed_again(random_gpt2: LoadedModel) -> None:
    kind = type("Driven", (User,), {"loaded": random_gpt2, "budget_bytes": 1 << 30})
    user = kind()
    user.do(i.Run(), 8)
    user.fork(2)
    user.do(a.MuteHead(0, 0))
    user.wait(4)
    user.lab.take(DropBranch(1, 0))  # its cache is given up
    user.switch(-1, 1)
    user.do(i.TogglePause(), 4)
    user.teardown()


def test_a_twin_that_waits_gives_way_to_another_branch_and_that_is_said(random_gpt2: LoadedModel) -> None:
    kind = type("Driven", (User,), {"loaded": random_gpt2, "budget_bytes": 1 << 30})
    user = kind()
    user.do(i.Run())
    user.do(t.RunTwin(TwinChange({"temperature": 2.0}), "prompt"))
    assert user.lab.going.twin_wanted is not None  # the prompt is still to be read
    user.do(b.EditFrom(1, " cat"), 3)
    assert any("before the twin began" in text for text in user.lab.refusals)
    assert any("before the twin began" in notice.text for notice in user.state.notices)
    assert [node.kind for node in user.state.branches.nodes.values()] == ["run", "edit"]
    user.wait(8)
    assert user.state.run is not None
    assert (user.state.run.branch_id, twins.beside(user.state)) == (user.state.branches.last_id, None)
    user.teardown()


def test_a_pause_and_a_step_wait_for_the_twin_too(random_gpt2: LoadedModel) -> None:
    kind = type("Driven", (User,), {"loaded": random_gpt2, "budget_bytes": 1 << 30})
    user = kind()
    user.do(i.Run())
    user.do(t.RunTwin(TwinChange({"temperature": 2.0}), "prompt"))
    user.do(i.TogglePause())
    user.do(i.Step(), 20)
    assert select.is_paused(user.state)
    assert user.state.run is not None
    assert [branches.view_of(user.state, key).count for key in user.state.branches.nodes] == [1, 1]
    user.teardown()


def test_a_twin_of_a_run_that_has_ended_is_not_under_what_was_asked_for_since(random_gpt2: LoadedModel) -> None:
    kind = type("Driven", (User,), {"loaded": random_gpt2, "budget_bytes": 1 << 30})
    user = kind()
    user.do(i.Run(), 20)
    user.do(a.MuteHead(0, 0))
    assert user.state.acting.interventions  # for the next run
    user.do(t.RunTwin(TwinChange({"temperature": 2.0}), "prompt"), 3)
    assert not user.state.acting.interventions
    user.do(a.MuteHead(0, 0), 2)
    [_, twin] = user.lab.going.branches.together
    assert user.state.acting.interventions == twin.acts.now.asked != ()
    user.teardown()
