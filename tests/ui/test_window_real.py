"""The window on the real engine with tiny-gpt2: what a user does first, from loading to three live views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt

from app.shot import main as shot
from app.state import intents as i
from app.state import select
from tests.ui.harness import Driven
from tests.ui.real import answered, finished, live, opened

pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.ini") as driven_window:
        yield driven_window


def test_ctrl_enter_streams_text_with_probabilities_attention_and_cache(one: Driven, qtbot: object) -> None:
    one.do(i.SetParameter("max_new_tokens", 40))
    editor = one.panel("prompt").text
    editor.setFocus()
    qtbot.keyClick(editor, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)  # type: ignore[attr-defined]
    live(one, lambda: one.state.run is not None and one.state.run.count > 5)
    live(one, lambda: finished(one))
    live(one, lambda: answered(one))
    run = one.state.run
    assert run is not None
    assert run.finish is not None
    assert run.finish.error is None
    assert run.text() == run.finish.texts[0]
    assert np.all(np.diff(run.column("cache_length")) == 1)
    assert np.all(run.column("final_entropy_bits") <= run.column("entropy_bits") + 1e-3)
    assert {a.error for a in one.state.answers.values()} == {None}
    assert one.window.statusbar.state.text().startswith("Finished")
    assert "/ 512" in one.window.statusbar.context.value.text()


def test_lens_norms_attribution_and_walk_answer_for_a_clicked_token(one: Driven, qtbot: object) -> None:
    one.do(i.SetParameter("max_new_tokens", 12))
    one.do(i.SetLayout("attention"))
    one.do(i.Run())
    live(one, lambda: finished(one))
    one.do(i.SelectStep(5))
    for name in ("lens", "walk"):
        one.window.workspace.cards[name].toggleViewAction().trigger()
        live(one, lambda: answered(one))
    run, tree = one.state.run, one.panel("walk").tree
    assert run is not None
    stage = "transformer.h.0.attn#1:cache"
    live(one, lambda: stage in tree.texts())
    assert f"{run.prompt_tokens + 4} → {run.prompt_tokens + 5}" in " ".join(tree.texts()[stage])
    one.window.workspace.cards["lens"].raise_()
    panel = one.panel("lens")
    column = panel.columns.by_position[run.prompt_tokens + 4]
    assert column.token_ids[-1, 0] == run.step(5).top.token_ids[0]
    for page in (1, 2):
        qtbot.mouseClick(panel.tabs, Qt.MouseButton.LeftButton, pos=panel.tabs.tabRect(page).center())  # type: ignore[attr-defined]
        live(one, lambda: answered(one))
    parts = panel.parts_answer
    total = parts.embedding + parts.bias + parts.rounding + float((parts.attention + parts.mlp + parts.between).sum())
    assert abs(total - parts.logit) < 1e-3
    assert parts.query.token_id == run.step(5).token_id
    for source in ("column", "rollout"):
        one.panel("output")._choose_colour(source)
        live(one, lambda: answered(one))
        assert max(one.panel("output").flow._marks.fills) > 0
    assert {a.error for a in one.state.answers.values()} == {None}


def test_the_same_seed_gives_the_same_text_and_another_does_not(one: Driven) -> None:
    one.do(i.SetParameter("max_new_tokens", 12))
    texts = []
    for seed in (1, 1, 2):
        one.do(i.SetSeed(seed))
        one.do(i.Run())
        live(one, lambda: finished(one))
        texts.append(one.state.run.text())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_pause_change_and_resume_flags_the_change_where_it_acts(one: Driven) -> None:
    one.do(i.Step())
    live(one, lambda: select.is_paused(one.state))
    one.do(i.SetParameter("temperature", 0.2))
    live(one, lambda: not one.state.pending)
    one.do(i.SetParameter("max_new_tokens", 8))
    one.do(i.TogglePause())
    live(one, lambda: finished(one))
    run = one.state.run
    assert run is not None
    assert run.count == 8
    assert (run.flags[0].index, run.flags[0].changed) == (1, ("temperature",))
    assert run.params.temperature == 0.2


def test_stop_ends_a_run_and_the_next_one_starts(one: Driven) -> None:
    one.do(i.SetParameter("max_new_tokens", 400))
    one.do(i.SetParameter("eos_token_id", ()))
    one.do(i.Run())
    live(one, lambda: one.state.run is not None and one.state.run.count > 2)
    one.do(i.Stop())
    live(one, lambda: finished(one))
    assert one.state.run.finish.finish_reason == "cancelled"
    one.do(i.SetParameter("max_new_tokens", 3))
    one.do(i.Run())
    live(one, lambda: finished(one))
    assert one.state.run.count == 3


@pytest.mark.parametrize(
    ("prompt", "says"), [("word " * 1200, "positions"), ("\u0000", None), ("", None)], ids=["too long", "nul", "empty"]
)
def test_rude_prompts_end_in_a_sentence_or_a_run_and_the_window_goes_on(
    one: Driven, prompt: str, says: str | None
) -> None:
    one.do(i.SetParameter("max_new_tokens", 2))
    one.do(i.EditText(prompt))
    one.do(i.Run())
    live(one, lambda: finished(one))
    if says is not None:
        assert says in one.state.notices[-1].text
    one.do(i.EditText("Once upon a time"))
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    assert one.state.run.count == 2


def test_a_folder_that_is_no_model_is_refused_and_the_model_stays(one: Driven, tmp_path: Path) -> None:
    before = one.state.model
    one.do(i.ChooseModel(str(tmp_path)))
    live(one, lambda: one.state.loading is None)
    assert one.state.model is before
    assert one.state.notices[-1].kind == "error"
    assert one.state.worker.value == "ready"
    assert one.state.spec == before.spec


def test_shot_saves_pictures_of_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what = ["--model", "tiny-gpt2", "--tokens", "6"]
    how = ["--theme", "light", "--size", "1024x640", "--layout", "sample"]
    assert shot(["--out", str(tmp_path / "shots"), *what, *how]) == 0
    (path,) = capsys.readouterr().out.split()
    assert Path(path).name == "sample-light-1024x640.png"
    from PySide6.QtGui import QImage

    picture = QImage(path)
    assert (picture.width(), picture.height()) == (1024, 640)
    assert len({picture.pixel(x, y) for x in range(0, 1024, 3) for y in (120, 320, 520)}) > 20


def test_shot_of_an_unknown_model_is_one_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shot(["--out", str(tmp_path), "--model", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
