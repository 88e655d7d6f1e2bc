"""Fixtures for every test: nothing may be left behind, nobody's settings are touched, models are loaded once."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests import leaks

if TYPE_CHECKING:
    from core.models.loader import LoadedModel

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # before anything imports Qt
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models: on a busy machine more threads wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
TINY_GPT2 = Path(__file__).parents[1] / "resources" / "models" / "tiny-gpt2"
MODELS = frozenset(
    {"tiny_gpt2", "random_gpt2", "random_llama", "random_qwen2", "random_qwen2_sliding", "random_imagegpt"}
)
SETTINGS_DIRS = {"XDG_CONFIG_HOME": ".config", "XDG_DATA_HOME": ".local/share", "XDG_STATE_HOME": ".local/state"}

_failed = pytest.StashKey[bool]()
_home = Path(tempfile.mkdtemp(prefix="tokenglass-tests-"))
_loaded: dict[str, Any] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Move home away, and take garbage collection into our own hands: Qt objects must die in the main thread."""
    # The cache of converted models may be shared (a conversion takes 15 s), but only when asked for by name.
    os.environ.setdefault("TOKENGLASS_CACHE", str(_home / "cache"))
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(_home)
    os.environ["XDG_CACHE_HOME"] = str(_home / ".cache")
    for variable, folder in SETTINGS_DIRS.items():
        os.environ[variable] = str(_home / folder)
    config.addinivalue_line("qt_log_ignore", r"This plugin does not support propagateSizeHints")  # offscreen
    # Machines are busy and shared, so no judgement on time; the same examples each time.
    slow = [HealthCheck.too_slow]
    settings.register_profile("house", deadline=None, derandomize=True, database=None, suppress_health_check=slow)
    settings.load_profile("house")
    gc.disable()
    leaks.watch()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_home, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[_failed] = report.failed
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """pytest-qt judges Qt's messages during the test; this judges those of its teardown."""
    if not _uses_qt(item):
        return (yield)
    from PySide6.QtCore import QtMsgType, qInstallMessageHandler

    messages: list[str] = []

    def handler(kind: QtMsgType, context: object, message: str) -> None:
        if kind not in (QtMsgType.QtDebugMsg, QtMsgType.QtInfoMsg):
            messages.append(message)

    previous = qInstallMessageHandler(handler)
    try:
        result = yield
    finally:
        qInstallMessageHandler(previous)
    if messages:
        pytest.fail("Qt warned while the test was torn down: " + "; ".join(messages), pytrace=False)
    return result


def _uses_qt(item: pytest.Item) -> bool:
    return "qapp" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def qapp_watched() -> None:
    """Timers and Qt threads note where they start, from before the first one does."""
    leaks.watch_qt()


@pytest.fixture(scope="session")
def qapp(qapp_watched: None, qapp: Any) -> Any:
    """The application as pytest-qt makes it, watched."""
    return qapp


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves a thread, timer, widget, child process, open file or forward hook."""
    item = request.node
    before = leaks.take(qt=_uses_qt(item))
    yield
    gc.disable()  # a test of the app's own collector may have turned it on
    found = leaks.compare(before)
    for name in MODELS & set(item.fixturenames) & set(_loaded):
        found += [f"{name}: {hook}" for hook in leaks.hooks_of(_loaded[name].module)]
    # A failed test keeps its frames, and with them its objects, alive: that is not a second fault.
    if found and not item.stash.get(_failed, False):
        pytest.fail("This test left something behind:\n- " + "\n- ".join(found), pytrace=False)


@pytest.fixture(autouse=True)
def own_settings() -> Iterator[None]:
    """Settings that one test writes are not there for the next."""
    yield
    for folder in SETTINGS_DIRS.values():
        if (_home / folder).exists():
            shutil.rmtree(_home / folder)


def _load(name: str, folder: Path) -> LoadedModel:
    """Load once a process, in fp32 and on the CPU, so that results can be compared to the last digits."""
    if name not in _loaded:
        from core.api import load_model

        _loaded[name] = load_model(folder, device="cpu", dtype="fp32")
    return _loaded[name]


@pytest.fixture(scope="session")
def tiny_gpt2() -> LoadedModel:
    """The trained model of the repository: 6 layers × 256, 512 positions."""
    return _load("tiny_gpt2", TINY_GPT2)


@pytest.fixture(scope="session")
def random_gpt2(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    from tests.models import build_gpt2

    return _load("random_gpt2", build_gpt2(tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="session")
def random_llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Grouped-query attention, rotary positions."""
    from tests.models import build_llama

    return _load("random_llama", build_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="session")
def random_qwen2(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    from tests.models import build_qwen2

    return _load("random_qwen2", build_qwen2(tmp_path_factory.mktemp("qwen2")))


@pytest.fixture(scope="session")
def random_imagegpt(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Pixels as tokens; no attention interface, a head without the start token, pictures of 8 × 8 in 40 colours."""
    from tests.models import build_imagegpt

    return _load("random_imagegpt", build_imagegpt(tmp_path_factory.mktemp("imagegpt")))


@pytest.fixture(scope="session")
def random_qwen2_sliding(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Some layers see a window only."""
    from tests.models import build_qwen2

    return _load("random_qwen2_sliding", build_qwen2(tmp_path_factory.mktemp("qwen2-sliding"), sliding_window=8))
