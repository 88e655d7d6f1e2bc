"""Several prompts at once: the Batch tab, the rows card, and every panel on the row that was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QApplication, QPlainTextEdit

from app import drops
from app.panels.cache_words import storage
from app.state import batch
from app.state import intents as i
from app.widgets import numbers
from app.widgets.visible_text import LINE_BREAK, visible
from core.contract import CacheSpec
from tests.ui.harness import Driven
from tests.ui.real import answered, finished, live, opened

pytestmark = pytest.mark.usefixtures("qapp")
PROMPTS = ("Once upon a time there was a little fox", "The king", "Tom and Mia went to the market because")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.json") as driven_window:
        yield driven_window


def run_batch(one: Driven, text: str = "\n".join(PROMPTS), tokens: int = 12) -> None:
    one.do(i.SelectTab("batch"))
    one.do(i.EditBatch(text))
    one.do(i.SetParameter("max_new_tokens", tokens))
    one.do(i.Run())
    live(one, lambda: finished(one))


def test_lines_become_rows_and_a_click_shows_one_in_every_panel(one: Driven, qtbot: object) -> None:
    run_batch(one)
    card, panel = one.window.workspace.cards["rows"], one.panel("rows")
    assert card.isVisible(), "a batch opens the card that shows it"
    run = one.state.run
    assert run is not None
    assert [row.rendered for row in run.started.rows] == list(PROMPTS)
    middle = QPoint(60, 28 + 14)
    qtbot.mouseClick(panel.list.viewport(), Qt.MouseButton.LeftButton, pos=middle)  # type: ignore[attr-defined]
    live(one, lambda: answered(one))
    shown = one.state.run
    assert shown is not None
    assert finished(one)
    assert shown.row == 1
    assert shown.text() == one.state.run.finish.texts[1]  # type: ignore[union-attr]
    assert one.panel("output").flow.tokens == shown.prompt_tokens + shown.count
    queries = [answer.answer.query for answer in one.state.answers.values() if answer.answer is not None]
    assert queries
    assert all(query.row == 1 for query in queries)
    assert all(answer.error is None for answer in one.state.answers.values())


def test_the_rows_say_how_much_of_the_cache_is_padding(one: Driven) -> None:
    run_batch(one)
    run, panel = one.state.run, one.panel("rows")
    assert run is not None
    widths = [len(row.token_ids) for row in run.started.rows]
    padding = sum(max(widths) - width for width in widths)
    held = run.step(run.count - 1).cache.length
    assert held == max(widths) + 11  # the last token is not fed
    assert panel.padding.text() == f"cache {numbers.percent(padding / (3 * held))} padding"
    ends = run.step(4).token_id
    one.do(i.SetParameter("eos_token_id", [ends]))  # the shortest rows may leave before the others
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not run)
    shown = one.state.run
    assert shown is not None
    said = [len(ids) - width for ids, width in zip(shown.finish.sequences, widths, strict=True)]  # type: ignore[union-attr]
    there = [width for width, tokens in zip(widths, said, strict=True) if tokens == max(said)]
    assert len(there) < 3, "no row has left"
    left = sum(max(widths) - width for width in there)
    share = numbers.percent(left / (len(there) * (max(widths) + max(said) - 1)))
    assert panel.padding.text() == (f"cache {share} padding" if left else "no padding")
    told = storage(shown, shown.step(shown.count - 1)).replace("\u00a0", " ")  # the cache card says the same
    assert (f"{share} of it padding" in told) if left else ("padding" not in told)


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        (CacheSpec("off"), ""),
        (CacheSpec("heavy_hitters", window=8), ""),
        (CacheSpec("sliding_window", window=4), "no padding"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_no_padding_is_told_of_a_cache_that_does_not_hold_it(one: Driven, cache: CacheSpec, said: str) -> None:
    one.do(i.SetCache(cache))
    run_batch(one)
    assert one.panel("rows").padding.text() == said


def test_rows_are_reached_by_keyboard_and_said_in_words(one: Driven, qtbot: object) -> None:
    run_batch(one)
    panel = one.panel("rows")
    for _ in range(5):
        qtbot.keyClick(panel.list, Qt.Key.Key_Down)  # type: ignore[attr-defined]
        one.frames()
    assert one.state.run is not None
    assert one.state.run.row == 2
    assert panel.list.accessibleDescription() == "3 rows, 3 ended, row 3 is shown."
    panel.twins.button.click()
    one.frames(2)
    table = panel.twins.views[0].rows
    assert table.rowCount() == 3
    assert [table.data(table.index(row, 5)) for row in range(3)] == ["length"] * 3


def test_rows_of_beams_show_what_is_returned_first(one: Driven) -> None:
    one.do(i.ChooseMode("beams"))
    one.do(i.SetParameter("num_return_sequences", 2))
    run_batch(one, tokens=10)
    run, panel = one.state.run, one.panel("rows")
    assert run is not None
    assert run.finish is not None
    for row in range(3):
        line = panel._line(row)
        assert visible(run.finish.texts[2 * row].replace("\n", LINE_BREAK)).startswith(line.text)
        assert (line.count, len(line.levels), line.ended) == ("10", 10, "length")
    complete = one.panel("beams")
    ends = [complete._line(number).ended for number in range(len(complete._ended))]
    assert sorted(ends)[-2:] == ["returned 1", "returned 2"]
    panel.twins.button.click()
    one.frames(2)
    table = panel.twins.views[0].rows
    assert [table.data(table.index(row, 2)) for row in range(3)] == ["10"] * 3


def test_a_card_that_was_opened_for_a_run_leaves_with_its_kind(one: Driven) -> None:
    cards = one.window.workspace.cards
    run_batch(one, tokens=4)
    assert cards["rows"].isVisible()
    one.do(i.SelectTab("text"))
    one.do(i.Run())
    live(one, lambda: finished(one) and len(one.state.run.started.rows) == 1)  # type: ignore[union-attr]
    one.frames(2)
    assert cards["rows"].isHidden()
    run_batch(one, tokens=4)
    live(one, lambda: cards["rows"].isVisible())


def test_a_mode_that_lacks_something_says_what_and_does_not_run(one: Driven) -> None:
    for mode, field, typed, words in (
        ("constrained", "force_words", " |\n  ", "need a phrase"),
        ("draft", "assistant", "", "No draft model is chosen"),
    ):
        one.do(i.ChooseMode("plain"))
        one.do(i.ChooseMode(mode))
        one.do(i.SetModeText(field, typed))
        one.do(i.Run())
        one.frames(2)
        assert words in one.state.notices[-1].text
        assert one.state.requested is None
        assert one.state.run is None
        assert words in one.panel("parameters").plan_problem.text()


def test_several_sequences_of_one_prompt_are_rows(one: Driven) -> None:
    one.do(i.SetParameter("num_return_sequences", 4))
    one.do(i.SetParameter("max_new_tokens", 8))
    one.do(i.Run())
    live(one, lambda: finished(one))
    run = one.state.run
    assert run is not None
    assert len({run.sequences.row(row).texts[-1] + str(row) for row in range(4)}) == 4
    assert len(set(run.finish.texts)) > 1  # type: ignore[union-attr]


def test_sixty_four_rows_paint_only_what_is_visible(one: Driven) -> None:
    run_batch(one, "\n".join(f"{n} little ducks went" for n in range(64)), tokens=6)
    one.window.workspace.cards["rows"].raise_()
    one.frames(2)
    panel = one.panel("rows")
    asked: list[int] = []
    line = panel.list._line
    panel.list._line = lambda row: asked.append(row) or line(row)
    panel.list.viewport().repaint()
    QApplication.processEvents()
    assert 0 < len(set(asked)) < 40


def test_an_empty_batch_is_refused_in_a_sentence_and_keeps_what_was_typed(one: Driven) -> None:
    one.do(i.SelectTab("batch"))
    one.do(i.EditBatch("\n   \n"))
    one.do(i.Run())
    one.frames()
    assert one.state.notices[-1].text == "The batch is empty; write a prompt on each line."
    assert one.state.draft.batch == "\n   \n"
    assert one.state.requested is None


def test_empty_lines_are_left_out_and_said(one: Driven, qtbot: object) -> None:
    one.do(i.SelectTab("batch"))
    one.do(i.EditBatch("A fox\n\nA king\n"))

    def said() -> bool:
        one.frames()
        return "empty lines left out: 1" in one.panel("prompt").summary.count.text()

    qtbot.waitUntil(said)  # type: ignore[attr-defined]
    assert one.panel("prompt").summary.count.text().startswith("2 prompts")


def test_a_prompt_of_a_file_stays_one_whatever_breaks_are_in_it(one: Driven, tmp_path: Path) -> None:
    given = ["a\u2028b", "a\rb", "a\x85b\x0bc\x0cd\x1ce", "a\\u2028b", "C:\\new\\", "one\ntwo"]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in given), encoding="utf-8")
    drops.take(path, one.do, lambda _name: None)
    one.frames(2)
    assert one.state.notices == ()
    assert batch.prompts(one.state.draft.batch) == tuple(given)
    editor = QPlainTextEdit()  # what an editor makes of the lines is the same prompts
    editor.setPlainText(one.state.draft.batch)
    assert batch.prompts(editor.toPlainText()) == tuple(given)
    editor.deleteLater()
    assert batch.prompts("a\r\nb\rc\n\n") == ("a", "b", "c")
    assert batch.empty_lines("") == 0
    assert batch.count("") == 0


def test_files_of_prompts_are_dropped_in(one: Driven, tmp_path: Path) -> None:
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"prompt": "A fox\\nran"}\n"The \\\\ king"\n', encoding="utf-8")
    drops.take(lines, one.do, lambda _name: None)
    assert one.state.draft.tab == "batch"
    assert batch.prompts(one.state.draft.batch) == ("A fox\nran", "The \\ king")
    text = tmp_path / "prompts.txt"
    text.write_text("One\nTwo", encoding="utf-8")
    drops.take(text, one.do, lambda _name: None, one.state.draft.tab)
    assert batch.prompts(one.state.draft.batch) == ("One", "Two")
    lines.write_text('{"prompt": 3}', encoding="utf-8")
    drops.take(lines, one.do, lambda _name: None)
    one.frames()
    assert "line 1" in one.state.notices[-1].text
    assert batch.prompts(one.state.draft.batch) == ("One", "Two")
