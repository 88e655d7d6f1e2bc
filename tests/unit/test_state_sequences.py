"""Rows of a batch and beams: which sequence the window shows, and what it is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.panels.beams import labels
from app.state import intents as i
from app.state.run import RunView, begin, columns_of, ended_as, returned_as, show_row, with_end, with_step
from app.state.state import AppState
from app.state.update import update
from core.contract import (
    BeamDetail,
    GenerationParams,
    HypothesisEnded,
    PromptRow,
    RunFinished,
    RunStarted,
    StepSnapshot,
)
from core.contract.detail import Hypothesis
from tests.ui import synthetic


def started(rows: int) -> RunStarted:
    prompts = tuple(PromptRow(tuple(range(4 + r)), tuple("abcdefgh"[: 4 + r]), "") for r in range(rows))
    return RunStarted(1, 1, 0, prompts, GenerationParams(), 0, 99, ())


def step(row: int, index: int, token: int, beam: int | None = None, parent: int = 0) -> StepSnapshot:
    made = synthetic.snapshot(synthetic.model(), index, np.random.default_rng(token), True)
    where = replace(made.id, row=row, index=index, beam=beam or 0)
    detail = None if beam is None else BeamDetail(parent, -float(index))
    return replace(made, id=where, token_id=token, detail=detail)


def tokens(run: RunView) -> list[int]:
    return [s.token_id for s in run.steps()]


@pytest.fixture
def beams() -> RunView:
    """Two beams; after the third step the second one has become the best."""
    run = begin(started(1), synthetic.model())
    for index, lanes in enumerate([((10, 0), (20, 0)), ((11, 0), (21, 1)), ((22, 1), (12, 0))]):
        for beam, (token, parent) in enumerate(lanes):
            run = with_step(run, step(0, index, token, beam, parent))
    return run


def test_the_best_beam_is_shown_also_when_beams_change_places(beams: RunView) -> None:
    assert tokens(beams) == [20, 21, 22]
    assert beams.place == replace(beams.place, row=0, beam=0, index=2)


def test_a_list_of_rows_shows_the_best_beam_of_each(beams: RunView) -> None:
    def said(row: int) -> list[int]:
        columns = columns_of(beams, row)
        return [s.token_id for s in columns.snapshots[: columns.count]]

    assert said(0) == [20, 21, 22]
    shown = columns_of(beams, 0)
    beams = with_step(with_step(beams, step(0, 3, 23, 0, 0)), step(0, 3, 13, 1, 1))
    assert columns_of(beams, 0) is shown  # it was only added to
    assert said(0) == [20, 21, 22, 23]
    beams = with_step(with_step(beams, step(0, 4, 14, 0, 1)), step(0, 4, 24, 1, 0))
    assert said(0) == [10, 11, 12, 13, 14]
    assert [float(v) for v in columns_of(beams, 0).column("token_id", 5)] == [10, 11, 12, 13, 14]
    end = RunFinished(
        1, "stop", ("stop", "length"), ("", ""), ((), ()), (4, 4), 5, 1.0, 1.0, places=((0, 1, 2), (0, 0, 4))
    )
    beams = with_end(beams, end)
    assert said(0) == [10, 11, 12]
    assert ended_as(beams, 0) == "stop"
    assert [returned_as(beams, 0, *at) for at in ((1, 2), (0, 4), (0, 2))] == [0, 1, None]


def test_as_long_as_the_best_beam_stays_steps_are_only_added() -> None:
    run = begin(started(1), synthetic.model())
    key = run.key
    for index in range(3):
        for beam in range(2):
            run = with_step(run, step(0, index, 10 * beam + index, beam, beam))
    assert run.key == key
    assert tokens(run) == [0, 1, 2]


def test_a_beam_that_changed_places_is_another_sequence(beams: RunView) -> None:
    before = begin(started(1), synthetic.model())
    assert beams.key != before.key


def test_any_beam_can_be_shown_also_a_dead_one(beams: RunView) -> None:
    state = update(AppState(model=synthetic.model(), run=beams), i.ShowBeam(0, 0, 1))
    assert state.run is not None
    assert tokens(state.run) == [10, 11]
    again = with_step(state.run, step(0, 3, 30, 0, 0))
    assert tokens(again) == [10, 11], "who looks at a beam is not pulled away from it"
    assert tokens(with_end(again, finished(((0, 0, 2),)))) == [10, 11]


def finished(places: tuple[tuple[int, int, int | None], ...]) -> RunFinished:
    return RunFinished(1, "stop", ("stop",), ("",), ((1,),), (4,), 3, None, None, places=places)


def test_the_best_returned_sequence_is_shown_at_the_end(beams: RunView) -> None:
    assert tokens(with_end(beams, finished(((0, 0, 1),)))) == [10, 11]
    assert with_end(beams, finished(((0, 0, 2),))).key == beams.key


def test_what_was_held_back_of_a_character_is_told_of_every_beam_that_was_returned(beams: RunView) -> None:
    said = beams.text()
    other = update(AppState(model=synthetic.model(), run=beams), i.ShowBeam(0, 1, 2)).run
    assert other is not None
    texts = (said + "\N{REPLACEMENT CHARACTER}", other.text() + "?")
    end = replace(finished(((0, 0, 2), (0, 1, 2))), texts=texts)
    for run, text in ((beams, texts[0]), (other, texts[1])):
        ended = with_end(run, end)
        assert ended.text() == text
        assert ended.count == 3
    asked = update(AppState(model=synthetic.model(), run=with_end(beams, end)), i.ShowBeam(0, 1, 2)).run
    assert asked is not None
    assert asked.text() == texts[1]
    assert show_row(replace(asked, follows=False), 0).text() == texts[0]
    assert beams.text() == said


@pytest.mark.parametrize("place", [(0, 5, 2), (0, 0, 7), (3, 0, 0)])
def test_a_returned_sequence_that_was_never_told_leaves_the_view_where_it_is(
    beams: RunView, place: tuple[int, int, int]
) -> None:
    ended = with_end(beams, finished((place,)))
    assert ended.finish is not None
    assert tokens(ended) == tokens(beams)


def test_a_row_whose_first_beams_have_ended_shows_the_first_of_the_others(beams: RunView) -> None:
    run = with_step(beams, step(0, 3, 40, 1, 0))  # beam 0 is there no more
    assert tokens(show_row(replace(run, follows=False), 0)) == [20, 21, 22, 40]


def test_beams_keep_their_labels_when_others_have_ended() -> None:
    assert labels(4, 2) == ["1.1", "1.2", "2.1", "2.2"]
    assert labels(3, 1) == ["1", "2", "3"]


def test_hypotheses_are_kept(beams: RunView) -> None:
    ended = HypothesisEnded(1, 2, Hypothesis(0, 1, 2, -0.5, (10, 11, 12), "text"))
    state = update(AppState(model=synthetic.model(), run=beams), ended)
    assert state.run is not None
    assert state.run is not beams
    assert state.run.sequences.hypotheses == [ended]


def test_a_row_of_a_batch_is_chosen_and_grows() -> None:
    run = begin(started(3), synthetic.model())
    for index in range(2):
        for row in range(3):
            run = with_step(run, step(row, index, 100 * row + index))
    assert tokens(run) == [0, 1]
    assert run.padding == 2
    state = update(AppState(model=synthetic.model(), run=run), i.ShowRow(2))
    assert state.run is not None
    assert tokens(state.run) == [200, 201]
    assert (state.run.prompt_tokens, state.run.padding, state.run.place.row) == (6, 0, 2)
    assert tokens(with_step(state.run, step(2, 2, 202))) == [200, 201, 202]


def test_another_row_drops_answers_about_the_one_before() -> None:
    state = AppState(model=synthetic.model(), run=begin(started(2), synthetic.model()), last_generation=7, selected=0)
    after = update(state, i.ShowRow(1))
    assert (after.answer_floor, after.selected) == (7, None)
    assert update(after, i.ShowRow(1)) is not None
    assert update(state, i.ShowRow(9)) is state
    assert update(state, i.ShowBeam(0, 0, 0)) is state


def test_what_was_held_back_of_a_character_is_told_at_the_end_and_not_to_those_who_go_on() -> None:
    run = begin(started(1), synthetic.model())
    for index in range(3):
        run = with_step(run, step(0, index, index))
    said = run.text()
    told = replace(finished(()), texts=(said + "\N{REPLACEMENT CHARACTER}",))
    ended = with_end(run, told)
    assert ended.text() == told.texts[0]
    assert ended.column("text_end")[-1] == len(ended.text())
    assert ended.key != run.key  # the last token is shown anew
    assert run.text() == said
    assert "".join(ended.columns.fork(3).texts) == said
    assert ended.columns.fork(2).texts == ended.columns.texts[:2]
    assert with_end(ended, told).key == ended.key
