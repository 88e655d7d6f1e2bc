"""Settings, layout and cache files that are damaged, in the way, or cannot be written: defaults, and it is said."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.state import intents as i
from core.contract import LoadFailed, ModelReady, ModelSpec, Prompt
from tests.campaign.driver import Driver
from tests.models import build_gpt2
from tests.ui.harness import driven

ROOT = Path(__file__).parents[2]
GARBAGE = {
    "empty": b"",
    "zeros": b"\x00" * 500,
    "noise": random.Random(1).randbytes(4000),
    "not utf-8": b'{"theme": "\xff\xfe\xfa"}',
    "cut": b'{"version": 1, "theme": "da',
    "a list": b"[1, 2, 3]",
    "deep": b"[" * 100_000,
    "a long number": b'{"version": ' + b"9" * 5000 + b"}",
    "too large": b'{"theme": "' + b"d" * (9 << 20) + b'"}',
    "an old format": b"[General]\nversion=1\ntheme=dark\n",
}
ODD = {
    "wrong types": {"theme": ["dark"], "layout": 42, "geometry": 3, "cards": {}, "recent_models": "x"},
    "unknown names": {"theme": "plaid", "layout": "../../etc", "no such": None},
    "noise as geometry": {"geometry": "AdnQywADAAD/////", "cards": "AAAA/wAAAAD9////"},
    "no base64": {"geometry": "§§§", "cards": "%%%"},
    "no numbers": {"theme": float("inf"), "layout": float("nan")},
    "odd recents": {"recent_models": [1, None, "\ud800", "x" * 100_000], "recent_prompts": [["a"], "\u0000"]},
}

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from PySide6.QtCore import QByteArray, QSettings
from PySide6.QtWidgets import QApplication
from tests.ui.harness import driven
from app.state import intents as i
app = QApplication([])
path = Path(sys.argv[1])
with driven(path) as one:
    one.do(i.SetTheme("dark"))
    one.frames(2)
good = path.read_bytes()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with driven(path) as one:
    one.do(i.SetTheme("light"))
    one.frames(2)
print("intact" if path.read_bytes() == good else f"{len(good)} bytes became {path.stat().st_size}")
"""


def defaults_shown(path: Path) -> str | None:
    """A window on these settings works and shows the defaults; what it says was wrong with them."""
    with driven(path) as one:
        assert one.window.isVisible()
        assert (one.settings.theme, one.settings.layout) == ("light", "everything")
        problem = one.settings.problem
        one.do(i.Run())
        one.frames(3)
    with driven(path) as again:  # what was written in its place can be read
        assert again.settings.problem is None
        assert again.settings.window() is not None
    return problem


@pytest.mark.usefixtures("qapp")
@pytest.mark.parametrize("kind", GARBAGE)
def test_damaged_settings_are_said_kept_aside_and_read_as_the_defaults(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(GARBAGE[kind])
    assert "cannot be read, so defaults are used" in (defaults_shown(path) or "")
    assert GARBAGE[kind] in [other.read_bytes() for other in tmp_path.iterdir() if other.is_file()]


@pytest.mark.usefixtures("qapp")
@pytest.mark.parametrize("kind", ODD)
def test_odd_values_in_the_settings_read_as_the_defaults(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"version": 1, **ODD[kind]}))
    assert defaults_shown(path) is None


@pytest.mark.usefixtures("qapp")
@pytest.mark.parametrize("version", [999, "newest", 1.5, None])
def test_settings_of_a_later_version_are_said_and_kept_aside(version: object, tmp_path: Path) -> None:
    path, text = tmp_path / "settings.json", json.dumps({"version": version, "theme": "dark", "new": [1]})
    path.write_text(text)
    assert "are of another version of Tokenglass, so defaults are used" in (defaults_shown(path) or "")
    assert path.with_suffix(".later.json").read_text() == text


@pytest.mark.usefixtures("qapp")
def test_settings_that_cannot_be_kept_aside_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"version": 7}')

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with driven(path, load=False) as one:
        monkeypatch.setattr(os, "link", full)
        monkeypatch.setattr(Path, "replace", full)
        one.do(i.SetTheme("dark"))
        one.frames(2)
        one.window.keeper.write()
        assert any("No space left" in notice.text for notice in one.state.errors)
    assert path.read_text() == '{"version": 7}'


def full_disk(monkeypatch: pytest.MonkeyPatch, where: Path) -> list[Path]:
    """From now on every file written below `where` meets a full disk; which ones did."""
    met: list[Path] = []
    plain = io.open

    def opened(file: object, mode: str = "r", *args: object, **more: object) -> object:
        path = Path(file) if isinstance(file, str | os.PathLike) else None
        if path is not None and where in path.parents and set(mode) & set("wax+"):
            met.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return plain(file, mode, *args, **more)  # type: ignore[call-overload]

    def full(*_: object, **__: object) -> None:
        met.append(where)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr(tempfile, "mkstemp", full)
    return met


