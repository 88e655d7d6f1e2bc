"""Hostile model folders: each ends in one sentence or loads harmlessly, soon, and touches nothing else.

The short set has one or more of each kind; the rest is slow only because there are many.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from core.contract import ChatMessage, ModelLoadError, ModelSpec, PromptError
from core.models.loaded import LoadedModel
from core.models.loader import load
from tests.hostile import EITHER, LOADS, NO_CHAT, REFUSED, build_base, prepare_outside
from tests.hostile_cases import CASES

MOST_CPU_S = 5.0  # of the processor, in all processes
MOST_WALL_S, MOST_BUSY_WALL_S = 5.0, 25.0  # on the clock; of a machine that does other things
MOST_BYTES = 300 << 20
CASE_LIST = [
    pytest.param(name, marks=() if case.short else pytest.mark.slow, id=name.replace(" ", "-"))
    for name, case in CASES.items()
]
# What this process and its children log: every file that Python code opens.
LOGGER = """
import os, sys
def _log(event, args, path=os.environ["TOKENGLASS_OPENED"]):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)) and args[0] != path:
        with open(path, "a") as file: file.write(os.path.realpath(os.fsdecode(args[0])) + chr(10))
sys.addaudithook(_log)
"""
_opened: list[list[str]] = []  # of the tests that watch; the hook itself can never be removed


class Control:
    def progress(self, stage: str, fraction: float | None) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _opened and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened[-1].append(os.path.realpath(os.fsdecode(arguments[0])))


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_hook)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_base(tmp_path_factory.mktemp("hostile") / "base")
    _use(load(ModelSpec(str(folder), "cpu", "fp32"), 1, Control()))  # whatever is imported late, is now
    return folder


@contextmanager
def _watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every file opened inside, by this process or by children."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(LOGGER)
    log = tmp_path / "hook" / "log"
    log.touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    monkeypatch.setenv("TOKENGLASS_OPENED", str(log))
    opened: list[str] = []
    _opened.append(opened)
    try:
        yield opened
    finally:
        _opened.pop()
    opened += log.read_text().splitlines()


def _is_allowed(path: str, folder: Path, tmp_path: Path) -> bool:
    """The folder, our own copies and cache, Python, and what the machine tells about itself."""
    program = [sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], str(Path(__file__).parents[2])]
    ours = [str(folder), str(tmp_path / "hook"), os.environ["TOKENGLASS_CACHE"], f"{tempfile.gettempdir()}/tokenglass-"]
    system = ["/proc", "/sys", "/dev/null", "/etc/localtime", "/etc/mime.types", "/usr/share/zoneinfo"]
    temporary = Path(tempfile.gettempdir())  # where files without a name are made
    return temporary in (Path(path), Path(path).parent) or any(
        path.startswith(os.path.realpath(place)) for place in (*program, *ours, *system)
    )


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _use(model: LoadedModel) -> None:
    """What the window does with a model."""
    ids = model.text.encode("Hello, world") if model.text.tokenizer is not None else [1, 2]
    model.text.decode(ids)
    with torch.inference_mode():
        assert model.module(torch.tensor([ids])).logits.isfinite().all()


def _chat(model: LoadedModel) -> str | None:
    """What is said when the template is refused."""
    try:
        model.text.render_chat([ChatMessage("user", "Hello")])
    except PromptError as error:
        return error.message
    return None


@pytest.mark.parametrize("name", CASE_LIST)
def test_a_hostile_folder_ends_in_one_sentence_or_loads_harmlessly(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    folder, outside = Path(shutil.copytree(base, tmp_path / "model")), prepare_outside(tmp_path / "outside")
    case.change(folder, outside)
    monkeypatch.chdir(folder)  # a json.py that lies there must not be found
    ended, said, no_chat = REFUSED, "", None
    with _watched(tmp_path, monkeypatch) as opened:
        cpu_s, started, held = _cpu_s(), time.monotonic(), psutil.Process().memory_info().rss
        try:
            model = load(ModelSpec(str(folder), "cpu", "fp32"), 1, Control())
            ended, said = LOADS, " ".join(model.info.notices)
            _use(model)
            no_chat = _chat(model) if "template" in name else None
            del model
        except ModelLoadError as error:
            said = error.message
        grown = psutil.Process().memory_info().rss - held
        cpu_s, wall_s = _cpu_s() - cpu_s, time.monotonic() - started
    if case.ends != EITHER:
        assert ended == (LOADS if case.ends == NO_CHAT else case.ends), said
    _check_sentence(said if ended == REFUSED else no_chat, case.ends)
    if case.says and case.ends != EITHER:
        assert re.search(case.says, said), said
    assert not (outside / "canary").exists()
    assert [path for path in opened if not _is_allowed(path, folder, tmp_path)] == []
    assert cpu_s < MOST_CPU_S
    busy = os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1) if hasattr(os, "getloadavg") else True
    assert wall_s < (MOST_BUSY_WALL_S if busy else MOST_WALL_S)
    assert grown < MOST_BYTES


def _check_sentence(sentence: str | None, ends: str) -> None:
    """One line, printable, not too long, with a full stop."""
    if ends == NO_CHAT:
        assert sentence is not None
    if sentence is not None:
        assert sentence.isprintable()
        assert sentence.endswith(".")
        assert len(sentence) < 400


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 160
    assert sum(case.short for case in CASES.values()) >= 40
