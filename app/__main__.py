"""`tokenglass`: the window, or one of the commands without it. The composition root."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from app.display import display_problem
from core.contract import TokenglassError

if TYPE_CHECKING:
    from app.store import Lab

HEADLESS = ("generate", "compare", "plan", "models", "bench", "config", "onnx", "cache")
EXIT_USAGE = 2
CLOSE_S = 2.0  # the worker gets so long to end; a load or an import of torch may take longer


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in HEADLESS:
        from core.cli import main as headless

        return headless(arguments, window_bench=_window_bench)
    if arguments and arguments[0] == "shot":
        from app.shot import main as shot

        return shot(arguments[1:])
    try:
        options = _parser().parse_args(arguments[1:] if arguments[:1] == ["run"] else arguments)
    except TokenglassError as wrong:
        print(wrong.message, file=sys.stderr)
        return EXIT_USAGE
    problem = display_problem()
    if problem is not None:
        print(problem, file=sys.stderr)
        return EXIT_USAGE
    return run_window(options)


def _parser() -> argparse.ArgumentParser:
    from core.cli import OneLineParser

    parser = OneLineParser(
        prog="tokenglass",
        description="A desktop microscope for autoregressive generation. Without a command it opens the window.",
        epilog=f"Commands: run (the window), {', '.join(HEADLESS)}, shot; “tokenglass COMMAND --help” explains each.",
    )
    parser.add_argument("--model", metavar="NAME|FOLDER", help="the model to load; see “tokenglass models”")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp32"), help="weights")
    parser.add_argument("--prompt", metavar="TEXT", help="the text in the prompt editor")
    parser.add_argument("--theme", choices=("light", "dark", "contrast"))
    return parser


def run_window(options: argparse.Namespace, shown: Callable[[], None] | None = None) -> int:
    """Open the window and stay until it is closed; `shown` is called after its first paint.

    Ends the process itself if the worker will not end in time.
    """
    from PySide6.QtCore import QCoreApplication, QTimer
    from PySide6.QtWidgets import QApplication

    from app.compose import default_model, make_window, model_choices
    from app.crash import CrashLog
    from app.gc_policy import GcPolicy
    from app.late_lab import LateLab
    from app.preset_files import default_folder
    from app.settings import Settings
    from app.state import intents as i
    from app.state import samples
    from app.state.state import AppState, Draft
    from app.state.texts import set_translator
    from app.store import Store
    from core.contract import ModelSpec

    app = QApplication.instance() or QApplication(["tokenglass"])
    app.setApplicationName("Tokenglass")
    set_translator(lambda text: QCoreApplication.translate("state", text))
    crashes = CrashLog()
    crashes.install()
    settings = Settings()
    choices = model_choices()
    name = options.model or default_model(choices)
    spec = ModelSpec(name, options.device, options.dtype)
    state = AppState(
        spec=spec,
        draft=Draft(text=samples.TEXT),  # there before the model is, so that an early Ctrl+Enter runs what is seen
        models=choices,
        theme=options.theme or settings.theme,
        layout=settings.layout,
        recent_models=settings.recent("models"),
        recent_prompts=settings.recent("prompts"),
        trace_budget_mb=settings.trace_budget_mb,
    )
    lab = LateLab()
    store = Store(lab, state)
    window = make_window(store, settings, default_folder())
    collector = GcPolicy()
    store.add(collector)
    collector.start()
    if options.prompt is not None:
        store.dispatch(i.EditText(options.prompt))
    store.dispatch(i.ChooseModel(name=name))
    window.show()
    store.frame()  # everything has its content when it is painted first,
    app.processEvents()  # and that is before torch is imported
    if shown is not None:
        shown()
    lab.begin(_new_lab)
    store.start()
    notices = QTimer()
    notices.timeout.connect(lambda: crashes.hand_over(store.dispatch))
    notices.start(250)
    signal.signal(signal.SIGINT, lambda *_: window.close())  # the frame timer lets Python see it
    app.exec()
    notices.stop()
    collector.stop()
    return _leave(lab)


def _window_bench() -> dict[str, Any]:
    from app.window_bench import measure

    return measure()


def _new_lab() -> Lab:
    from core import Lab as CoreLab

    return CoreLab()


def _leave(lab: Lab) -> int:
    """End the worker; if it is inside an import or a load, end the process without waiting for it."""
    ended = lab.close(CLOSE_S)
    gc.freeze()  # the interpreter's last collections would walk half a million objects of torch
    sys.stdout.flush()
    sys.stderr.flush()
    if not ended:
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
