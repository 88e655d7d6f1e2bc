"""Interventions as plain values: their notation and words, and what was in force when."""

from __future__ import annotations

import pytest

from core.contract import (
    DeletePositions,
    Intervention,
    MutePositions,
    ParameterError,
    ScaleHeads,
    SkipPart,
    Steer,
    check_interventions,
    notation,
    parse_intervention,
    parse_positions,
    position_ranges,
    words,
)
from core.decode.acts import NO_ACTS, Acts
from core.decode.interventions import History

EVERY: tuple[tuple[Intervention, str], ...] = (
    (ScaleHeads(3, (1, 4)), "heads 3.1, 3.4 muted"),
    (ScaleHeads(3, (1,), 0.5), "head 3.1 × 0.5"),
    (ScaleHeads(3, (0, 1, 2, 5)), "heads 0-2, 5 of layer 3 muted"),
    (SkipPart(5, "mlp"), "MLP of layer 5 skipped"),
    (SkipPart(0, "attention"), "attention of layer 0 skipped"),
    (Steer(6, 4.0, "love", "hate - or \"worse\""), "“love” − “hate - or \"worse\"” × 4 added before layer 6"),
    (Steer(6, -1.5, "love"), "“love” × -1.5 added before layer 6"),
    (Steer(0, 2.0, (1, 2), (3,)), "ids 1 2 − ids 3 × 2 added before layer 0"),
    (Steer(1, 1.0, vector=(0.5, -1.25, 2.0)), "a vector × 1 added before layer 1"),
    (MutePositions(0, (3, 5, 6, 7)), "positions 3, 5-7 muted"),
    (MutePositions(2, (0,)), "position 0 muted in row 2"),
    (DeletePositions(0, (3, 5, 6)), "positions 3, 5-6 deleted from the cache"),
    (DeletePositions(1, (4,)), "position 4 of row 1 deleted from the cache"),
)  # fmt: skip


@pytest.mark.parametrize(("one", "said"), EVERY)
def test_notation_is_read_back_and_words_say_what_happens(one: Intervention, said: str) -> None:
    assert parse_intervention(notation(one)) == one
    assert words(one) == said


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("head 2.7", ScaleHeads(2, (7,))),
        ("heads 2.7, 1-3,7 * 0.25", ScaleHeads(2, (1, 2, 3, 7), 0.25)),
        ("  skip 1.attention ", SkipPart(1, "attention")),
        ('steer 3*2 = "a"-"b"', Steer(3, 2.0, "a", "b")),
        ("mute 4", MutePositions(0, (4,))),
        ("mute 1: 4-6, 2", MutePositions(1, (2, 4, 5, 6))),
        ("delete 4", DeletePositions(0, (4,))),
        ("delete 1: 4-6, 2", DeletePositions(1, (2, 4, 5, 6))),
    ],
)
def test_what_people_write_is_understood(text: str, meant: Intervention) -> None:
    assert parse_intervention(text) == meant


@pytest.mark.parametrize(
    "text", ["", "heads", "heads 3", "heads 3.x", "skip 3.norm", "steer 3 * x = \"a\"", "steer 3 * 1 = a", "mute 5-3",
             "steer 1 * 2 = \"a\" + \"b\"", "mute 0-9999999999", "delete x", "heads 1.2 * much",
             "mute 0-600000, 600001-1200000", "mute 0-99999999999999999999", "steer 1 * 2 = [Infinity] - \"x\"",
             "steer 1 * 2 = [1.5, 2] - [3]", "steer 1 * 2 = [\"7\"]",
             pytest.param("steer 1 * 2 = " + "[" * 50_000, id="deep")],
)  # fmt: skip
def test_other_texts_cost_one_sentence(text: str) -> None:
    with pytest.raises(ParameterError, match="is no intervention; write one such as"):
        parse_intervention(text)


def test_positions_are_written_as_ranges() -> None:
    assert position_ranges((7, 1, 2, 3)) == "1-3, 7"
    assert parse_positions(position_ranges(range(5))) == (0, 1, 2, 3, 4)
    assert position_ranges(()) == ""


def test_a_fitting_set_passes() -> None:
    check_interventions(tuple(one for one, _ in EVERY[:5]), "it", 6, 8, 3, 3)
    with pytest.raises(ParameterError, match="3 numbers, but it is 4 wide"):
        check_interventions((EVERY[8][0],), "it", 6, 8, 4, 1)


def of(*asked: Intervention, **muted: tuple[int, ...]) -> Acts:
    return Acts(asked, muted={int(row[1:]): positions for row, positions in muted.items()})


def test_history_tells_what_was_in_force_at_each_slot() -> None:
    first, second = of(SkipPart(0, "mlp")), of(MutePositions(0, (1,)), r0=(1,))
    history = History()
    history.put(5, first)
    history.put(9, second)
    history.put(9, second)
    assert [history.at(slot) for slot in (0, 4, 5, 8, 9, 100)] == [NO_ACTS, NO_ACTS, first, first, second, second]
    assert history.marks(3, 12) == [3, 5, 9, 12]
    assert history.hidden(0, 0, 2, 9) is None
    hidden = history.hidden(0, 0, 8, 11)
    assert hidden is not None
    assert hidden.nonzero().tolist() == [[1, 1], [2, 1]]
    assert history.hidden(1, 0, 8, 11) is None


def test_a_run_that_continues_another_has_its_past() -> None:
    before, own = History(), History()
    before.put(3, of(SkipPart(0, "mlp")))
    before.put(8, of(SkipPart(1, "mlp")))
    own.put(0, of(SkipPart(2, "mlp")))
    assert own.same_until(before) == 0
    own.take(before, 6)
    assert [acts[0].layer if acts else None for _, acts in own.asked] == [None, 0, 2]
    assert own.same_until(before) == 6
    assert before.same_until(before) is None
