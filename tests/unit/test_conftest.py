"""The leak detectors are shown guilty tests: each must fail, and be told which line it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
SUSPECTS = Path(__file__).with_name("suspects.py")


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each suspect: its failure, or an empty text."""
    report = tmp_path_factory.mktemp("suspects") / "report.xml"
    command = [sys.executable, "-m", "pytest", str(SUSPECTS), "-p", "no:randomly", f"--junitxml={report}"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert report.exists(), finished.stdout + finished.stderr
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        problems = [*case.iter("error"), *case.iter("failure")]
        text = "\n".join(f"{problem.get('message')}\n{problem.text}" for problem in problems)
        found[case.get("name", "")] = found.get(case.get("name", ""), "") + text
    return found


def suspects() -> Iterator[str]:
    """Names of the guilty ones, with what the verdict must say."""
    for line in SUSPECTS.read_text().splitlines():
        if line.startswith("def test_guilty_"):
            yield line.removeprefix("def ").partition("(")[0]


EVIDENCE = {
    "test_guilty_of_a_thread": ("thread 'left-thread' still runs", "suspects.py"),
    "test_guilty_of_a_qthread": ("QThread 'left-qthread' still runs", "suspects.py"),
    "test_guilty_of_a_timer": ("QTimer 'left-timer' is still active", "suspects.py"),
    "test_guilty_of_a_single_shot": ("QTimer.singleShot is still pending", "suspects.py"),
    "test_guilty_of_a_widget": ("top-level widget QWidget 'left-widget'",),
    "test_guilty_of_a_child_process": ("child process", "still runs", "time.sleep"),
    "test_guilty_of_a_zombie": ("child process", "nobody waited for it"),
    "test_guilty_of_an_open_file": ("file descriptor", "left-file.txt"),
    "test_guilty_of_a_hook": ("forward_hooks of attn: ", "left_hook"),
    "test_guilty_of_a_pre_hook": ("forward_pre_hooks of the model: ", "left_hook"),
    "test_guilty_of_collecting_in_a_worker": ("collected in thread 'collector'", "suspects.py"),
    "test_guilty_of_a_python_warning": ("UserWarning", "an unexpected python warning"),
    "test_guilty_of_an_unclosed_file": ("ResourceWarning",),
    "test_guilty_of_a_qt_warning": ("an unexpected Qt warning",),
    "test_guilty_of_a_qt_warning_in_teardown": ("Qt warned while the test was torn down", "a late Qt warning"),
    "test_guilty_of_an_exception_in_a_slot": ("raised in a slot",),
}


def test_every_suspect_is_judged() -> None:
    assert set(suspects()) == set(EVIDENCE)


@pytest.mark.parametrize("name", sorted(EVIDENCE))
def test_the_guilty_test_fails_and_the_culprit_is_named(name: str, verdicts: dict[str, str]) -> None:
    for words in EVIDENCE[name]:
        assert words in verdicts[name], verdicts[name]


def test_innocent_tests_pass_though_guilty_ones_ran_before_them(verdicts: dict[str, str]) -> None:
    innocent = {name: text for name, text in verdicts.items() if name.startswith("test_innocent")}
    assert len(innocent) >= 6
    assert not any(innocent.values()), innocent


def test_no_test_sees_the_settings_of_the_user_or_of_another_test(verdicts: dict[str, str]) -> None:
    assert not verdicts["test_innocent_of_writing_settings"]
    assert not verdicts["test_innocent_of_reading_them"]
