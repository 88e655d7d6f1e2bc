"""Leak detectors: what did a test leave behind, and which line made it?

`watch()` patches the places where threads, Qt threads and timers start, so that a leak can name its culprit.
`take()` is called before a test and `compare()` after it; the latter returns one sentence for each leak, having
removed what it can, so that the next test starts clean and is not blamed.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import psutil

JOIN_S = 3.0  # a thread that was told to end may need a moment
FREEZE_ABOVE = 60_000  # tracked objects; collecting torch's half a million costs 0.4 s each time
LIBRARY_THREADS = ("TMonitor", "_DummyThread")  # tqdm's monitor; threads that C++ started
LIBRARY_WIDGETS = ("QTipLabel",)  # Qt keeps one tooltip for the process
_STARTERS = (f"{os.sep}threading.py", f"{os.sep}concurrent{os.sep}futures{os.sep}", f"{os.sep}leaks.py")

_serial = itertools.count()
_places: weakref.WeakKeyDictionary[Any, tuple[int, str]] = weakref.WeakKeyDictionary()  # first start, latest place
_single_shots: dict[int, tuple[str, Any]] = {}
_collections: list[str] = []
_confined: weakref.WeakSet[Any] = weakref.WeakSet()


def _place() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and any(part in frame.f_code.co_filename for part in _STARTERS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _note(started: Any) -> None:
    first = _places[started][0] if started in _places else next(_serial)
    _places[started] = (first, _place())


def watch() -> None:
    """Note where Python threads start and where garbage is collected; once a process, before the first test."""
    start = threading.Thread.start

    def noting_start(thread: threading.Thread) -> None:
        _note(thread)
        start(thread)

    threading.Thread.start = noting_start  # type: ignore[method-assign]
    _watch_confined()
    gc.callbacks.append(_note_collection)


def _watch_confined() -> None:
    from core.domains.confined import Confined

    make = Confined.__init__

    def noting_make(self: Any, *args: Any) -> None:
        make(self, *args)
        _confined.add(self)

    Confined.__init__ = noting_make  # type: ignore[method-assign]


def _note_collection(phase: str, info: dict[str, int]) -> None:
    # A cycle that holds a Qt object and dies in another thread crashes the process.
    name = threading.current_thread().name
    if phase == "start" and threading.current_thread() is not threading.main_thread():
        _collections.append(
            f"garbage of generation {info['generation']} was collected in thread {name!r} at {_place()}"
        )


def watch_qt() -> None:
    """Note where Qt threads and timers start; once a process, before the first test that uses Qt."""
    from PySide6.QtCore import QThread, QTimer

    for kind in (QThread, QTimer):
        kind.start = _noting(kind.start)
    single_shot = QTimer.singleShot

    def noting_single_shot(*args: Any) -> Any:
        *head, target = args
        if not callable(target):
            return single_shot(*args)
        key = next(_serial)
        context = next((weakref.ref(a) for a in head if hasattr(a, "metaObject")), None)
        _single_shots[key] = (_place(), context)

        def fire() -> None:
            _single_shots.pop(key, None)
            target()

        return single_shot(*head, fire)

    QTimer.singleShot = staticmethod(noting_single_shot)


def _noting(start: Callable[..., Any]) -> Callable[..., Any]:
    def noting_start(self: Any, *args: Any) -> Any:
        _note(self)
        return start(self, *args)

    return noting_start


@dataclass
class Before:
    """What existed when the test began."""

    qt: bool
    threads: set[threading.Thread]
    children: set[int]
    files: dict[str, str]
    serial: int  # what starts later has a higher one
    widgets: set[int] = field(default_factory=set)


def take(*, qt: bool) -> Before:
    """Look around before a test."""
    _collections.clear()
    before = Before(qt, set(threading.enumerate()), set(_children()), _open_files(), next(_serial))
    if qt:
        before.widgets = {_address(widget) for widget in _top_level_widgets()}
    return before


def compare(before: Before) -> list[str]:
    """Every leak since `before`, one sentence each."""
    found: list[str] = []
    if before.qt:
        _flush_qt()
    collect(full=before.qt)
    if before.qt:
        _flush_qt()
        found += [*_left_qthreads(before), *_left_timers(before), *_left_single_shots(before), *_left_widgets(before)]
    _end_confined()
    found += [*_left_threads(before), *_left_children(before), *_left_files(before), *_collections]
    _collections.clear()
    return found


def _end_confined() -> None:
    """A model that a wider fixture holds may keep its child; it starts another one when it needs it."""
    for confined in list(_confined):
        confined.close()


def collect(*, full: bool) -> None:
    """Collect cycles here, in the main thread; automatic collection is off (see conftest)."""
    gc.collect(2 if full else 1)
    if len(gc.get_objects()) > FREEZE_ABOVE and not _top_level_widgets():
        gc.collect()
        gc.freeze()


def _left_threads(before: Before) -> Iterable[str]:
    for thread in set(threading.enumerate()) - before.threads:
        if type(thread).__name__ in LIBRARY_THREADS:
            continue
        thread.join(JOIN_S)
        if thread.is_alive():
            place = _places[thread][1] if thread in _places else "an unknown place"
            yield f"thread {thread.name!r} still runs; started at {place}"


def _children() -> dict[int, str]:
    found = {}
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.ZombieProcess:
            command = ""
        except psutil.NoSuchProcess:
            continue
        if "resource_tracker" not in command:
            found[child.pid] = command
    return found


def _left_children(before: Before) -> Iterable[str]:
    for pid, command in _children().items():
        if pid in before.children:
            continue
        try:
            child = psutil.Process(pid)
            if child.status() == psutil.STATUS_ZOMBIE:
                yield f"child process {pid} ended but nobody waited for it"
                continue
            child.wait(JOIN_S)
        except psutil.TimeoutExpired:
            child.kill()
            yield f"child process {pid} still runs: {command}"
        except psutil.Error:
            continue


def _open_files() -> dict[str, str]:
    """Descriptors of regular files, pipes and sockets; event loops' own ones come and go with their threads."""
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return {}
    found = {}
    for number in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{number}")
        except OSError:  # the descriptor of listdir itself
            continue
        if not target.startswith(("anon_inode:", "/dev/", "/proc/", "/usr/share/fonts", "/usr/share/mime")):
            found[number] = target
    return found


