"""The model chooser: every source, what a model would take, and nothing loads unasked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtGui import QAction, Qt, QTextDocumentFragment

from app.chooser import NAME_ROLE
from app.state import intents as i
from app.state.model_facts import NEW_SIZES, facts, new_name
from app.state.state import ModelChoice
from core.contract import DtypeEstimate, ErrorReport, LoadModel, ModelPreview, ModelPreviewed, ModelSpec, PreviewModel
from tests.ui.fake_lab import FakeLab
from tests.ui.harness import CHOICES, Driven, driven

pytestmark = pytest.mark.usefixtures("qapp")

CACHED = ModelChoice("org/model", "org/model · abc1234", "Commit abc", group="cached")
BROKEN = ModelChoice("org/half", "org/half", "", False, "It is only partly downloaded.", "cached")


def preview(free: int = 8_000_000_000, **changes: object) -> ModelPreview:
    values: dict[str, object] = {
        "spec": ModelSpec("org/model"), "title": "org/model", "kind": "hub", "family": "llama", "revision": "abc" * 14,
        "parameters": 1_240_000_000, "layers": 16, "heads": 32, "kv_heads": 8, "head_dim": 64, "hidden_size": 2048,
        "vocab_size": 128_256, "max_positions": 8192, "device": "cpu", "dtype": "bf16", "available_bytes": free,
        "estimates": (DtypeEstimate("bf16", 2_480_000_000, 32_768), DtypeEstimate("fp32", 4_960_000_000, 65_536)),
        "download_bytes": 2_480_000_000,
    }  # fmt: skip
    return ModelPreview(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with driven(tmp_path / "settings.json", catalogue=lambda: (*CHOICES, CACHED, BROKEN)) as window:
        window.window.actions_["model.choose"].trigger()
        window.frames(2)
        yield window


def pick(one: Driven, name: str) -> None:
    chooser = one.window.chooser
    rows = range(chooser.model.rowCount())
    row = next(r for r in rows if chooser.model.index(r, 0).data(NAME_ROLE) == name)
    chooser.list.setCurrentIndex(chooser.model.index(row, 0))
    one.frames(2)


def answer(one: Driven, shown: ModelPreview | None, error: ErrorReport | None = None) -> None:
    asked = one.lab.sent(PreviewModel)[-1]
    one.lab.events.append(ModelPreviewed(asked.generation, shown, error))
    one.frames(2)


def test_a_picked_model_is_looked_at_first_and_loaded_only_on_request(one: Driven) -> None:
    chooser = one.window.chooser
    loads = len(one.lab.sent(LoadModel))
    pick(one, "org/model")
    assert not chooser.load.isEnabled()
    answer(one, preview())
    assert "parameters 1.24 B" in chooser.facts.accessibleDescription()
    assert "to download 2.48 GB" in chooser.facts.accessibleDescription()
    assert chooser.facts.verdict.text().startswith("Fits on cpu · bf16")
    assert len(one.lab.sent(LoadModel)) == loads
    chooser.load.click()
    assert one.lab.sent(LoadModel)[-1].spec.name == "org/model"
    assert not chooser.isVisible()
    one.frames(3)
    assert one.state.recent_models[0] == "org/model"


def test_a_model_that_cannot_be_looked_at_says_why_and_cannot_be_loaded(one: Driven) -> None:
    pick(one, "org/model")
    answer(one, None, ErrorReport("model_load", "The hub does not answer; connect to the network."))
    assert one.window.chooser.facts.verdict.text() == "The hub does not answer; connect to the network."
    assert not one.window.chooser.load.isEnabled()


def test_late_answers_of_another_model_are_dropped(one: Driven) -> None:
    pick(one, "org/model")
    first = one.lab.sent(PreviewModel)[-1]
    pick(one, "tiny-gpt2")
    one.lab.events.append(ModelPreviewed(first.generation, preview()))
    one.frames(2)
    assert not one.window.chooser.load.isEnabled()


def test_a_typed_hub_id_is_looked_at_on_enter(one: Driven, qtbot: object) -> None:
    chooser = one.window.chooser
    chooser.name.setFocus()
    qtbot.keyClicks(chooser.name, "org/name@v1")  # type: ignore[attr-defined]
    qtbot.keyClick(chooser.name, Qt.Key.Key_Return)  # type: ignore[attr-defined]
    assert one.lab.sent(PreviewModel)[-1].spec.name == "org/name@v1"


def test_a_damaged_download_is_listed_with_its_reason_and_cannot_be_picked(one: Driven) -> None:
    chooser = one.window.chooser
    found = [chooser.model.item(r) for r in range(chooser.model.rowCount())]
    (broken,) = [item for item in found if item.data(NAME_ROLE) == "org/half"]
    assert not broken.isEnabled()
    assert broken.toolTip() == "It is only partly downloaded."


def test_a_new_model_has_sizes_and_a_seed(one: Driven, qtbot: object) -> None:
    chooser = one.window.chooser
    pick(one, "new:llama")
    assert chooser.new.isVisible()
    chooser.sizes.buttons()[1].click()
    chooser.seed.selectAll()
    qtbot.keyClicks(chooser.seed, "7")  # type: ignore[attr-defined]
    chooser.seed.editingFinished.emit()
    assert one.lab.sent(PreviewModel)[-1].spec.name == new_name("llama", 1, 7)
    assert one.lab.sent(PreviewModel)[-1].spec.name.endswith("seed=7")


@pytest.mark.parametrize("family", NEW_SIZES)
def test_every_new_size_is_a_name_that_core_takes(family: str) -> None:
    from core.models.new_model import parse_new

    for size in range(3):
        assert parse_new(new_name(family, size, 3)).seed == 3


def test_the_verdict_says_what_fits() -> None:
    assert facts(preview()).fits
    tight = facts(preview(free=2_500_000_000))
    assert "610 of 8,192 positions do" in tight.verdict
    assert tight.fits
    small = facts(preview(free=1_000_000_000))
    assert not small.fits
    assert "exceed the 1.00 GB free by 1.48 GB" in small.verdict


def test_closing_the_chooser_forgets_the_question(one: Driven) -> None:
    pick(one, "org/model")
    one.window.chooser.close()
    one.frames()
    assert one.state.preview is None


def test_the_chooser_does_not_stop_a_run(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json", FakeLab()) as one:
        one.do(i.Run())
        one.window.chooser.open_on()
        one.frames(5)
        assert not one.window.chooser.isModal()
        assert one.state.run.count >= 4


def test_a_folder_whose_name_looks_like_markup_is_named_as_it_is(one: Driven) -> None:
    name = "/models/<b>bold</b> & <img src=x>"
    one.do(i.OfferModels((*CHOICES, ModelChoice("odd", "odd", f"Local folder {name}"))))
    one.frames(2)
    model = one.window.chooser.model
    tips = [model.item(row).toolTip() for row in range(model.rowCount())]
    tips += [action.toolTip() for action in one.window.toolbar.findChildren(QAction) if action.text() == "odd"]
    shown = [QTextDocumentFragment.fromHtml(t).toPlainText() if Qt.mightBeRichText(t) else t for t in tips]
    assert shown.count(f"Local folder {name}") >= 1
    assert not [tip for tip in shown if "bold" in tip and name not in tip]
