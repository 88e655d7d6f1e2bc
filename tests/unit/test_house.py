"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = sorted(p for folder in ("app", "core") for p in (ROOT / folder).rglob("*.py"))
CORE = [p for p in PRODUCT if p.is_relative_to(ROOT / "core")]
APP = [p for p in PRODUCT if p.is_relative_to(ROOT / "app")]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES, MEDIAN_LINES = 500, 150
QT = {"PySide6", "shiboken6", "pyqtgraph", "superqt", "qtawesome"}
ENGINE = {"torch", "transformers", "safetensors", "tokenizers", "accelerate", "gguf"}


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(path: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, with dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def importing(paths: list[Path], packages: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in imported(path)
        if name.partition(".")[0] in packages
    ]


def containing(paths: list[Path], pattern: str) -> list[str]:
    found = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if found.search(line)
    ]


def test_dialogs_are_asked_for_in_one_place_that_makes_none_of_them_modal() -> None:
    others = [path for path in APP if path.name not in ("asking.py", "__main__.py", "offscreen.py")]
    assert not containing(others, r"QFileDialog|QInputDialog|QMessageBox|\.exec\(|dialog\.open\(|setModal\(True")


def test_no_file_is_longer_than_the_cap() -> None:
    too_long = {str(p.relative_to(ROOT)): lines(p) for p in [*PRODUCT, *TESTS] if lines(p) > MOST_LINES}
    assert not too_long


def test_the_median_file_is_short() -> None:
    assert median(lines(p) for p in PRODUCT if lines(p)) <= MEDIAN_LINES


def test_core_knows_no_qt_and_no_app() -> None:
    assert importing(CORE, QT | {"app"}) == []


def test_app_leaves_torch_to_core() -> None:
    assert importing(APP, ENGINE) == []


def test_the_contract_is_plain_data() -> None:
    contract = [p for p in CORE if p.parent.name == "contract"]
    assert contract
    assert importing(contract, ENGINE | QT) == []


def test_garbage_collection_is_left_to_the_app() -> None:
    assert importing(CORE, {"gc"}) == []


def test_nothing_is_unpickled() -> None:
    assert importing(PRODUCT, {"pickle", "dill", "joblib", "cloudpickle", "marshal"}) == []
    assert containing(PRODUCT, r"torch\.load\(|(?<![.\w])eval\(|\bexec\(\s*[\"'f]") == []


def test_code_of_a_model_folder_is_never_trusted() -> None:
    assert containing(PRODUCT, r"trust_remote_code\s*=\s*(?!False)|use_safetensors\s*=\s*(?!True)") == []


def test_every_loading_call_says_so() -> None:
    for path in CORE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and node.func.attr == "from_pretrained":
                given = ast.unparse(node) + "".join(containing([path], "trust_remote_code.*False"))
                assert "trust_remote_code" in given, f"{path}:{node.lineno}"
                assert "local_files_only" in given, f"{path}:{node.lineno}"


def test_text_of_a_model_is_never_rendered_as_markup() -> None:
    assert containing(APP, r"\.(setHtml|setMarkdown|insertHtml|appendHtml)\(") == []


def test_there_are_no_stubs_and_no_notes_to_oneself() -> None:
    assert containing(PRODUCT, r"\b(TODO|FIXME|XXX|HACK)\b") == []
    assert not [p for p in PRODUCT if p.stem in ("utils", "helpers", "misc", "common")]


def test_nothing_points_outside_the_clone() -> None:
    beyond = r"/work/|/root/|\.\./shared"
    others = [p for p in (ROOT / "README.md", ROOT / "core" / "README.md", ROOT / "Makefile") if p.exists()]
    tests = [p for p in TESTS if p != Path(__file__)]
    assert containing([*PRODUCT, *tests, *others], beyond) == []


@pytest.mark.parametrize(
    "package", ["core", "core.contract", "core.cli", "core.api", "core.lab", "core.models.sources"]
)
def test_importing_core_imports_neither_torch_nor_qt(package: str) -> None:
    names = sorted(ENGINE | QT)
    use = f"import sys, {package}, core; core.contract.RunSpec, core.list_models()"
    code = f"{use}; sys.exit(str([n for n in {names} if n in sys.modules] or ''))"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.stderr.strip() == ""


def test_every_public_name_of_core_is_there_and_documented() -> None:
    import core

    assert set(core.__all__) <= set(dir(core))
    for name in core.__all__:
        assert getattr(core, name).__doc__, name
        assert f"`{name}" in (core.__doc__ or ""), name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = core.no_such_name