def _left_files(before: Before) -> Iterable[str]:
    for number, target in _open_files().items():
        if before.files.get(number) != target:
            yield f"file descriptor {number} is still open on {target}"


def _flush_qt() -> None:
    from PySide6.QtCore import QCoreApplication, QEvent

    app = QCoreApplication.instance()
    if app is None:
        return
    for _ in range(3):  # deleting one object may post the deletion of the next
        app.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


def _top_level_widgets() -> list[Any]:
    widgets = sys.modules.get("PySide6.QtWidgets")
    return [] if widgets is None or widgets.QApplication.instance() is None else widgets.QApplication.topLevelWidgets()


def _address(qt_object: Any) -> int:
    import shiboken6

    return int(shiboken6.getCppPointer(qt_object)[0])


def _alive(qt_object: Any) -> bool:
    import shiboken6

    return qt_object is not None and bool(shiboken6.isValid(qt_object))


def _started(before: Before, kind: type) -> list[tuple[Any, str]]:
    noted = [(obj, *note) for obj, note in list(_places.items()) if isinstance(obj, kind)]
    return [(obj, place) for obj, serial, place in noted if serial > before.serial and _alive(obj)]


def _left_qthreads(before: Before) -> Iterable[str]:
    from PySide6.QtCore import QThread

    for thread, place in _started(before, QThread):
        if thread.isRunning() and not thread.wait(int(JOIN_S * 1000)):
            yield f"QThread {thread.objectName() or type(thread).__name__!r} still runs; started at {place}"
            thread.quit()
            if not thread.wait(int(JOIN_S * 1000)):
                thread.terminate()
                thread.wait()


def _left_timers(before: Before) -> Iterable[str]:
    from PySide6.QtCore import QTimer

    for timer, place in _started(before, QTimer):
        if timer.isActive() and not _belongs_to(timer, before.widgets):
            timer.stop()
            yield f"QTimer {timer.objectName() or type(timer).__name__!r} is still active; started at {place}"


def _belongs_to(qt_object: Any, widgets: set[int]) -> bool:
    """Whether the root of its parents is one of `widgets` (a window that a wider fixture owns)."""
    while qt_object.parent() is not None:
        qt_object = qt_object.parent()
    return _address(qt_object) in widgets


def _left_single_shots(before: Before) -> Iterable[str]:
    for key, (place, context) in list(_single_shots.items()):
        if key < before.serial:
            continue
        del _single_shots[key]
        if context is None or _alive(context()):
            yield f"QTimer.singleShot is still pending; started at {place}"


def _left_widgets(before: Before) -> Iterable[str]:
    for widget in _top_level_widgets():
        if _address(widget) in before.widgets or type(widget).__name__ in LIBRARY_WIDGETS:
            continue
        name = f"{type(widget).__name__} {widget.objectName() or widget.windowTitle()!r}"
        widget.close()
        widget.deleteLater()
        yield f"top-level widget {name} was left"
    _flush_qt()


def hooks_of(module: Any) -> list[str]:
    """Every hook on a torch module or below, but those that transformers itself installs for good."""
    found = []
    for name, child in module.named_modules():
        for attribute in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            for hook in getattr(child, attribute).values():
                if not (getattr(hook, "__module__", None) or "").startswith("transformers."):
                    label = getattr(hook, "__qualname__", repr(hook))
                    found.append(f"{attribute.strip('_')} of {name or 'the model'}: {label}")
    return found


def assert_no_hooks(module: Any) -> None:
    """Fail when a hook is left on `module`, naming it."""
    found = hooks_of(module)
    assert not found, "hooks were left: " + "; ".join(found)
