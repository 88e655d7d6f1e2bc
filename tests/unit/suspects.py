"""Tests that misbehave on purpose, for test_conftest.py to run in a process of its own; pytest never collects them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import conftest, leaks

leaks.JOIN_S = 0.3
FOREVER = [sys.executable, "-c", "import time; time.sleep(600)"]
_kept: list[Any] = []  # what a guilty test leaves is still referenced, as a real leak is


def test_guilty_of_a_thread() -> None:
    threading.Thread(target=threading.Event().wait, name="left-thread", daemon=True).start()


def test_innocent_of_a_thread() -> None:
    thread = threading.Thread(target=threading.Event().wait, args=(0.05,))  # ends by itself, a moment later
    thread.start()


def test_guilty_of_a_qthread(qapp: Any) -> None:
    from PySide6.QtCore import QThread

    thread = QThread()
    thread.setObjectName("left-qthread")
    thread.start()
    _kept.append(thread)


def test_guilty_of_a_timer(qtbot: Any) -> None:
    from PySide6.QtCore import QTimer

    timer = QTimer()
    timer.setObjectName("left-timer")
    timer.start(1000)
    _kept.append(timer)


def test_innocent_of_a_timer(qtbot: Any) -> None:
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QWidget

    widget = QWidget()
    qtbot.addWidget(widget)
    QTimer(widget).start(1000)  # dies with its widget
    QTimer.singleShot(0, widget, lambda: None)
    stopped = QTimer()
    stopped.start(1000)
    stopped.stop()
    _kept.append(stopped)


def test_guilty_of_a_single_shot(qapp: Any) -> None:
    from PySide6.QtCore import QTimer

    QTimer.singleShot(60_000, lambda: None)


def test_innocent_of_a_single_shot(qtbot: Any) -> None:
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QWidget

    widget = QWidget()
    qtbot.addWidget(widget)
    QTimer.singleShot(60_000, widget, lambda: None)  # never fires: its context is deleted


def test_guilty_of_a_widget(qapp: Any) -> None:
    from PySide6.QtWidgets import QWidget

    widget = QWidget()
    widget.setObjectName("left-widget")
    widget.show()
    _kept.append(widget)


def test_innocent_of_a_widget(qtbot: Any) -> None:
    from PySide6.QtWidgets import QWidget

    widget = QWidget()
    qtbot.addWidget(widget)
    widget.show()


def test_guilty_of_a_child_process() -> None:
    _kept.append(subprocess.Popen(FOREVER))


def test_guilty_of_a_zombie() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()  # until it ends; nobody waits for it
    process.stdout.close()
    _kept.append(process)


def test_guilty_of_an_open_file(tmp_path: Path) -> None:
    _kept.append(os.open(tmp_path / "left-file.txt", os.O_CREAT | os.O_RDWR))


def test_innocent_of_an_open_file(tmp_path: Path) -> None:
    (tmp_path / "closed.txt").write_text("x")


@pytest.fixture
def tiny_gpt2() -> Any:
    """A stand-in under the name of a real model, so that no weights are loaded here."""
    import torch

    model = torch.nn.Module()
    model.attn = torch.nn.Linear(2, 2)
    conftest._loaded["tiny_gpt2"] = type("Loaded", (), {"module": model})
    return model


def test_innocent_of_a_hook(tiny_gpt2: Any) -> None:
    def removed_hook(*_args: object) -> None: ...

    tiny_gpt2.attn.register_forward_hook(removed_hook).remove()


def test_guilty_of_a_hook(tiny_gpt2: Any) -> None:
    def left_hook(*_args: object) -> None: ...

    tiny_gpt2.attn.register_forward_hook(left_hook)


def test_guilty_of_a_pre_hook(tiny_gpt2: Any) -> None:
    def left_hook(*_args: object) -> None: ...

    tiny_gpt2.register_forward_pre_hook(left_hook)


def test_guilty_of_collecting_in_a_worker() -> None:
    def work() -> None:
        gc.collect()

    thread = threading.Thread(target=work, name="collector")
    thread.start()
    thread.join()


def test_guilty_of_a_python_warning() -> None:
    warnings.warn("an unexpected python warning", stacklevel=1)


def test_guilty_of_an_unclosed_file(tmp_path: Path) -> None:
    cycle: list[Any] = [(tmp_path / "unclosed.txt").open("w")]
    cycle.append(cycle)  # only the collection at the end of the test finds it


def test_guilty_of_a_qt_warning(qapp: Any) -> None:
    from PySide6.QtCore import qWarning

    qWarning("an unexpected Qt warning")


@pytest.fixture
def late_warning() -> Iterator[None]:
    yield
    from PySide6.QtCore import qWarning

    qWarning("a late Qt warning")


def test_guilty_of_a_qt_warning_in_teardown(qapp: Any, late_warning: None) -> None:
    pass


def test_guilty_of_an_exception_in_a_slot(qtbot: Any) -> None:
    from PySide6.QtCore import QTimer

    def slot() -> None:
        raise ValueError("raised in a slot")

    QTimer.singleShot(0, slot)
    qtbot.wait(20)


def test_innocent_of_writing_settings() -> None:
    home = Path.home()
    assert home.name.startswith("tokenglass-tests-")
    for variable in conftest.SETTINGS_DIRS:
        folder = Path(os.environ[variable])
        assert folder.is_relative_to(home)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.ini").write_text("mine")


def test_innocent_of_reading_them() -> None:
    assert not any((Path(os.environ[variable]) / "settings.ini").exists() for variable in conftest.SETTINGS_DIRS)
