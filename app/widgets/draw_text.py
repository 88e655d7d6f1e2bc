"""What a step's draw decided, in words, and whether it is a place on the cumulative bar of its candidates."""

from __future__ import annotations

from app.state.texts import tr
from core.contract import AssistedDetail, BeamDetail, GenerationParams, StepSnapshot


def shown(step: StepSnapshot, params: GenerationParams) -> tuple[float | None, str]:
    """The number to point at on the bar, or None and what is said instead."""
    u, detail = step.u, step.detail
    if step.put:
        return None, tr("put there, not chosen")
    if not params.samples:
        return None, tr("no draw (greedy)") if params.mode == "greedy_search" else tr("no draw in this mode")
    if u is None:
        return None, tr("no draw to show (drawn by torch’s generator)")
    if isinstance(detail, BeamDetail):  # over the continuations of all beams, without those drawn before
        return None, tr("drawn among the tokens of all beams: u = {0}").format(f"{u:.3f}")
    if isinstance(detail, AssistedDetail) and detail.draft_probability is not None:
        return None, _trial(detail, u)
    return u, ""


def _trial(detail: AssistedDetail, u: float) -> str:
    """Speculative sampling keeps a drafted token if u · q < p (Leviathan et al. 2023)."""
    p, q = detail.probability or 0.0, detail.draft_probability or 0.0
    numbers = f"{u:.3f}", f"{p / q if q else float('inf'):.3f}"
    if detail.accepted:
        return tr("draft kept: u = {0} < p/q = {1}").format(*numbers)
    return tr("draft refused: u = {0} ≥ p/q = {1}, drawn again from the rest").format(*numbers)
