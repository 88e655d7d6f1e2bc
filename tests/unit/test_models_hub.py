"""Models of the hub: named, found in the cache, downloaded whole or not at all, without ever showing a token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import psutil
import pytest

from core.contract import LoadCancelledError, ModelLoadError, ModelSpec
from core.domains.sandbox import Limits, SandboxError
from core.models import download
from core.models.download import cached_folder
from core.models.hub_cache import find_snapshot, list_cached_models, missing_files, wanted_files
from core.models.hub_names import HubModel
from core.models.loaded import LoadedModel
from core.models.loader import load
from core.models.preview import preview
from tests.fake_hub import COMMIT, FakeHub, serving
from tests.models import CHAT_TEMPLATE, build_llama, build_tokenizer

OTHER = "f" * 40
ORG = HubModel("org/tiny")


@dataclass
class Control:
    told: list[tuple[str, float | None]] = field(default_factory=list)
    stop: Callable[[], bool] = lambda: False

    def progress(self, stage: str, fraction: float | None) -> None:
        self.told.append((stage, fraction))

    def cancelled(self) -> bool:
        return self.stop()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with more than what is needed."""
    folder = build_llama(tmp_path_factory.mktemp("hub") / "tiny")
    build_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    (folder / "pytorch_model.bin").write_bytes(b"\x80" * 1000)
    (folder / "README.md").write_text("Hello")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"x" * 100_000)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one's own, for this process and its children."""
    place = tmp_path / "hf" / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return place


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    folder = Path(shutil.copytree(tiny, tmp_path / "repository"))
    with serving(FakeHub("org/tiny", folder, branches=("main", "v1.0"))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield hub


def _load(name: str = "org/tiny", control: Control | None = None) -> LoadedModel:
    return load(ModelSpec(name, "cpu", "fp32"), 1, control or Control())


def _snapshot(cache: Path, source: Path, repo: str = "org/tiny", commit: str = COMMIT, ref: str = "main") -> Path:
    """A whole model in the cache, as other programs leave it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for n, file in enumerate(path for path in source.iterdir() if path.is_file()):
        shutil.copy(file, folder / "blobs" / str(n))
        (snapshot / file.name).symlink_to(f"../../blobs/{n}")
    if ref:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return snapshot


def test_a_model_is_downloaded_and_its_commit_known(hub: FakeHub, cache: Path) -> None:
    control = Control()
    model = _load(control=control)
    assert (model.info.title, model.info.revision, model.info.family) == ("org/tiny", COMMIT, "llama")
    assert model.text.tokenizer.chat_template == CHAT_TEMPLATE
    downloading = [fraction for stage, fraction in control.told if stage == "Downloading"]
    assert downloading[0] == 0.0
    assert downloading[-1] == 1.0
    assert downloading == sorted(downloading)
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert set(hub.bodies) == wanted | {"chat_template.jinja"}  # no pickle, nothing of other formats
    assert not list(cache.rglob("*.incomplete"))


def test_what_is_in_the_cache_is_loaded_without_asking_anyone(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    _load()
    asked = len(hub.requests)
    for name in ("org/tiny", "org/tiny@main", f"org/tiny@{COMMIT}", f"{hub.url}/org/tiny"):
        assert _load(name).info.revision == COMMIT
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _load().info.revision == COMMIT
    assert len(hub.requests) == asked


def test_a_revision_is_the_one_asked_for(hub: FakeHub, cache: Path) -> None:
    assert _load("org/tiny@v1.0").info.title == "org/tiny@v1.0"
    assert find_snapshot(HubModel("org/tiny", "v1.0")) == cache / "models--org--tiny" / "snapshots" / COMMIT
    assert find_snapshot(ORG) is None
    with pytest.raises(ModelLoadError, match="“org/tiny” has no revision “v9”"):
        _load("org/tiny@v9")


def test_shards_are_downloaded_with_their_index(hub: FakeHub) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "model-00001-of-00001.safetensors")
    (hub.folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}})
    )
    assert _load().info.parameters == 68_976
    assert {"model.safetensors.index.json", "model-00001-of-00001.safetensors"} <= set(hub.bodies)


@pytest.mark.parametrize("killed", ["cancelled", "parent killed"])
def test_an_unfinished_download_is_never_taken_for_a_model(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    hub.hold.clear()  # the server sends the beginning of a large file, then nothing
    if killed == "cancelled":
        cancelled_at: list[float] = []

        def stop() -> bool:
            if hub.holding.is_set() and not cancelled_at:
                cancelled_at.append(time.monotonic())
            return bool(cancelled_at)

        with pytest.raises(LoadCancelledError, match="download was cancelled"):
            _load(control=Control(stop=stop))
        assert time.monotonic() - cancelled_at[0] < 3.0  # 0.1 s on an idle machine; the server is still silent
    else:
        _kill_in_the_middle(hub)
    assert [p for p in psutil.Process().children(recursive=True) if "fetch_hub" in " ".join(p.cmdline())] == []
    assert list(cache.rglob("*.incomplete")) == []
    snapshot = find_snapshot(ORG)
    assert snapshot is None or missing_files(snapshot)
    assert cached_folder(ORG) is None
    assert [model.available for model in list_cached_models()] in ([], [False])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelLoadError, match=r"only partly downloaded \(.* is missing\)|nor in the cache"):
        _load()
    hub.hold.set()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert _load().info.revision == COMMIT


def _kill_in_the_middle(hub: FakeHub) -> None:
    """Another program that downloads is killed: nobody tells its child, the pipe just ends."""
    program = (
        "from core.models.download import ensure_downloaded\nfrom core.models.hub_names import HubModel\n"
        "class C:\n  def progress(self, *_): pass\n  def cancelled(self): return False\n"
        "ensure_downloaded(HubModel('org/tiny'), C())\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", program], cwd=root) as other:
        assert hub.holding.wait(60)
        children = psutil.Process(other.pid).children()
        other.kill()
    gone, alive = psutil.wait_procs(children, 20)
    assert (len(gone), alive) == (1, [])


def test_a_file_that_is_shorter_than_the_listing_says_is_missing(hub: FakeHub, cache: Path) -> None:
    _load()
    snapshot = find_snapshot(ORG)
    assert snapshot is not None
    assert missing_files(snapshot) == ()
    os.truncate((snapshot / "tokenizer.json").resolve(), 100)
    assert missing_files(snapshot) == ("tokenizer.json",)
    (snapshot / "model.safetensors").unlink()
    assert missing_files(snapshot) == ("tokenizer.json", "model.safetensors")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ((404, "RepoNotFound"), "There is no model “org/tiny” on the hub, or it is private; then set HF_TOKEN"),
        ((401, "GatedRepo"), "asks for an agreement; accept it at https://huggingface.co/org/tiny, then set HF_TOKEN"),
        ((403, "GatedRepo"), "asks for an agreement"),
        ((400, ""), "The hub refused “org/tiny” with status 400; try again later"),
    ],
)
def test_every_no_of_the_hub_is_one_sentence(hub: FakeHub, status: tuple[int, str], says: str) -> None:
    hub.status = status
    with pytest.raises(ModelLoadError, match=says) as raised:
        _load()
    assert raised.value.message.isprintable()
    assert raised.value.message.endswith(".")


def test_a_hub_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ModelLoadError, match="“org/tiny” is not in the cache, and the hub cannot be reached"):
        _load()


def test_a_token_is_used_and_never_shown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.token = "hf_aVerySecretToken1234567890"
    with pytest.raises(ModelLoadError, match="accept it at"):
        _load()
    monkeypatch.setenv("HF_TOKEN", "hf_anotherSecret")
    with pytest.raises(ModelLoadError) as raised:
        _load()
    shown = raised.value.message + raised.value.detail + repr(raised.value.__cause__) + repr(raised.value.__context__)
    assert "hf_" not in shown
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert _load().info.revision == COMMIT


REFUSED: dict[str, tuple[Callable[[FakeHub], object], str]] = {
    "no config": (lambda hub: (hub.folder / "config.json").unlink(), "no transformers model: it has no config.json"),
    "pickles only": (lambda hub: (hub.folder / "model.safetensors").unlink(), "pytorch_model.bin, a pickle"),
    "code": (lambda hub: _edit(hub, auto_map={"AutoModel": "x.Y"}), "“org/tiny” wants to run its own code"),
    "encoder-decoder": (lambda hub: _edit(hub, is_encoder_decoder=True), "“org/tiny” is an encoder-decoder model"),
    "a huge config": (lambda hub: hub.sizes.update({"config.json": 1 << 40}), "config.json of “org/tiny” has 1.1 TB"),
    "a huge model": (lambda hub: hub.sizes.update({"model.safetensors": 1 << 60}), "needs 1,.* TB of disk for its"),
}


def _edit(hub: FakeHub, **changes: object) -> None:
    path = hub.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_refused_is_not_downloaded(hub: FakeHub, case: str) -> None:
    change, says = REFUSED[case]
    change(hub)
    with pytest.raises(ModelLoadError, match=says):
        _load()
    assert "model.safetensors" not in hub.bodies
    assert "pytorch_model.bin" not in hub.bodies


def test_a_preview_downloads_the_small_files_only(hub: FakeHub) -> None:
    seen = preview(ModelSpec("org/tiny", "cpu", "bf16"), Control())
    size = (hub.folder / "model.safetensors").stat().st_size
    assert (seen.parameters, seen.revision, seen.kind) == (68_976, COMMIT, "hub")
    assert size <= seen.download_bytes < size + 100_000
    assert "model.safetensors" not in hub.bodies
    assert [model.available for model in list_cached_models()] == [False]
    _load()
    again = preview(ModelSpec("org/tiny", "cpu", "bf16"), Control())
    assert (again.download_bytes, again.estimates) == (0, seen.estimates)


def test_what_is_cached_is_listed_with_what_is_wrong(tiny: Path, cache: Path) -> None:
    _snapshot(cache, tiny)
    _snapshot(cache, tiny, "org/tiny", OTHER, "")
    _snapshot(cache, tiny, "gpt2", COMMIT, "refs/pr/1")
    broken = _snapshot(cache, tiny, "org/broken")
    (broken / "model.safetensors").resolve().unlink()
    foreign = _snapshot(cache, tiny, "org/t5")
    (foreign / "config.json").unlink()
    (foreign / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    pickled = _snapshot(cache, tiny, "org/pickled")
    (pickled / "model.safetensors").unlink()
    listed = {model.name: model for model in list_cached_models()}
    assert set(listed) == {"org/tiny", f"org/tiny@{OTHER}", "gpt2@refs/pr/1", "org/broken", "org/t5", "org/pickled"}
    assert {name for name, model in listed.items() if model.available} == {
        "org/tiny", f"org/tiny@{OTHER}", "gpt2@refs/pr/1"
    }  # fmt: skip
    assert listed["org/broken"].reason == "it is only partly downloaded (model.safetensors is missing)."
    assert listed["org/pickled"].reason == "it has no safetensors weights here."
    assert "encoder-decoder" in listed["org/t5"].reason
    one = listed["org/tiny"]
    assert (one.repo, one.commit, one.references) == ("org/tiny", COMMIT, ("main",))
    assert one.size_bytes > 275_000
    assert abs(one.last_modified - time.time()) < 600
    for name in ("org/tiny", f"org/tiny@{OTHER}", "gpt2@refs/pr/1"):
        assert _load(name).info.family == "llama"


def test_weights_that_are_cut_short_or_no_file_are_not_available(tiny: Path, cache: Path) -> None:
    """As a program leaves them that notes no listing of the repository."""
    cut = _snapshot(cache, tiny, "org/cut") / "model.safetensors"
    os.truncate(cut.resolve(), 2000)
    pipe = _snapshot(cache, tiny, "org/pipe") / "model.safetensors"
    pipe.unlink()
    os.mkfifo(pipe)
    listed = {model.name: model for model in list_cached_models()}
    assert not any(model.available for model in listed.values())
    assert "model.safetensors in “org/cut” is incomplete" in listed["org/cut"].reason
    assert "model.safetensors in “org/pipe” is not a regular file" in listed["org/pipe"].reason


def test_a_damaged_cache_is_listed_as_far_as_it_can_be_read(tiny: Path, cache: Path) -> None:
    assert list_cached_models() == ()
    good = _snapshot(cache, tiny)
    repository = good.parents[1]
    (repository / "refs" / "gone").write_text("e" * 40)  # a download that was killed
    (repository / "refs" / "garbage").write_bytes(b"\xff" * 1000)
    (repository / "trees").mkdir()
    (repository / "trees" / f"{COMMIT}.json").write_text("[[[")
    (cache / "models--file").write_text("not a folder")
    (cache / "models--org--empty").mkdir()
    (cache / "models--org--loop").mkdir()
    (cache / "models--org--loop" / "snapshots").symlink_to("snapshots")
    (cache / "models--org--refs" / "snapshots" / COMMIT).mkdir(parents=True)
    (cache / "models--org--refs" / "refs").write_text("a file")
    (cache / "datasets--org--data" / "snapshots" / COMMIT).mkdir(parents=True)
    (cache / "version.txt").write_text("1")
    os.mkfifo(cache / "models--org--refs" / "snapshots" / COMMIT / "config.json")
    listed = {model.name: model.available for model in list_cached_models()}
    assert listed == {"org/tiny": True, f"org/refs@{COMMIT}": False}
    assert _load().info.revision == COMMIT


def test_a_cache_that_is_no_folder_is_empty(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("")
    assert list_cached_models() == ()
    with pytest.raises(ModelLoadError, match="neither a folder here nor in the cache"):
        _load()


def test_listing_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, core; core.list_cached_models(); core.list_models();"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'safetensors', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_short_name_is_a_model_of_the_hub_only_if_it_is_cached(tiny: Path, cache: Path) -> None:
    with pytest.raises(ModelLoadError, match="Unknown model “gpt3”"):
        _load("gpt3")
    _snapshot(cache, tiny, "gpt3")
    assert _load("gpt3").info.title == "gpt3"


def test_files_that_are_wanted() -> None:
    small = {"config.json": 1, "tokenizer.json": 1, "merges.txt": 1, "vocab.json": 1, "README.md": 1, "evil.py": 1}
    assert wanted_files(small | {"model.safetensors": 9, "model-00001-of-00002.safetensors": 9}) == (
        "config.json", "tokenizer.json", "model.safetensors"
    )  # fmt: skip
    shards = {"model.safetensors.index.json": 1, "model-00001-of-00001.safetensors": 9, "model.fp16.safetensors": 9}
    assert wanted_files(small | shards)[2:] == ("model.safetensors.index.json", "model-00001-of-00001.safetensors")
    assert wanted_files({"vocab.json": 1, "merges.txt": 1}) == ("vocab.json", "merges.txt")


def test_two_downloads_at_once_are_safe(hub: FakeHub) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(subprocess_load())) for _ in range(2)]

    def subprocess_load() -> str:
        program = (
            "from core.models.download import ensure_downloaded\nfrom core.models.hub_names import HubModel\n"
            "class C:\n  def progress(self, *_): pass\n  def cancelled(self): return False\n"
            "print(ensure_downloaded(HubModel('org/tiny'), C()))\n"
        )
        root = str(Path(__file__).parents[2])
        done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert Path(found[0]).name == COMMIT


def _without_tokenizer(cache: Path, tiny: Path, tmp_path: Path) -> Path:
    """As AutoModel alone leaves a model in the cache."""
    only = Path(shutil.copytree(tiny, tmp_path / "only"))
    for file in only.glob("*token*"):
        file.unlink()
    return _snapshot(cache, only)


def test_a_tokenizer_that_nobody_has_downloaded_yet_is_downloaded(
    hub: FakeHub, cache: Path, tiny: Path, tmp_path: Path
) -> None:
    snapshot = _without_tokenizer(cache, tiny, tmp_path)
    loaded = _load()
    assert loaded.text.tokenizer is not None
    assert loaded.info.revision == snapshot.name
    assert not [name for name in hub.bodies if name.endswith(".safetensors")], "the weights were there"
    hub.requests.clear()
    assert _load().text.tokenizer is not None
    assert not hub.requests, "now it is whole"


def test_a_repository_without_tokenizer_is_asked_about_once(
    hub: FakeHub, cache: Path, tiny: Path, tmp_path: Path
) -> None:
    _without_tokenizer(cache, tiny, tmp_path)
    for file in hub.folder.glob("*token*"):
        file.unlink()
    assert _load().text.tokenizer is None
    hub.requests.clear()
    assert _load().text.tokenizer is None
    assert not hub.requests


@pytest.mark.parametrize("offline", ["1", "0"])
def test_without_a_hub_such_a_model_takes_ids(
    cache: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    _without_tokenizer(cache, tiny, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert _load().text.tokenizer is None


def test_a_silent_hub_holds_up_such_a_model_once_and_not_for_long(
    cache: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, bool]] = []

    class Silent(download.Sandbox):
        def ask(self, request: dict[str, Any], limits: Limits, **more: Any) -> dict[str, Any]:
            asked.append((request["weights"], limits.wall_s <= 30))
            raise SandboxError("time", "It took too long.")

    _without_tokenizer(cache, tiny, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(download, "Sandbox", Silent)
    assert _load().text.tokenizer is None
    assert asked == [(False, True)]
    assert _load().text.tokenizer is None
    assert len(asked) == 1
    monkeypatch.setattr(download, "_ASKED_AGAIN_S", 0.0)
    assert _load().text.tokenizer is None
    assert len(asked) == 2
