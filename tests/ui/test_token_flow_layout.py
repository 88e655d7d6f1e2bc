"""Line breaking, whitespace marks and growing maps: the arithmetic behind the token flow, without Qt."""

from __future__ import annotations

from unicodedata import name

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtGui import Qt, QTextDocumentFragment

from app.widgets import numbers
from app.widgets.flow_layout import FlowLayout, FlowMetrics
from app.widgets.visible_text import one_line, parts, plain_tip, visible

CELL = 10.0
NOTHING = ("FILLER", "GRAPHEME JOINER", "VARIATION SELECTOR", "VOWEL INHERENT")  # printable, but nothing is drawn
METRICS = FlowMetrics(CELL, pad=2.0, gap=1.0, space=6.0)
token_texts = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30), max_size=40)


def layout(texts: list[str], width: float = 200.0) -> FlowLayout:
    flow = FlowLayout(METRICS, lambda text: CELL * len(text), width)
    flow.append(texts)
    return flow


def lines_of(flow: FlowLayout) -> list[str]:
    return ["".join(f.text for f in flow.on_line(line)) for line in range(flow.lines)]


def test_a_leading_space_becomes_a_gap_in_front_of_the_chip() -> None:
    first, second = layout(["one", " two"]).on_line(0)
    assert (first.x, first.width, first.lead) == (0.0, 34.0, 0)
    assert second.text == "two"
    assert second.lead == 1
    assert second.x == first.x + first.width + METRICS.gap + METRICS.space


def test_a_newline_is_marked_and_breaks_the_line() -> None:
    flow = layout(["a", "\n\n", "b.\n", "c"])
    assert lines_of(flow) == ["a⏎", "⏎", "b.⏎", "c"]
    assert [line for line, _ in flow.of_token(1)] == [0, 1]


def test_lines_break_between_tokens_where_the_width_ends() -> None:
    flow = layout(["aaaa", "bbbb", "cccc"], width=100.0)
    assert lines_of(flow) == ["aaaabbbb", "cccc"]


def test_a_token_wider_than_a_line_is_cut_into_lines() -> None:
    flow = layout(["x" * 25], width=100.0)
    assert [len(line) for line in lines_of(flow)] == [9, 9, 7]
    assert {f.token for line in range(3) for f in flow.on_line(line)} == {0}


def test_an_unfinished_character_takes_no_room() -> None:
    flow = layout(["a", "", "b"])
    assert lines_of(flow) == ["ab"]
    assert flow.of_token(1) == []
    assert flow.line_of(1) == 0


def test_indentation_keeps_its_width() -> None:
    flow = layout(["if x:\n", "    return"])
    assert flow.on_line(1)[0].x == 4 * CELL


@given(token_texts, st.integers(40, 400))
def test_appending_one_by_one_equals_laying_out_at_once(texts: list[str], width: int) -> None:
    at_once = layout(texts, width)
    one_by_one = layout([], width)
    for text in texts:
        one_by_one.append([text])
    resized = layout(texts, 777.0)
    resized.resize(width)
    fragments = [[flow.on_line(line) for line in range(flow.lines)] for flow in (one_by_one, at_once, resized)]
    assert fragments[0] == fragments[1] == fragments[2]
    assert sum(len(f.text) for line in fragments[0] for f in line) == sum(len(p.text) for t in texts for p in parts(t))


def test_only_the_lines_that_somebody_looks_at_are_made_into_chips() -> None:
    flow = layout([" word"] * 10_000)
    assert flow._made == {}
    flow.on_line(300)
    flow.append([" more"])
    assert list(flow._made) == [300]
    flow.resize(300.0)
    assert flow._made == {}
    assert flow.of_token(10_000)[0][0] == flow.lines - 1


@given(token_texts, st.integers(60, 400))
def test_no_chip_leaves_the_line_and_each_can_be_hit(texts: list[str], width: int) -> None:
    flow = layout(texts, width)
    for line in range(flow.lines):
        right = 0.0
        for f in flow.on_line(line):
            assert f.x >= right
            right = f.x + f.width
            assert right <= width
            assert flow.at(f.x + f.width / 2, line) == f.token
            assert (line, f) in flow.of_token(f.token)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_marks_keep_every_visible_character(text: str) -> None:
    shown = "".join(" " * p.lead + p.text for p in parts(text))
    for char in text:
        if char.isprintable() and not char.isspace() and not any(word in name(char, "") for word in NOTHING):
            assert shown.count(char) >= text.count(char)
    assert "\n" not in shown
    assert "\t" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\t", "⇥"),
        ("a\rb", "a␍b"),
        ("\u202e", "⟨U+202E⟩"),
        ("\u200d", "\u200d"),
        ("x  y", "x  y"),
        ("\xa0", "⟨U+00A0⟩"),
        ("\u061c", "⟨U+061C⟩"),
        ("\u3164", "⟨U+3164⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\U000e01ef", "⟨U+E01EF⟩"),
        ("👩‍🚀", "👩‍🚀"),
        ("❤️", "❤️"),
    ],
)
def test_invisible_characters_show(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_one_line_shows_spaces_and_breaks() -> None:
    assert one_line(" a b\n") == "␣a␣b⏎"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.000"), (0.4914, "0.491"), (0.0005, "0.001"), (0.00042, " 4e-4"), (9.7e-9, " 1e-8"), (0.0, "    0")],
)
def test_probabilities_have_five_characters(value: float, text: str) -> None:
    assert numbers.probability(value) == text
    assert len(numbers.probability(value)) == 5


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (960, "960 B"), (23_040, "23.0 kB"), (1_451_520, "1.45 MB"), (999_600, "1.00 MB"), (3e12, "3.00 TB")],
)
def test_bytes_have_three_digits_and_powers_of_1000(count: float, text: str) -> None:
    assert numbers.byte_count(count) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [(120, "120 ms"), (45_000, "45 s"), (200_000, "3 min 20 s"), (7_500_000, "2 h 5 min"), (9e8, "10 days")],
)
def test_durations_have_two_units(ms: float, text: str) -> None:
    assert numbers.duration(ms) == text


@pytest.mark.parametrize("text", ["plain", "2 < 3\nnext", "<b>bold</b>", "a &lt; b", "first\n<img src=x>"])
def test_a_tooltip_is_never_markup(text: str) -> None:
    tip = plain_tip(text)
    shown = QTextDocumentFragment.fromHtml(tip).toPlainText() if Qt.mightBeRichText(tip) else tip
    assert shown == text