@pytest.mark.usefixtures("qapp")
def test_presets_and_layout_on_a_full_disk_stay_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.json"
    with driven(path) as one:
        one.do(i.SetParameter("temperature", 0.25))
        one.do(i.SavePreset("mine"))
        one.frames(2)
        one.window.keeper.write()
    preset, good = tmp_path / "presets" / "mine.json", {}
    for file in (path, preset):
        good[file] = file.read_bytes()
    with driven(path) as one:
        met = full_disk(monkeypatch, tmp_path)
        one.do(i.SetParameter("temperature", 0.75))
        one.do(i.SavePreset("mine"))
        one.do(i.SetLayout("cache"))
        one.frames(2)
        one.window.keeper.write()
        told = [notice.text for notice in one.state.errors]
        assert met
        assert any("settings cannot be saved" in text and "No space left" in text for text in told), told
        assert any("presets cannot be saved" in text and "No space left" in text for text in told), told
        assert one.state.layout == "cache"  # the window goes on
    monkeypatch.undo()
    assert {file: file.read_bytes() for file in good} == good
    assert sorted(p.name for p in preset.parent.iterdir()) == ["mine.json"]


def test_a_model_cache_on_a_full_disk_costs_time_and_nothing_else(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_gpt2(tmp_path / "model")
    driver = Driver(None)
    try:
        assert loads(model, driver)
        (record,) = (cache / "tokenizers").iterdir()
        good = record.read_bytes()
        record.write_bytes(b"damaged")
        met = full_disk(monkeypatch, cache)
        assert loads(model, driver)
        assert met
        assert record.read_bytes() == b"damaged"
        monkeypatch.undo()
        monkeypatch.setenv("TOKENGLASS_CACHE", str(cache))
        assert loads(model, driver)
        assert record.read_bytes() == good
    finally:
        driver.close()


@pytest.mark.usefixtures("qapp")
def test_flipped_and_missing_bytes_never_keep_the_window_from_opening(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    with driven(path, load=False):
        pass
    good, dice = path.read_bytes(), random.Random(2)
    for _ in range(12):
        damaged = bytearray(good)
        for _ in range(dice.randrange(1, 8)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(bytes(damaged[: dice.randrange(1, len(damaged))]) if dice.random() < 0.5 else bytes(damaged))
        with driven(path, load=False) as one:
            assert one.window.isVisible()


@pytest.mark.usefixtures("qapp")
def test_settings_that_cannot_be_written_are_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING), driven(tmp_path / "file" / "settings.json") as one:
        assert one.window.isVisible()
    assert "cannot be saved" in caplog.text
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits are POSIX")
@pytest.mark.parametrize("room_bytes", [0, 100])
def test_on_a_full_disk_the_old_settings_stay_as_they_are(tmp_path: Path, room_bytes: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "settings.json"), str(room_bytes)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "intact"
    assert "cannot be saved" in done.stderr


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TOKENGLASS_CACHE", str(folder))
    return folder


def loads(folder: Path, driver: Driver) -> bool:
    """Whether a folder loads and runs."""
    driver.forget()
    driver.load(ModelSpec(str(folder), "cpu", "fp32"))
    driver.until(lambda: any(isinstance(e, ModelReady | LoadFailed) for e in driver.events))
    return (
        not any(isinstance(e, LoadFailed) for e in driver.events)
        and driver.run((Prompt(ids=(1, 2, 3)),)).new_tokens == 6
    )


def test_a_cache_that_is_damaged_or_in_the_way_costs_time_and_nothing_else(tmp_path: Path, cache: Path) -> None:
    model = build_gpt2(tmp_path / "model")
    driver = Driver(None)
    try:
        assert loads(model, driver)
        (record,) = (cache / "tokenizers").iterdir()
        good = json.loads(record.read_text())
        for content in (
            b"",
            b"\x00" * 99,
            b"null",
            b"[]",
            b'{"largest_id": "many"}',
            b"{" * 9999,
        ):
            record.write_bytes(content)
            assert loads(model, driver), content
            assert json.loads(record.read_text()) == good, content
        record.unlink()
        record.mkdir()
        assert loads(model, driver)
        shutil.rmtree(cache)
        cache.write_text("a file where the folder should be")
        assert loads(model, driver)
        assert cache.read_text() == "a file where the folder should be"
    finally:
        driver.close()
