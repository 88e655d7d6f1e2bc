"""PySide6 6.12.0 drops a reference of True with each emit and kills CPython 3.11 after some 600 of them."""

from __future__ import annotations

import sys
from typing import Any

from PySide6.QtCore import QObject, Signal, Slot


class Sender(QObject):
    """Emits with and without somebody listening."""

    fired = Signal(int)
    unheard = Signal()


class Receiver(QObject):
    """Counts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @Slot(int)
    def hear(self, _value: int) -> None:
        self.count += 1


def test_ten_thousand_emits_leave_the_reference_counts_flat(qapp: Any) -> None:
    sender, receiver = Sender(), Receiver()
    sender.fired.connect(receiver.hear)
    before = [sys.getrefcount(constant) for constant in (True, False, None)]
    for i in range(10_000):
        sender.fired.emit(i)
        sender.unheard.emit()
    after = [sys.getrefcount(constant) for constant in (True, False, None)]
    assert receiver.count == 10_000
    assert all(abs(a - b) <= 50 for a, b in zip(after, before, strict=True)), (before, after)
