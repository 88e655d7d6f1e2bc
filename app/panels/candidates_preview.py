"""The preview at the candidates: what is asked of core, and what its answer says. Pure functions."""

from __future__ import annotations

from app.state import select
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.widgets import numbers
from core.contract import InterventionAnswer, InterventionQuery

SLOT = "candidates.preview"


def query_of(state: AppState) -> InterventionQuery | None:
    """What would follow at the shown step under the interventions of the list; None without preview."""
    run, index = state.run, select.chosen_index(state)
    if run is None or index is None or not state.acting.preview:
        return None
    position = select.query_position(run, index)
    asked = select.as_asked(run, state.acting.interventions)
    return InterventionQuery(run.run_id, position, asked, **run.place.named)


def answer_of(state: AppState, query: InterventionQuery | None) -> InterventionAnswer | None:
    """The answer to exactly this question, if it is there."""
    got = select.answer(state, SLOT)
    if query is None or got is None or not isinstance(got.answer, InterventionAnswer) or got.answer.query != query:
        return None
    return got.answer


def problem_of(state: AppState) -> str:
    """Why there is no preview; empty where there is one, or while it is made."""
    got = select.answer(state, SLOT)
    return "" if got is None or got.error is None else got.error.message


def readout(run: RunView, index: int, answer: InterventionAnswer) -> tuple[str, ...]:
    """How much changed, in fewer and fewer words."""
    kl = tr("KL {0} bits").format(numbers.significant(answer.kl_bits))
    before, after = (numbers.significant(bits) for bits in (answer.entropy_before_bits, answer.entropy_after_bits))
    least = tr("KL {0}").format(numbers.significant(answer.kl_bits))
    return (f"{kl} · " + tr("{0} → {1} bits").format(before, after), kl, least)
