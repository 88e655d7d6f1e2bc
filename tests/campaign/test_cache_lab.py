"""Every experiment of the Cache lab, clicked in the window on both embedded language models, with what it found."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

import core
from app.state import intents as i
from core.contract import EXPERIMENT_TITLES, EXPERIMENTS, Experiment, LabResult
from tests.campaign.figures import note
from tests.ui.harness import Driven
from tests.ui.real import live, opened

TEXT = "Once upon a time there was a little dog who lived in a big house."
MOST_POSITIONS = "1024"  # of growth and chunks on the large model, so that a machine without a GPU gets there

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(qtbot: QtBot, one: Driven, name: str) -> LabResult:
    """One experiment, as a user asks for it."""
    lab = one.panel("cachelab")
    entry = next(a for a in lab.choice.menu().actions() if a.text() == name)
    entry.trigger()
    one.frames(2)
    if lab.sizes.fields["positions"].isVisible() and one.state.model is not None and one.state.model.parameters > 1e8:
        lab.sizes.fields["positions"].selectAll()
        qtbot.keyClicks(lab.sizes.fields["positions"], MOST_POSITIONS)
        qtbot.keyClick(lab.sizes.fields["positions"], Qt.Key.Key_Return)
        one.frames(2)
    qtbot.mouseClick(lab.start, Qt.MouseButton.LeftButton)
    one.frames(1)
    for _ in range(10):  # ten times as patient as with short things
        if one.state.cache_lab.working is None:
            break
        try:
            live(one, lambda: one.state.cache_lab.working is None)
        except AssertionError:
            continue
    result = one.state.cache_lab.result
    assert one.state.cache_lab.error is None, one.state.cache_lab.error
    assert result is not None
    return result


@pytest.mark.parametrize("dtype", ["auto", "fp32"])
@pytest.mark.parametrize("model", ["tiny-gpt2", "smollm2"])
def test_all_five_find_what_should_be_so(qtbot: QtBot, qapp: object, tmp_path: Path, model: str, dtype: str) -> None:
    if not any(known.name == model and known.available for known in core.list_models()):
        pytest.skip(f"{model} is not installed")
    with opened(tmp_path / "settings.json", model, size=(1440, 900)) as one:
        if dtype != "fp32":
            one.do(i.ChooseModel(model, dtype=dtype))
            live(one, lambda: one.state.loading is None and one.state.model is not None)
            assert one.state.model is not None
        one.do(i.SetLayout("cache"))
        one.do(i.EditText(TEXT))
        one.frames(2)
        for name in EXPERIMENTS:
            result = run(qtbot, one, EXPERIMENT_TITLES[name])
            assert (result.name, result.complete) == (name, True)
            assert result.tables
            assert all(series.x for series in result.series)
            print(f"\n{result.model}, {result.dtype}, {EXPERIMENT_TITLES[name]}, {result.seconds:.3g} s")
            for finding in result.findings:
                print({True: "  ✓ ", False: "  ✗ ", None: "    "}[finding.holds] + finding.text)
            assert not [finding.text for finding in result.findings if finding.holds is False]
            note(f"cache lab, {model}, {dtype}", EXPERIMENT_TITLES[name], result.seconds, "s")
        assert one.state.cache_lab.asked == Experiment("chunks", one.state.cache_lab.asked.prompt, positions=(
            int(MOST_POSITIONS) if model == "smollm2" else None))  # fmt: skip
