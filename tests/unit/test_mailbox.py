"""The mailbox: order, latest wins, back-pressure, closing."""

from __future__ import annotations

import threading

from core.contract import LoadProgress, StateChanged, WorkerState
from core.mailbox import Mailbox


def test_the_ordered_lane_loses_nothing_and_the_latest_wins_in_its_slot() -> None:
    box = Mailbox()
    for state in (WorkerState.STARTING, WorkerState.NO_MODEL):
        box.put(StateChanged(state))
    for fraction in (0.1, 0.9):
        box.put_latest("load", LoadProgress(1, "reading", fraction))
    events = box.drain()
    assert events == [
        StateChanged(WorkerState.STARTING),
        StateChanged(WorkerState.NO_MODEL),
        LoadProgress(1, "reading", 0.9),
    ]
    assert box.drain() == []


def test_a_full_lane_makes_the_writer_wait_and_keeps_every_event() -> None:
    box = Mailbox(capacity=3)
    total = 500
    writer = threading.Thread(target=lambda: [box.put(LoadProgress(i, "")) for i in range(total)])
    writer.start()
    seen: list[int] = []
    while len(seen) < total:
        batch = box.drain()
        assert len(batch) <= 3
        seen += [event.model_id for event in batch]
    writer.join()
    assert seen == list(range(total))


def test_closing_releases_a_waiting_writer() -> None:
    box = Mailbox(capacity=1)
    box.put(StateChanged(WorkerState.READY))
    writer = threading.Thread(target=box.put, args=(StateChanged(WorkerState.CLOSED),))
    writer.start()
    box.close()
    writer.join(timeout=10)
    assert not writer.is_alive()
