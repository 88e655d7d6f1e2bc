"""`tokenglass plan`: what a run would do, for people and for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from core.contract import GenerationPlan, PlanLine, PlanStep, plan_steps

_NAME, _VALUE = 28, 30  # columns, at least


def as_text(plan: GenerationPlan) -> str:
    """The ten steps, a line for each decision, warnings marked."""
    return "\n\n".join(map(_step, plan_steps(plan)))


def _step(step: PlanStep) -> str:
    title = f"{step.number}. {step.title}"
    lines = [title if not step.summary else f"{title}: {step.summary}"]
    lines += [_line(line) for line in step.lines]
    lines += [f"   ! {warning}" for warning in step.warnings]
    return "\n".join(lines)


def _line(line: PlanLine) -> str:
    return f"   {line.name:<{_NAME}} {line.value:<{_VALUE}} {line.reason}".rstrip()


def plan_object(plan: GenerationPlan) -> dict[str, Any]:
    """The object that `--json` prints: the plan as it is, and its ten steps in words."""
    facts = dataclasses.asdict(plan)
    facts["warnings"] = [sentence for _, sentence in plan.warnings]
    return {**facts, "steps": [dataclasses.asdict(step) for step in plan_steps(plan)]}
