"""The desk where views are asked for: who is served first, and by whom."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from core import desk as desk_module
from core.contract import Answered, Ask, AttentionQuery, Deriving, NormsQuery, WalkQuery
from core.desk import Desk
from core.mailbox import Mailbox


class Held:
    """A session that answers in three slices, and notes whom it answers."""

    def __init__(self, log: list[tuple[int, int]], branch_id: int) -> None:
        self.log, self.branch_id = log, branch_id

    def answer_in_slices(self, query: AttentionQuery) -> Generator[None, None, Any]:
        for _ in range(2):
            self.log.append((self.branch_id, query.layer))
            yield
        self.log.append((self.branch_id, query.layer))
        return query


def asked(desk: Desk, *asks: Ask) -> list[tuple[int, int]]:
    """Which branch and layer each slice was for, until all are answered."""
    log: list[tuple[int, int]] = []
    for ask in asks:
        desk.ask(ask)
    while desk:
        desk.derive_slice(lambda run_id, branch_id: Held(log, branch_id), None)  # type: ignore[arg-type, return-value]
    return log


def question(slot: str, layer: int, branch_id: int = 0, chosen: bool = False) -> Ask:
    return Ask(slot, 1, AttentionQuery(1, layer, branch_id=branch_id), chosen)


def test_questions_take_turns() -> None:
    assert asked(Desk(Mailbox()), question("a", 1), question("b", 2)) == [(0, 1), (0, 2)] * 3


def test_what_somebody_waits_for_comes_first() -> None:
    desk = Desk(Mailbox())
    desk.ask(question("a", 1))
    assert not desk.awaited
    desk.ask(question("b", 2, chosen=True))
    assert desk.awaited
    assert asked(desk) == [(0, 2)] * 3 + [(0, 1)] * 3


def test_a_question_goes_to_its_branch_and_a_branch_that_is_gone_says_so() -> None:
    mailbox = Mailbox()
    desk = Desk(mailbox)
    assert asked(desk, question("a", 1, branch_id=4)) == [(4, 1)] * 3
    desk.ask(question("b", 2, branch_id=9))
    desk.derive_slice(lambda run_id, branch_id: None, None)
    refused = [e for e in mailbox.drain() if isinstance(e, Answered) and e.slot == "b"]
    assert refused[0].error is not None
    assert "no longer held" in refused[0].error.message


class Clock:
    """`perf_counter` that goes on when it is told."""

    passed = 1.0

    def __call__(self) -> float:
        return self.passed


class Long(Held):
    """Tells how far it is, and takes longer than a turn."""

    def __init__(self, log: list[tuple[int, int]], branch_id: int, clock: Clock) -> None:
        super().__init__(log, branch_id)
        self.clock = clock

    def answer_in_slices(self, query: AttentionQuery) -> Generator[float | None, None, Any]:
        for number in range(4):
            self.log.append((self.branch_id, query.layer))
            self.clock.passed += 0.15
            yield number / 4
        return query


def test_a_long_one_tells_how_far_it_is_and_lets_others_through(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, mailbox = Clock(), Mailbox()
    log: list[tuple[int, int]] = []
    monkeypatch.setattr(desk_module, "perf_counter", clock)
    desk = Desk(mailbox)

    def find(run_id: int, branch_id: int) -> Any:
        return Long(log, branch_id, clock) if branch_id == 7 else Held(log, branch_id)

    desk.ask(question("rollout", 1, branch_id=7, chosen=True))
    desk.derive_slice(find, None)
    desk.ask(question("row", 2, chosen=True))
    while desk:
        desk.derive_slice(find, None)
    assert log == [(7, 1), *[(0, 2)] * 3, *[(7, 1)] * 3]
    [told] = [e for e in mailbox.drain() if isinstance(e, Deriving)]  # the latest
    assert (told.slot, told.generation) == ("rollout", 1)
    assert 0 < told.fraction < 1
    desk.ask(question("rollout", 1, branch_id=7, chosen=True))
    desk.derive_slice(find, None)
    desk.withdraw("rollout")
    assert not desk


def test_what_needs_a_pass_comes_after_what_is_read_off_the_records() -> None:
    served: list[str] = []

    class Noted:
        def answer_in_slices(self, query: Any) -> Generator[None, None, Any]:
            served.append(type(query).__name__)
            return query
            yield

    desk = Desk(Mailbox())
    for slot, query in (("walk", WalkQuery(1, (0, 1))), ("row", AttentionQuery(1, 0)), ("parts", NormsQuery(1, 3))):
        desk.ask(Ask(slot, 1, query, chosen=True))
    while desk:
        desk.derive_slice(lambda run_id, branch_id: Noted(), None)  # type: ignore[arg-type, return-value]
    assert served == ["AttentionQuery", "NormsQuery", "WalkQuery"]
