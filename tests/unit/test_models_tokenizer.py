"""Tokenizers that nobody vouches for are tried in a child first, once; what they may read is decided here."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import transformers

from core.contract import LoadCancelledError, ModelLoadError, ModelSpec
from core.models import tokenizer_files
from core.models.loader import load
from core.models.preflight import check_folder
from core.models.tokenizer_files import tried_tokenizer
from core.models.try_tokenizer import _growth
from tests.models import CHAT_TEMPLATE, build_gpt2, build_sentencepiece_tokenizer, build_tokenizer


@dataclass
class Control:
    told: list[str] = field(default_factory=list)
    stop: bool = False

    def progress(self, stage: str, fraction: float | None) -> None:
        self.told.append(stage)

    def cancelled(self) -> bool:
        return self.stop


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENGLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_gpt2(tmp_path_factory.mktemp("tokenizer") / "good")
    return build_tokenizer(folder, chat_template=CHAT_TEMPLATE)


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def _tried(folder: Path, control: Control | None = None) -> int:
    with tried_tokenizer(check_folder(folder), control or Control()) as tried:
        return tried.largest_id


def _edit(folder: Path, file: str, **changes: object) -> None:
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def test_it_is_tried_once_for_the_same_files_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    first, second, third = Control(), Control(), Control()
    assert _tried(folder, first) == 299
    assert _tried(folder, second) == 299
    assert _tried(Path(shutil.copytree(folder, tmp_path / "copy")), third) == 299
    assert (first.told, second.told, third.told) == (["Checking the tokenizer"], [], [])


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"])
def test_whatever_changes_what_is_loaded_is_tried_again(folder: Path, file: str) -> None:
    _tried(folder)
    if file == "config.json":
        _edit(folder, file, tokenizer_class="PreTrainedTokenizerFast")
    elif file == "chat_template.jinja":
        (folder / file).write_text("{{ messages }}")
    else:
        (folder / file).write_text((folder / file).read_text().replace("{", "{ ", 1))
        _edit(folder, "tokenizer_config.json", model_max_length=77)
    control = Control()
    _tried(folder, control)
    assert control.told == ["Checking the tokenizer"]


def test_a_change_elsewhere_is_not(folder: Path) -> None:
    _tried(folder)
    _edit(folder, "config.json", layer_norm_epsilon=1e-6)
    (folder / "README.md").write_text("changed")
    control = Control()
    _tried(folder, control)
    assert control.told == []


@pytest.mark.parametrize("record", ["", "{}", "null", '{"largest_id": "x"}', "\x00"])
def test_a_damaged_record_costs_a_trial(folder: Path, own_cache: Path, record: str) -> None:
    _tried(folder)
    (path,) = (own_cache / "tokenizers").iterdir()
    path.write_text(record)
    control = Control()
    assert _tried(folder, control) == 299
    assert control.told == ["Checking the tokenizer"]


def test_a_cache_that_cannot_be_written_costs_a_trial_each_time(folder: Path, own_cache: Path) -> None:
    own_cache.write_text("a file")
    assert [_tried(folder), _tried(folder)] == [299, 299]


def test_a_trial_is_given_up_when_the_load_is(folder: Path, own_cache: Path) -> None:
    with pytest.raises(LoadCancelledError):
        _tried(folder, Control(stop=True))
    assert not (own_cache / "tokenizers").exists()


def test_the_copy_is_cleaned_and_gone_afterwards(folder: Path) -> None:
    _edit(folder, "tokenizer_config.json", tokenizer_file="/etc/passwd", fast_tokenizer_files=["x"], _private=1)
    (folder / "secret.txt").write_text("secret")
    with tried_tokenizer(check_folder(folder), Control()) as tried:
        names = {path.name for path in tried.folder.iterdir()}
        written = json.loads((tried.folder / "tokenizer_config.json").read_text())
        config = json.loads((tried.folder / "config.json").read_text())
    assert names == {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert not {"tokenizer_file", "fast_tokenizer_files", "_private"} & set(written)
    assert "bos_token" in written
    assert config == {"model_type": "gpt2"}
    assert not tried.folder.exists()


def test_what_is_loaded_is_what_transformers_would_load(folder: Path) -> None:
    model = load(ModelSpec(str(folder), "cpu", "fp32"), 1, Control())
    reference = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text = "Once upon a time, é 👍 <|endoftext|> 12"
    assert model.text.encode(text) == reference.encode(text)
    assert model.text.tokenizer.special_tokens_map == reference.special_tokens_map
    assert model.text.tokenizer.chat_template == reference.chat_template == CHAT_TEMPLATE
    assert model.text.tokenizer.name_or_path == str(folder)
    assert model.info.has_chat_template


def test_the_embedded_model_is_not_tried(own_cache: Path) -> None:
    control = Control()
    load(ModelSpec("tiny-gpt2", "cpu", "fp32"), 1, control)
    assert "Checking the tokenizer" not in control.told
    assert not own_cache.exists()


def test_other_kinds_of_tokenizers_pass(tmp_path: Path) -> None:
    folder = build_gpt2(tmp_path / "model", tokenizer=False, vocab_size=300)
    build_sentencepiece_tokenizer(folder)
    assert _tried(folder) < 300


def test_a_trial_that_dies_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_files, "trial_limits", lambda _size: tokenizer_files.Limits(30, memory_bytes=1))
    with pytest.raises(
        ModelLoadError, match="tokenizer of “model” cannot be loaded: it takes too much memory"
    ) as raised:
        _tried(folder)
    assert raised.value.message.isprintable()


def test_limits_leave_room_for_honest_giants() -> None:
    """Gemma's file of 33 MB loads in 3 s on a slow machine and takes 0.5 GB."""
    limits = tokenizer_files.trial_limits(33 << 20)
    assert (limits.cpu_s or 0) > 3 * 3
    assert (tokenizer_files.use_limits(33 << 20).cpu_s or 0) > 3 * 0.5
    assert (limits.memory_bytes or 0) > 1 << 30


DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}


@pytest.mark.parametrize(
    ("step", "growth"),
    [
        (None, 1),
        ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, 1),
        ({"type": "Replace", "pattern": {"String": "ab"}, "content": "abc"}, 2),
        ({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "abc"}, 4),
        ({"type": "Replace", "pattern": {"String": ""}, "content": "abc"}, 4),
        (
            {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}] * 6},
            64,
        ),
        ({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "▁"}]}, 1),
    ],
)
def test_how_much_longer_a_text_may_become(step: object, growth: int) -> None:
    assert _growth(step) == growth
