"""What happens to an exception that nobody caught: a log file, and one notice in the window."""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import platformdirs
from PySide6.QtCore import QMessageLogContext, QtMsgType, qInstallMessageHandler

from app.state.intents import Announce

log = logging.getLogger("tokenglass")
_LEVELS = {
    QtMsgType.QtDebugMsg: logging.DEBUG,
    QtMsgType.QtInfoMsg: logging.INFO,
    QtMsgType.QtWarningMsg: logging.WARNING,
    QtMsgType.QtCriticalMsg: logging.ERROR,
    QtMsgType.QtFatalMsg: logging.CRITICAL,
}


class CrashLog:
    """Installs the hooks. `pending` collects notices from any thread; the window takes them in its own."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(platformdirs.user_log_dir("tokenglass", appauthor=False))
        self.pending: deque[Announce] = deque(maxlen=100)
        self._faults: IO[str] | None = None
        self._handler: logging.Handler | None = None

    def install(self) -> None:
        """Take over the hooks of Python and Qt; a folder that cannot be written only loses the log."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(
                self.folder / "tokenglass.log", maxBytes=1_000_000, backupCount=2, encoding="utf-8"
            )
            self._faults = (self.folder / "faults.log").open("w", encoding="utf-8")
        except OSError as error:
            print(f"The log cannot be written to {self.folder}: {error}.", file=sys.stderr)
        else:
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            self._handler = handler
            logging.getLogger().addHandler(handler)
            faulthandler.enable(self._faults)
        logging.captureWarnings(True)
        sys.excepthook = self.report
        threading.excepthook = lambda args: self.report(args.exc_type, args.exc_value, args.exc_traceback)
        sys.unraisablehook = lambda args: self.report(args.exc_type, args.exc_value, args.exc_traceback)
        qInstallMessageHandler(self._qt_message)

    def uninstall(self) -> None:
        """Everything back as Python and Qt have it."""
        qInstallMessageHandler(None)
        sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
        sys.unraisablehook = sys.__unraisablehook__
        logging.captureWarnings(False)
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            self._handler.close()
        if self._faults is not None:
            faulthandler.disable()
            self._faults.close()

    def hand_over(self, dispatch: Callable[[Announce], None]) -> None:
        """Show what has come up since; called in the GUI thread."""
        while self.pending:
            dispatch(self.pending.popleft())

    def report(self, kind: type[BaseException], problem: BaseException | None, trace: TracebackType | None) -> None:
        """Log an exception and queue its notice; callable from any thread."""
        if problem is None or issubclass(kind, KeyboardInterrupt | SystemExit):
            return
        detail = "".join(traceback.format_exception(kind, problem, trace))
        log.error("Uncaught exception in thread %s\n%s", threading.current_thread().name, detail)
        text = f"Something unforeseen failed: {kind.__name__}: {problem}. The window goes on; the log has the details."
        self.pending.append(Announce("error", text, detail))
        _let_go(problem)

    def _qt_message(self, kind: QtMsgType, context: QMessageLogContext, message: str) -> None:
        log.log(_LEVELS[kind], "Qt: %s", message)
        if kind in (QtMsgType.QtCriticalMsg, QtMsgType.QtFatalMsg):
            self.pending.append(Announce("error", f"Qt reports: {message}"))


def _let_go(problem: BaseException | None) -> None:
    """Drop what the frames of an exception hold: Python keeps the last one, and a painter left open ends in a crash."""
    while problem is not None:
        traceback.clear_frames(problem.__traceback__)
        problem = problem.__cause__ or problem.__context__
