"""What is kept, dropped in and shown late: settings, presets, recents, drops, reading speed, the list of errors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent
from PySide6.QtWidgets import QApplication, QMenu

from app import files
from app.preset_files import file_name, read_folder, write_preset
from app.settings import Settings
from app.state import intents as i
from app.state import select
from app.state.on_event import MOST_RECENT
from app.state.state import ModelChoice, Preset
from core.contract import ErrorReport, PreviewModel, RunFinished, StartRun
from tests.ui.fake_lab import FakeLab
from tests.ui.harness import Driven, driven

pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


def drop(one: Driven, *paths: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(p)) for p in paths])
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    one.window.dropEvent(QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, data, buttons, keys))
    one.frames(2)


@pytest.mark.parametrize("text", ["{", "[]", "\x00\xff", "[" * 50_000, '{"version": 1, "theme": '])
def test_damaged_settings_are_said_and_kept_aside(settings: Path, text: str) -> None:
    settings.write_bytes(text.encode("latin-1"))
    with driven(settings) as one:
        assert one.state.theme == "light"
        assert "cannot be read, so defaults are used" in one.state.errors[0].text
        one.do(i.SetTheme("dark"))
    assert settings.with_suffix(".damaged.json").read_bytes() == text.encode("latin-1")
    assert Settings(settings).theme == "dark"


def test_settings_that_cannot_be_written_are_said_once_and_the_old_file_is_intact(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.write_text('{"version": 1, "theme": "dark"}')

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with driven(settings) as one:
        monkeypatch.setattr(files.os, "replace", full)
        for theme in ("light", "contrast"):
            one.do(i.SetTheme(theme))
            one.frames(2)
            one.window.keeper.write()
        said = [n for n in one.state.errors if "No space left on device" in n.text]
        assert [n.count for n in said] == [1]
    assert settings.read_text() == '{"version": 1, "theme": "dark"}'
    assert sorted(p.name for p in settings.parent.iterdir()) == ["settings.json"]


def test_presets_are_files_that_come_back_and_go(settings: Path) -> None:
    with driven(settings) as one:
        one.do(i.SetParameter("temperature", 0.25))
        one.do(i.SavePreset("a/b: <c>"))
        one.do(i.SavePreset("plain"))
    folder = settings.parent / "presets"
    assert json.loads((folder / "plain.json").read_text())["temperature"] == 0.25
    (folder / "broken.json").write_text("{")
    with driven(settings) as one:
        assert {p.name for p in one.state.presets} >= {"plain"}
        assert any("broken.json" in n.text for n in one.state.errors)
        menu = QMenu()
        one.panel("parameters")._fill(menu)
        next(a for a in menu.actions() if a.text() == "plain").trigger()
        assert select.params(one.state).temperature == 0.25
        menu.deleteLater()
        one.do(i.RemovePreset("plain"))
    assert not (folder / "plain.json").exists()


def test_preset_files_never_leave_their_folder(tmp_path: Path) -> None:
    for name in ("../up", "a/b", "..", "", "x" * 500, "CON\\..", "ok"):
        assert Path(file_name(name)).name == file_name(name)
    write_preset(tmp_path / "p", Preset("../up", {"a": 1}))
    assert len(read_folder(tmp_path / "p")[0]) == 1


def test_files_of_presets_are_not_lost_to_others_of_their_name(settings: Path, tmp_path: Path) -> None:
    folder = settings.parent / "presets"
    file, other = folder / "mine.json", tmp_path / "mine.json"
    other.write_text('{"temperature": 1.9}')

    def value(path: Path) -> float:
        return float(json.loads(path.read_text())["temperature"])

    with driven(settings) as one:
        one.do(i.SetParameter("temperature", 0.3))
        one.do(i.SavePreset("mine"))
        drop(one, other)
        one.frames(2)
        one.window.keeper.write()
        assert (value(file), value(folder / "mine 2.json")) == (0.3, 1.9)
        one.do(i.SavePreset("mine"))
        one.frames(2)
        one.window.keeper.write()
        assert value(file) == 1.9
        one.do(i.Undo())
        one.frames(2)
        one.window.keeper.write()
        assert value(file) == 0.3
        one.do(i.RemovePreset("mine"))
        one.frames(2)
        one.window.keeper.write()
        assert not file.exists()
        one.do(i.Undo())
    assert value(file) == 0.3
    file.write_text('{"temperature": 0.3')  # damaged, but the user may know how to mend it
    (folder / "%6Dine 2.json").write_text('{"temperature": 0.1}')  # names the same preset
    with driven(settings) as one:
        assert {p.name: p.values["temperature"] for p in one.state.presets} == {"mine 2": 1.9}
        assert any("there is another preset “mine 2”" in n.text for n in one.state.errors)
        for _ in range(2):
            one.do(i.SetParameter("temperature", 0.9))
            one.do(i.SavePreset("mine"))
    assert value(file) == 0.9
    assert (folder / "mine.json.old").read_text() == '{"temperature": 0.3'
    assert sorted(p.name for p in folder.iterdir()) == ["%6Dine 2.json", "mine 2.json", "mine.json", "mine.json.old"]


NAMES = (
    "50/50 mix: a",
    "a%2Fb",
    ".hidden",
    "ends in a dot.",
    "Ä ö 漢字 🙂",
    "x" * 60,
    "tab\there",
    "../up",
    "\ud800",
)


def test_presets_keep_their_names_and_odd_ones_do_not_hold_up_the_others(settings: Path, tmp_path: Path) -> None:
    odd = {"temperature": 0.4, "note": "\ud800", "watermarking_config": 7, "bad_words_ids": None, "top_p": None}
    (tmp_path / "sur.json").write_text(json.dumps(odd))
    with driven(settings) as one:
        drop(one, tmp_path / "sur.json")
        for name in NAMES:
            one.do(i.SavePreset(name))
        one.do(i.SetTheme("dark"))
        one.frames(2)
    with driven(settings) as one:
        assert {p.name for p in one.state.presets} == {"sur", *NAMES}
        assert all({**p.values, **odd} == dict(p.values) for p in one.state.presets)
        assert one.settings.theme == "dark"
        one.do(i.RemovePreset("50/50 mix: a"))
        one.frames(2)
        one.window.keeper.write()
        one.window.keeper._folder = tmp_path / "sur.json"  # a file where the folder was
        one.do(i.SavePreset("too late"))
        one.frames(2)
        one.window.keeper.write()
        assert any("presets cannot be saved" in n.text for n in one.state.errors)
    with driven(settings) as one:
        assert {p.name for p in one.state.presets} == {"sur", *NAMES} - {"50/50 mix: a"}


def test_a_number_that_json_cannot_say_is_refused_at_once(settings: Path, tmp_path: Path) -> None:
    (tmp_path / "huge.json").write_text('{"note": 1e999}')
    with driven(settings) as one:
        drop(one, tmp_path / "huge.json")
        assert not one.state.presets
        assert any("out of range" in n.text for n in one.state.errors)


def test_drops_look_at_models_take_texts_and_apply_presets(settings: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    (tmp_path / "story.txt").write_text("\ufeffIt was a dark night", encoding="utf-8")
    (tmp_path / "hot.json").write_text('{"temperature": 1.5, "unknown": true}')
    (tmp_path / "bad.json").write_text("nothing")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    with driven(settings) as one:
        drop(one, tmp_path / "model")
        assert one.lab.sent(PreviewModel)[-1].spec.name == str(tmp_path / "model")
        assert one.window.chooser.isVisible()
        drop(one, tmp_path / "weights.gguf")
        assert one.lab.sent(PreviewModel)[-1].spec.name.endswith("weights.gguf")
        one.window.chooser.close()
        drop(one, tmp_path / "story.txt", tmp_path / "hot.json")
        assert one.state.draft.text == "It was a dark night"
        assert select.params(one.state).temperature == 1.5
        drop(one, tmp_path / "bad.json", tmp_path / "latin.txt", tmp_path / "gone.txt", tmp_path / "x.exe")
        assert len(one.state.errors) == 4


def test_recent_prompts_come_back_and_are_offered(settings: Path) -> None:
    with driven(settings) as one:
        one.do(i.EditText("First & <b>"))
        one.do(i.Run())
        one.frames(3)
    kept = Settings(settings)
    assert kept.recent("prompts") == ("First & <b>",)
    assert kept.recent("models") == ("tiny-gpt2",)
    with driven(settings, recent_prompts=kept.recent("prompts")) as one:
        menu = QMenu()
        one.panel("prompt")._fill(menu)
        menu.actions()[0].trigger()
        menu.deleteLater()
        assert one.state.draft.text == "First & <b>"


def test_the_reading_speed_holds_tokens_back_and_stop_shows_them(settings: Path) -> None:
    with driven(settings, FakeLab(steps_per_drain=20)) as one:
        one.window.actions_["speed.5"].trigger()
        one.do(i.SetParameter("max_new_tokens", 60))
        one.do(i.Run())
        one.frames(8)
        run = one.state.run
        assert run.count < 20
        assert run.finish is None
        assert one.state.pace.ended
        assert one.state.pace.waiting == 60 - run.count
        assert one.window.statusbar.aside.text().endswith("tokens wait")
        assert select.is_active(one.state)
        one.do(i.Stop())
        one.frames(2)
        assert one.state.run.count == 60
        assert isinstance(one.state.run.finish, RunFinished)
        assert one.window.statusbar.aside.text() == ""


def test_pause_stops_the_display_and_step_shows_the_next_waiting_token(settings: Path) -> None:
    with driven(settings, FakeLab(steps_per_drain=20)) as one:
        one.do(i.SetSpeed(5))
        one.do(i.SetParameter("max_new_tokens", 40))
        one.do(i.Run())
        one.frames(5)
        one.do(i.TogglePause())
        one.frames(2)
        assert one.window.statusbar.state.text() == "Paused"
        count = one.state.run.count
        one.do(i.Step())
        one.frames(3)
        assert one.state.run.count == count + 1
        one.do(i.Run())  # something new: the old run is shown to its end first, nothing mixes
        one.frames(2)
        assert len(one.lab.sent(StartRun)) == 2
        assert one.state.run.run_id == 2


def test_the_list_of_errors_groups_copies_and_dismisses(settings: Path) -> None:
    with driven(settings) as one:
        one.lab.refuse = {StartRun: ErrorReport("prompt", "The prompt is too long.", "<b>trace</b>")}
        for _ in range(3):
            one.do(i.Run())
            one.frames(2)
        assert one.window.statusbar.errors.text() == "1 error"
        one.window.statusbar.errors.click()
        one.frames(2)
        panel = one.panel("errors")
        assert panel.isVisible()
        (row,) = panel.rows
        assert row.text.text() == "The prompt is too long. (×3)"
        row.details.click()
        assert row.detail.toPlainText() == "<b>trace</b>"
        one.do(i.Run())
        one.frames(2)
        assert panel.rows == [row]
        assert row.text.text() == "The prompt is too long. (×4)"
        assert row.detail.isVisible()
        row.copy.click()
        assert "<b>trace</b>" in QApplication.clipboard().text()
        one.do(i.Announce("error", "Another.", "x" * 10_000))
        one.frames(2)
        assert panel.rows[0].detail is None, "made when it is looked at"
        panel.rows[0].dismiss.click()
        row.dismiss.click()
        one.frames(2)
        assert panel.rows == []
        assert not one.window.statusbar.errors.isVisible()
        assert QApplication.activeModalWidget() is None


def test_undo_works_from_a_parameter_field_and_not_in_the_prompt(settings: Path, qtbot: object) -> None:
    with driven(settings) as one:
        field = one.panel("parameters").rows["temperature"].field
        field.setFocus()
        field.selectAll()
        qtbot.keyClicks(field, "0.3")  # type: ignore[attr-defined]
        qtbot.keyClick(field, Qt.Key.Key_Return)  # type: ignore[attr-defined]
        one.frames(2)
        assert one.window.actions_["undo"].text() == "Undo temperature"
        qtbot.keyClick(field, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)  # type: ignore[attr-defined]
        one.frames(2)
        assert select.params(one.state).temperature == 0.8
        keys = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
        qtbot.keyClick(field, Qt.Key.Key_Z, keys)  # type: ignore[attr-defined]
        assert select.params(one.state).temperature == 0.3


def test_re_used_positions_are_said(settings: Path) -> None:
    from dataclasses import replace

    with driven(settings) as one:
        one.do(i.Run())
        one.lab.events = [replace(e, reused_positions=412) if type(e).__name__ == "RunStarted" else e
                          for e in one.lab.events]  # fmt: skip
        one.frames(2)
        assert one.window.statusbar.aside.text() == "re-used 412 positions"


def test_how_many_records_a_run_keeps_is_chosen_and_remembered(settings: Path) -> None:
    with driven(settings) as one:
        menu = {a.objectName(): a for a in one.window.toolbar.placement.menu().actions()}
        menu["records.256"].trigger()
        one.frames(2)
        assert menu["records.256"].isChecked()
        assert not menu["records.1024"].isChecked()
        one.do(i.Run())
        started = [command for command in one.lab.commands if isinstance(command, StartRun)]
        assert started[-1].spec.trace_budget_bytes == 256 << 20
    assert Settings(settings).trace_budget_mb == 256


def test_two_windows_keep_what_each_of_them_has_changed(settings: Path) -> None:
    def write(one: Driven, intent: i.Intent) -> None:
        one.do(intent)
        one.frames(2)
        one.window.keeper.write()

    with driven(settings) as first, driven(settings) as second:
        write(first, i.SetTraceBudget(256))
        write(second, i.SetTheme("dark"))
        write(first, i.SetLayout("cache"))
        kept = Settings(settings)
        assert (kept.trace_budget_mb, kept.theme, kept.layout) == (256, "dark", "cache")
        write(second, i.SetTheme("light"))
        assert Settings(settings).theme == "light", "back to what it was is a change, too"


def test_what_was_run_in_one_window_is_recent_in_the_next_though_another_was_closed_last(settings: Path) -> None:
    first, second = Settings(settings), Settings(settings)
    assert first.remember(recent_prompts=("one",)) is None
    assert second.remember(recent_prompts=("two",), recent_models=("tiny-gpt2",)) is None
    assert first.remember(recent_prompts=("three", "one")) is None
    assert Settings(settings).recent("prompts") == ("three", "one", "two")
    assert Settings(settings).recent("models") == ("tiny-gpt2",)
    many = tuple(map(str, range(MOST_RECENT)))
    assert second.remember(recent_prompts=many) is None
    assert Settings(settings).recent("prompts") == many


def test_two_windows_on_a_damaged_file_keep_it_and_what_each_of_them_sets(settings: Path) -> None:
    settings.write_text("{damaged")
    first, second = Settings(settings), Settings(settings)
    assert first.remember(theme="dark") is None
    assert second.remember(layout="cache") is None
    assert settings.with_suffix(".damaged.json").read_text() == "{damaged"
    kept = Settings(settings)
    assert (kept.theme, kept.layout, kept.problem) == ("dark", "cache", None)


def test_a_file_that_is_replaced_keeps_its_readers_and_its_link(tmp_path: Path) -> None:
    shared, link, private = tmp_path / "far" / "shared.json", tmp_path / "link.json", tmp_path / "private.json"
    files.write_text(shared, "1")
    shared.chmod(0o664)
    link.symlink_to(shared)
    files.write_text(link, "2")
    assert link.is_symlink()
    assert shared.read_text() == "2"
    assert shared.stat().st_mode & 0o777 == 0o664
    umask = os.umask(0o022)
    try:
        files.write_text(tmp_path / "new.json", "3")
        files.write_text(private, "4", private=True)
    finally:
        os.umask(umask)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o644
    assert private.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link.json", "new.json", "private.json"]


def test_an_ampersand_in_a_name_marks_no_key(settings: Path) -> None:
    with driven(settings) as one:
        one.do(i.SavePreset("warm & wide"))
        one.do(i.OfferModels((ModelChoice("tiny-gpt2", "odd & even"),)))
        one.frames(2)
        menu, models = QMenu(), one.window.toolbar.model
        one.panel("parameters")._fill(menu)
        assert menu.actions()[0].text() == "warm && wide"
        assert models.text() == "odd && even ▾"
        assert models.menu().actions()[0].text() == "odd && even"


def test_odd_keys_of_a_preset_are_kept_and_do_not_garble_the_sentence(settings: Path, tmp_path: Path) -> None:
    odd = {"a" * 5000: 1, "one\ntwo": 2, "\u202eabc": 3}
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    with driven(settings) as one:
        drop(one, tmp_path / "odd.json")
        said = one.state.notices[-1].text
        assert said == f"Preset “odd” applied. Kept, but without effect here: {'a' * 40}…, one�two, �abc."
        assert odd.items() <= dict(one.state.config).items()
