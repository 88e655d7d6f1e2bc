"""The branches of the run in use, as the strip and its table show them. Pure, no Qt."""

from __future__ import annotations

import math
from html import escape

from app.state import branches, select
from app.state.branch_state import Key
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.widgets import numbers
from app.widgets.branch_strip import BranchLane
from app.widgets.table_data import Column, Table
from app.widgets.visible_text import one_line
from core.contract import StepSnapshot, words

KINDS = {
    "run": "run",
    "rewind": "rewound",
    "force": "forced",
    "edit": "edited",
    "try": "another try",
    "fork": "fork",
    "twin": "twin",
}
LONGEST = 40


def name_of(state: AppState, key: Key, number: int | None = None) -> str:
    """What the user calls it, else its number and how it began."""
    given = state.branches.names.get(key)
    if given:
        return given
    kind = tr(KINDS[state.branches.nodes[key].kind])
    return kind if key[1] == 0 else f"{number_of(state, key) if number is None else number} · {kind}"


def number_of(state: AppState, key: Key) -> int:
    """The branches of a run are counted from 1, deleted ones too, so that none changes its number or colour."""
    return branches.of_run(state, key[0]).index(key)


def first_own(run: RunView) -> StepSnapshot | None:
    """The token with which it parts."""
    return run.step(run.kept) if run.count > run.kept else None


def lanes(state: AppState) -> list[BranchLane]:
    """Every branch shown, each below the one it comes from."""
    shown = branches.lanes(state)
    rows = {key: row for row, (key, _) in enumerate(shown)}
    numbers_of = {key: number for number, key in enumerate(branches.of_run(state, shown[0][0][0]))} if shown else {}
    return [_lane(state, key, rows, numbers_of[key]) for key, _ in shown]


def _lane(state: AppState, key: Key, rows: dict[Key, int], number: int) -> BranchLane:
    run, node = branches.view_of(state, key), state.branches.nodes[key]
    parent = branches.visible_parent(state, key)
    step = None if node.parent is None else first_own(run)
    probability = "" if step is None else numbers.probability(math.exp(step.logprob))
    return BranchLane(
        branch_id=key[1],
        name=name_of(state, key, number),
        colour=number,
        parent=None if parent is None else rows[parent],
        begins=_begins(state, key),
        ends=run.prompt_tokens + run.count,
        token="" if step is None else one_line(step.piece[:LONGEST]),
        probability=probability,
        memory=memory_text(state, key),
        tooltip=_tooltip(state, key, name_of(state, key, number), step, probability),
        going=run.finish is None,
    )


def _begins(state: AppState, key: Key) -> int:
    """Where it parts from the nearest branch that is shown."""
    nodes, deleted, begins = state.branches.nodes, state.branches.deleted, []
    while (parent := nodes[key].parent) is not None:
        begins.append(nodes[key].position)
        key = (key[0], parent)
        if key not in deleted:
            break
    return min(begins, default=0)


def memory_text(state: AppState, key: Key) -> str:
    """Bytes of cache and records, that it has none of its own, or that the cache was given up."""
    memory = state.branches.memory.get(key)
    if memory is None:
        return ""
    if not memory.cached:
        return tr("given up")
    own = memory.cache_bytes + memory.record_bytes
    return numbers.byte_count(own) if own or not memory.positions else tr("shared")


def _tooltip(state: AppState, key: Key, name: str, step: StepSnapshot | None, probability: str) -> str:
    node, memory, run = state.branches.nodes[key], state.branches.memory.get(key), branches.view_of(state, key)
    lines = [name, tr("{0} tokens generated").format(f"{run.count:,}")]
    if node.parent is not None:
        lines.append(tr("parts at position {0}").format(f"{node.position:,}"))
    if step is not None:
        how = tr("put there, probability {0}") if step.put else tr("chosen, probability {0}")
        lines.append(f"{one_line(step.piece[:LONGEST])}: " + how.format(probability.strip()))
    acts = acts_text(run)
    if acts:
        lines.append(acts)
    if run.started.plan.draws.reroll:
        lines.append(tr("draws number {0}").format(run.started.plan.draws.reroll))
    if memory is not None:
        lines.append(tr("cache {0}").format(numbers.byte_count(memory.cache_bytes)))
        lines.append(tr("records {0}").format(numbers.byte_count(memory.record_bytes)))
        if not memory.cached and memory.positions:
            lines.append(tr("The cache was given up; it is computed again when you go there."))
        elif not memory.cached:
            lines.append(tr("Cache and records were given up; Recompute in a card feeds a row again."))
    lines.append(tr("ended") if run.finish is not None else tr("not ended"))
    return "<p style='white-space:pre'>" + "<br>".join(map(escape, lines)) + "</p>"


def acts_text(run: RunView) -> str:
    """The interventions under which its newest token was chosen; before its first own one, those of the next."""
    asked = select.interventions(run, run.count - 1 if run.count > run.kept else None)
    return ", ".join(map(words, asked))


def table(state: AppState) -> Table:
    """The same in numbers, a row for each branch."""
    keys = [key for key, _ in branches.lanes(state)]
    shown, held = lanes(state), [state.branches.memory.get(key) for key in keys]
    in_use = None if state.run is None or state.run.branch not in keys else keys.index(state.run.branch)
    return Table(
        (
            Column(tr("branch"), [lane.name for lane in shown], numeric=False),
            Column(tr("parts at"), [lane.begins for lane in shown], "{:,}".format),
            Column(tr("token"), [lane.token for lane in shown], numeric=False),
            Column(tr("probability"), [lane.probability.strip() for lane in shown], numeric=False),
            Column(tr("tokens"), [branches.view_of(state, key).count for key in keys], "{:,}".format),
            Column(tr("interventions"), [acts_text(branches.view_of(state, key)) for key in keys], numeric=False),
            Column(tr("cache"), [0 if m is None else m.cache_bytes for m in held], numbers.byte_count),
            Column(tr("records"), [0 if m is None else m.record_bytes for m in held], numbers.byte_count),
        ),
        len(shown),
        (tuple(keys), tuple(lane.ends for lane in shown), tuple(held), tuple(lane.tooltip for lane in shown)),
        in_use,
    )


def describe(state: AppState) -> str:
    """The branches in words."""
    shown = lanes(state)
    if len(shown) < 2 or state.run is None:
        return tr("No branches.")
    return tr("{0} branches, {1} is shown.").format(len(shown), name_of(state, state.run.branch))


def selected_position(state: AppState) -> int | None:
    """Where the selected step stands in the sequence."""
    index = select.token_index(state)
    if state.run is None or state.selected is None or index is None:
        return None
    return state.run.prompt_tokens + index
