"""The program around the window: start, display, uncaught exceptions, garbage collection, leaving."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, qCritical, qWarning
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QApplication, QWidget

from app import __main__ as program
from app.crash import CrashLog
from app.display import display_problem
from app.gc_policy import FULL_EVERY, MIDDLE_EVERY, GcPolicy
from app.late_lab import LateLab
from app.state import intents as i
from app.state.state import AppState
from core.cli import _parser as _cli_parser
from core.contract import LoadModel, ModelSpec
from tests.ui.fake_lab import FakeLab, model_info
from tests.ui.harness import driven

CLOSE_AFTER_SHOWN = """
import sys, time
from app.__main__ import _parser, run_window
def shown():
    assert "torch" not in sys.modules
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication
    def close():
        global closed
        closed = time.monotonic()
        print("closing", flush=True)
        [w.close() for w in QApplication.topLevelWidgets() if w.isVisible()]
    QTimer.singleShot(int(sys.argv[1]), close)
sys.exit(run_window(_parser().parse_args(["--model", "tiny-gpt2"]), shown))
"""


def test_every_command_of_core_is_one_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    for command in _cli_parser()._subparsers._group_actions[0].choices:  # type: ignore[union-attr]
        assert program.main([command, "--help"]) == 0
        assert f"tokenglass {command}" in capsys.readouterr().out


def test_without_a_display_one_sentence_and_exit_2() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-m", "app"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux can lack a display")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "needs a display" in done.stderr


def test_a_display_counts_only_if_something_answers_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert "is set" in (display_problem({}) or "")
    assert display_problem({"QT_QPA_PLATFORM": "vnc"}) is None
    wayland = {"XDG_RUNTIME_DIR": str(tmp_path), "WAYLAND_DISPLAY": "w-0"}
    assert "nothing answers at WAYLAND_DISPLAY=w-0" in (display_problem(wayland) or "")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "w-0"))
        server.listen()
        assert display_problem(wayland) is None
    assert "nothing answers at DISPLAY=:4711" in (display_problem({"DISPLAY": ":4711"}) or "")
    assert "nothing answers" in (display_problem({"DISPLAY": "no display"}) or "")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--model"],
        ["bogus"],
        ["--theme", "blue"],
        ["shot"],
        ["shot", "--size", "10"],
        ["shot", "--out", "x", "--tokens", "-5"],
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(wrong) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1


def test_headless_commands_go_to_core(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["models"]) == 0
    assert "tiny-gpt2" in capsys.readouterr().out


@pytest.mark.parametrize("delay_ms", [0, 300])
def test_closing_while_the_worker_imports_torch_ends_the_process_with_0(tmp_path: Path, delay_ms: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSE_AFTER_SHOWN, str(delay_ms)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "closing\n"
    assert "Traceback" not in done.stderr
    assert "Destroyed" not in done.stderr


def test_commands_wait_for_a_lab_that_starts_late() -> None:
    late, lab = LateLab(), FakeLab()
    load = LoadModel(ModelSpec("tiny-gpt2"), 1)
    late.submit(load)
    assert late.drain() == []
    assert late.close(1.0)
    late.begin(lambda: lab)
    assert lab.commands == [load]
    assert late.drain()
    assert late.close(1.0)
    assert lab.closed


@pytest.fixture
def crashes(tmp_path: Path) -> Iterator[CrashLog]:
    log = CrashLog(tmp_path / "log")
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    log.install()
    yield log
    log.uninstall()
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)


def test_uncaught_exceptions_of_any_thread_are_logged_and_shown_once(
    crashes: CrashLog, tmp_path: Path, qapp: QApplication
) -> None:
    def fail() -> None:
        raise ValueError("worker trouble")

    for _ in range(2):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    text = (tmp_path / "log" / "tokenglass.log").read_text()
    assert "worker trouble" in text
    assert "Traceback" in text
    with driven(tmp_path / "settings.ini") as one:
        crashes.hand_over(one.do)
        one.frames(2)
        (notice,) = one.state.notices
        assert notice.text.startswith("Something unforeseen failed: ValueError: worker trouble.")
        assert notice.count == 2
        assert "Traceback" in notice.detail
    crashes.report(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not crashes.pending


class _Breaking(QWidget):
    """A widget whose painting fails half way."""

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.drawPoint(0, 0)
        raise IndexError("no such row")


def test_painting_that_fails_leaves_no_painter_open(crashes: CrashLog, tmp_path: Path, qapp: QApplication) -> None:
    widget = _Breaking()
    widget.show()
    for _ in range(3):
        widget.update()
        qapp.processEvents()
    widget.close()
    widget.deleteLater()
    text = (tmp_path / "log" / "tokenglass.log").read_text()
    assert "no such row" in text
    assert "Qt: " not in text, "endPaint() with an active painter, and then a crash"


def test_qt_messages_go_to_the_log_and_grave_ones_to_the_user(
    crashes: CrashLog, tmp_path: Path, qapp: QApplication
) -> None:
    qWarning("a warning")
    qCritical("grave")
    text = (tmp_path / "log" / "tokenglass.log").read_text()
    assert "Qt: a warning" in text
    assert [a.text for a in crashes.pending] == ["Qt reports: grave"]


def test_a_log_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], qapp: QApplication
) -> None:
    (tmp_path / "log").write_text("a file, not a folder")
    log = CrashLog(tmp_path / "log")
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    log.install()
    log.report(ValueError, ValueError("x"), None)
    log.uninstall()
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    assert "The log cannot be written" in capsys.readouterr().err
    assert len(log.pending) == 1


@pytest.fixture
def collected() -> list[int]:
    return []


@pytest.fixture
def policy(qapp: QApplication, collected: list[int]) -> Iterator[GcPolicy]:
    def collect(generation: int) -> int:
        assert threading.current_thread() is threading.main_thread()
        collected.append(generation)
        return 0

    policy = GcPolicy(collect, lambda: collected.append(-1))
    yield policy
    policy.stop()
    policy.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def test_garbage_is_collected_young_by_the_timer_and_fully_only_when_idle(
    policy: GcPolicy, collected: list[int]
) -> None:
    policy.render(AppState())
    for _ in range(FULL_EVERY):
        policy.tick()
    assert collected[:MIDDLE_EVERY] == [0] * (MIDDLE_EVERY - 1) + [1]
    assert collected[-1] == 2
    collected.clear()
    with_run = AppState(requested=object())  # type: ignore[arg-type]
    policy.render(with_run)
    for _ in range(FULL_EVERY):
        policy.tick()
    assert 2 not in collected


def test_a_new_model_is_frozen_once_and_automatic_collection_is_off(policy: GcPolicy, collected: list[int]) -> None:
    policy.start()
    assert not gc.isenabled()
    assert collected == [-1]
    state = AppState(model=model_info())
    policy.render(state)
    policy.render(state)
    assert collected == [-1, -1]


def test_closing_the_window_ends_the_frames(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.ini") as one:
        one.store.start()
        one.do(i.Run())
        one.frames(2)
        one.window.close()
        count = one.state.run.count
        QApplication.processEvents()
        assert one.state.run.count == count
