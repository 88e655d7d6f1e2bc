"""How much of the time views may take beside a run that goes on."""

from __future__ import annotations

VIEW_SHARE = 0.08  # of the worker's time while it decodes
MOST_CREDIT_S = 0.05  # unused share does not pile up into a stall
MOST_DEBT_S = 0.25  # one long slice does not silence the views for longer than this takes to earn
MOST_AHEAD_S = 1.0  # what urgent views may take before it is earned
AT_ONCE_S = 0.15  # of views between two units of the run


class Allowance:
    """Seconds that views may take: a share of what the run takes, neither saved up for long nor owed for long.

    What the user waits for (urgent) is derived before it is earned, up to `MOST_AHEAD_S`; half of the income pays that
    back while the other half keeps the other views alive, so that on average the share is kept.
    """

    def __init__(self) -> None:
        self.credit_s = 0.0
        self.ahead_s = 0.0
        self._at_once_s = 0.0

    def earn(self, worked_s: float) -> None:
        """After a unit of the run."""
        income_s = worked_s * VIEW_SHARE / (1 - VIEW_SHARE)
        back_s = min(self.ahead_s, income_s / 2)
        self.ahead_s -= back_s
        self.credit_s = min(MOST_CREDIT_S, self.credit_s + income_s - back_s)
        self._at_once_s = 0.0

    def allows(self, urgent: bool) -> bool:
        """Whether a slice may be derived now."""
        if self._at_once_s >= AT_ONCE_S:
            return False
        return self.credit_s > 0 or (urgent and self.ahead_s < MOST_AHEAD_S)

    def spend(self, spent_s: float, urgent: bool) -> None:
        """A slice was derived."""
        self._at_once_s += spent_s
        ahead_s = 0.0
        if urgent and self.ahead_s < MOST_AHEAD_S:
            ahead_s = max(0.0, spent_s - max(0.0, self.credit_s))
        self.ahead_s += ahead_s
        self.credit_s = max(-MOST_DEBT_S, self.credit_s - spent_s + ahead_s)
