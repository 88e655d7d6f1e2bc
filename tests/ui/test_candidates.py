"""The candidates panel: rows, the order and place of the draw, killed tokens, greedy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from app.panels.candidates import CandidatesPanel
from app.state.intents import SelectStep
from app.theme import fonts
from app.widgets import draw_text
from app.widgets.candidate_bars import HEAD_PX, ROW_PX, tooltip
from app.widgets.candidate_rows import bar_top, rows, segments
from core.contract import AssistedDetail, BeamDetail, Candidates, GenerationParams, StepSnapshot
from tests.ui import synthetic


def step_of(final: list[float], ids: list[int], chosen: int, u: float | None) -> StepSnapshot:
    base = synthetic.snapshot(synthetic.model(), 0, np.random.default_rng(0))
    with np.errstate(divide="ignore"):
        logs = np.log(np.array(final, np.float32))
    raw = np.log(np.full(len(final), 1 / len(final), np.float32))
    killed = np.where(np.isneginf(logs), 1, -1).astype(np.int8)
    pieces = tuple(f" t{i}" for i in ids)
    top = Candidates(np.array(ids), pieces, raw, logs, killed, ("temperature", "top_k"))
    return replace(base, token_id=chosen, top=top, u=u)


def make(qtbot: QtBot, bench: synthetic.Bench, size: tuple[int, int] = (420, 240)) -> CandidatesPanel:
    fonts.load_fonts()
    panel = CandidatesPanel(bench.dispatch)
    qtbot.addWidget(panel)
    panel.resize(*size)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.render(bench.state)
    return panel


def test_the_segments_are_in_the_order_of_the_draw_and_the_chosen_one_holds_u() -> None:
    step = step_of([0.2, 0.0, 0.5, 0.2, 0.1], [9, 8, 7, 3, 1], chosen=9, u=0.75)
    found = segments(step.top, step.token_id)
    assert [s.piece for s in found] == [" t7", " t3", " t9", " t1"]  # descending, ties by id, killed ones left out
    chosen = next(s for s in found if s.chosen)
    assert chosen.start == pytest.approx(0.7)
    assert chosen.start <= 0.75 < chosen.stop
    assert found[-1].stop == pytest.approx(1.0)


def test_tokens_outside_of_the_top_k_leave_a_rest() -> None:
    assert segments(step_of([0.3, 0.2], [1, 2], 1, 0.1).top, 1)[-1].stop == pytest.approx(0.5)


def test_rows_name_the_stage_that_killed_a_token() -> None:
    found = rows(step_of([0.6, 0.0, 0.4], [4, 5, 6], chosen=6, u=0.9))
    assert [r.killed_by for r in found] == [None, "top_k", None]
    assert [r.chosen for r in found] == [False, False, True]
    assert found[1].final == 0.0


def test_bars_have_a_few_fixed_axes() -> None:
    tops = {bar_top(rows(step_of([p, 1 - p], [1, 2], 1, 0.1))) for p in np.linspace(0.5, 1.0, 30)}
    assert tops == {0.5, 1.0}
    assert bar_top(()) == 1.0


def test_the_titles_name_step_context_entropy_and_rank(qtbot: QtBot) -> None:
    bench = synthetic.Bench(synthetic.state(40))
    panel = make(qtbot, bench)
    bench.dispatch(SelectStep(6))
    panel.render(bench.state)
    run = bench.state.run
    assert run is not None
    step = run.step(6)
    assert panel.moment.text() == "step 6, after “ of a”"
    panel.resize(600, 240)
    assert panel.moment.text() == "step 6, after “ at the edge of a”"
    assert panel.readout.text() == f"{step.entropy_bits:.2f} bits · rank {step.rank}"
    assert panel.describe().startswith("Token 6 of 40")


def test_a_draw_has_a_needle_and_greedy_says_that_there_is_none(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(10)))
    assert panel.needle._u is not None
    greedy = make(qtbot, synthetic.Bench(synthetic.state(10, greedy=True)))
    assert greedy.needle._u is None
    assert greedy.needle._note == "no draw (greedy)"


def test_fifty_candidates_scroll_by_whole_rows(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(10)))
    bar = panel.bars.verticalScrollBar()
    shown = bar.pageStep()
    assert HEAD_PX + shown * ROW_PX <= panel.bars.viewport().height()
    assert bar.maximum() == 50 - shown
    first = panel.bars.row_at(HEAD_PX + 3)
    bar.setValue(5)
    later = panel.bars.row_at(HEAD_PX + 3)
    assert first is not None
    assert later is not None
    assert later.raw < first.raw


def test_a_chosen_token_further_down_takes_the_last_row(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(10)))
    final = [0.05] * 20
    panel.bars.set_rows(rows(step_of(final, list(range(20)), chosen=17, u=0.9)))
    shown = panel.bars._visible()
    assert shown[-1].chosen
    assert [r.token_id for r in shown[:-1]] == list(range(len(shown) - 1))
    bar = panel.bars.verticalScrollBar()
    bar.setValue(bar.maximum())
    assert [r.token_id for r in panel.bars._visible()] == list(range(bar.maximum(), 20))


def test_tooltips_are_escaped() -> None:
    step = step_of([0.6, 0.4], [4, 5], chosen=4, u=0.1)
    row = replace(rows(step)[0], piece="<i>")
    assert "&lt;i&gt;" in tooltip(row)
    assert f"{math.exp(step.top.logprob[0]):.6f}" in tooltip(row)


def test_the_needle_moves_with_u(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(10)))
    found = segments(step_of([0.6, 0.4], [4, 5], 4, 0.1).top, 4)
    pictures = []
    for u in (0.1, 0.5, None):
        panel.needle.show_draw(found, u, "no draw (greedy)")
        pictures.append(panel.needle.grab().toImage())
    assert pictures[0] != pictures[1]
    assert pictures[1] != pictures[2]


def test_before_the_first_step_it_says_what_will_come(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(0)))
    assert "Ctrl+Enter" in panel.bars._empty[1]
    assert not panel.needle.isVisible()
    assert panel.describe() == "No candidates yet."


SAMPLED = GenerationParams(do_sample=True)


def test_a_draw_that_is_no_place_on_the_bar_is_told_in_words() -> None:
    plain = step_of([0.6, 0.4], [1, 2], chosen=2, u=0.75)
    assert draw_text.shown(plain, SAMPLED) == (0.75, "")
    assert draw_text.shown(plain, GenerationParams()) == (None, "no draw (greedy)")
    beams = replace(plain, detail=BeamDetail(parent=0, score=-1.0))
    assert draw_text.shown(beams, SAMPLED) == (None, "drawn among the tokens of all beams: u = 0.750")


@pytest.mark.parametrize(
    ("probability", "draft", "accepted", "said"),
    [
        (0.4, 0.5, True, "draft kept: u = 0.750 < p/q = 0.800"),
        (0.2, 0.5, False, "draft refused: u = 0.750 ≥ p/q = 0.400, drawn again from the rest"),
    ],
)
def test_a_trial_of_a_drafted_token_is_told_with_both_sides(
    probability: float, draft: float, accepted: bool, said: str
) -> None:
    step = step_of([0.6, 0.4], [1, 2], chosen=2, u=0.75)
    detail = AssistedDetail("early exit", 1, 0, (2,), (" t2",), draft, probability, accepted)
    assert draw_text.shown(replace(step, detail=detail), SAMPLED) == (None, said)
    copied = replace(detail, source="prompt lookup", draft_probability=None)
    assert draw_text.shown(replace(step, detail=copied), SAMPLED) == (0.75, "")
