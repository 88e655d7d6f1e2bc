"""How much of the time views may take beside a run."""

from __future__ import annotations

import pytest

from core.allowance import AT_ONCE_S, MOST_AHEAD_S, VIEW_SHARE, Allowance
from core.contract import Ask, AttentionQuery
from core.desk import Desk
from core.mailbox import Mailbox

STEP_S = 0.03


def views_beside(allowance: Allowance, steps: int, slice_s: float, urgent: bool) -> list[float]:
    """Seconds of views after each of so many steps, as the worker takes them."""
    taken = []
    for _ in range(steps):
        allowance.earn(STEP_S)
        taken.append(0.0)
        while allowance.allows(urgent):
            allowance.spend(slice_s, urgent)
            taken[-1] += slice_s
    return taken


@pytest.mark.parametrize("slice_s", [0.002, 0.02])
@pytest.mark.parametrize("urgent", [False, True])
def test_on_average_the_share_is_kept(slice_s: float, urgent: bool) -> None:
    steps = 20_000
    taken = sum(views_beside(Allowance(), steps, slice_s, urgent))
    assert taken / (taken + steps * STEP_S) == pytest.approx(VIEW_SHARE, rel=0.03)


def test_a_slice_that_was_too_long_does_not_silence_the_views() -> None:
    allowance = Allowance()
    allowance.spend(1.6, urgent=False)
    taken = views_beside(allowance, 120, 0.002, urgent=False)
    assert any(taken)


def test_what_is_urgent_is_done_at_once_and_paid_back() -> None:
    allowance = Allowance()
    views_beside(allowance, 100, 0.002, urgent=False)
    allowance.earn(STEP_S)
    before = allowance.credit_s
    allowance.spend(0.12, urgent=True)
    assert not allowance.allows(urgent=False)
    assert allowance.ahead_s == pytest.approx(0.12 - before)
    taken = views_beside(allowance, 20, 0.002, urgent=False)
    assert any(taken), "the other views go on meanwhile"
    views_beside(allowance, 200, 0.002, urgent=False)
    assert allowance.ahead_s == 0.0


def test_a_flood_of_urgent_questions_stalls_neither_a_step_nor_the_run() -> None:
    allowance = Allowance()
    taken = views_beside(allowance, 500, 0.02, urgent=True)
    assert max(taken) < AT_ONCE_S + 0.021
    assert allowance.ahead_s < MOST_AHEAD_S + 0.021


def test_urgent_questions_come_first_in_their_order_and_do_not_take_turns() -> None:
    mailbox = Mailbox()
    desk = Desk(mailbox)
    query = AttentionQuery(1, 0)
    for number, (slot, urgent) in enumerate((("a", False), ("b", True), ("c", False), ("d", True), ("a", False))):
        desk.ask(Ask(slot, number, query, urgent))
    order = []
    while desk:
        assert desk.awaited == (len(order) < 2)
        desk.derive_slice(lambda run, branch: None, None)  # each declines at once: there is no such run
        order += [event.slot for event in mailbox.drain()]  # type: ignore[union-attr]
    assert order == ["b", "d", "c", "a"]
