"""The real program, closed in every state of its worker: exit status 0, soon, without a word."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.campaign.figures import note

STATES = ("idle", "loading", "prefill", "decoding", "paused", "failed")
TIMES = 5
MOST_S = 3.0

# Closes the window once its worker is in the state asked for; prefill is slowed down so that it can be met.
PROGRAM = """
import sys, time
from app.__main__ import _parser, run_window
wanted = sys.argv[1]

def slow_prefill():
    from core.decode.forward import Forward
    plain = Forward._before_layer
    def slow(self, module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] > 100:
            time.sleep(0.05)
        return plain(self, module, args, kwargs)
    Forward._before_layer = slow

def shown():
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication
    from app.state import intents as i, select
    from core.contract import WorkerState
    window = next(w for w in QApplication.topLevelWidgets() if hasattr(w, "store"))
    store = window.store
    timer = QTimer(window)
    started = False

    def reached():
        nonlocal started
        state = store.state
        if wanted == "loading":
            return state.worker is WorkerState.LOADING
        if wanted == "failed":
            return bool(state.notices) and state.loading is None
        if state.model is None:
            return False
        if wanted == "idle":
            return True
        if not started:
            started = True
            store.dispatch(i.SetParameter("max_new_tokens", 400))
            store.dispatch(i.SetParameter("eos_token_id", ()))
            if wanted == "prefill":
                slow_prefill()
                store.dispatch(i.EditText("word " * 200))
            store.dispatch(i.Step() if wanted == "paused" else i.Run())
        if wanted == "prefill":
            return state.worker is WorkerState.PREFILL
        if wanted == "paused":
            return select.is_paused(state)
        return state.run is not None and state.run.count > 2

    def look():
        if reached():
            timer.stop()
            print(store.state.worker, time.time(), flush=True)
            window.close()

    timer.timeout.connect(look)
    timer.start(5)

model = "/no/such/folder" if wanted == "failed" else "tiny-gpt2"
sys.exit(run_window(_parser().parse_args(["--model", model]), shown))
"""


def leave_s(state: str, home: Path) -> float:
    """Seconds from closing the window to the end of the process, which must have ended quietly."""
    home.mkdir(parents=True, exist_ok=True)
    folders = {name: str(home / name) for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, state],
        env={**os.environ, **folders, "QT_QPA_PLATFORM": "offscreen", "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    ended = time.time()
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stderr == ""
    said = [path.read_text(encoding="utf-8") for path in home.rglob("*.log")]
    assert said
    assert not [line for text in said for line in text.splitlines() if "Qt:" in line or "Uncaught" in line]
    return ended - float(done.stdout.split()[-1])


@pytest.mark.parametrize("state", ["loading", "decoding"])
def test_closing_the_window_ends_the_program_quietly(state: str, tmp_path: Path) -> None:
    leave_s(state, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_closing_again_and_again_ends_in_time(state: str, tmp_path: Path) -> None:
    spent = [leave_s(state, tmp_path / str(n)) for n in range(TIMES)]
    figure = note(f"closing while {state} × {TIMES}", "window closed to process ended, worst", max(spent), "s", MOST_S)
    assert figure.kept
