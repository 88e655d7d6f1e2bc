"""The tree of branches: what intents and events do to it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from app.state import acting, deleting, notices, params, select
from app.state import branch_intents as b
from app.state.branch_state import BranchNode, BranchRequest, BranchState, Key, Kind
from app.state.plan import written
from app.state.run import RunView, begin_branch
from app.state.state import EMPTY, AppState
from app.state.texts import tr
from core.contract import BranchesHeld, BranchStarted, BranchSwitched, ChatMessage, GenerationParams, StartBranch

KEPT_RUNS = 4  # with the newest one; their snapshots take a few kilobytes a token


def on_intent(state: AppState, intent: b.BranchIntent) -> AppState:
    """The state after the intent; what core has to do for it is `effects.commands`."""
    run = state.run
    if run is None:
        return state
    match intent:
        case b.ShowBranch(branch_id):
            return show(state, (run.run_id, branch_id))
        case b.MoveBranch(delta):
            keys = [key for key, _ in lanes(state)]
            place = keys.index(run.branch) + delta if run.branch in keys else 0
            return show(state, keys[place]) if 0 <= place < len(keys) else state
        case b.RenameBranch(branch_id, name):
            return _renamed(state, (run.run_id, branch_id), name.strip())
        case b.DeleteBranch(branch_id):
            return _deleted(state, run.branch if branch_id is None else (run.run_id, branch_id))
        case _:
            return _part(state, run, intent)


# -- new branches


def _part(state: AppState, run: RunView, intent: b.Parting) -> AppState:
    command, kind = _command(state, run, intent)
    if command is None:
        return state
    request, before = BranchRequest(command, kind, acts_back=acting.unused(state, run)), state.branches
    state = acting.asked_for(notices.without_errors(state))
    return replace(
        state,
        branches=replace(before, requested=request, last_id=command.branch_id),
        pace=replace(state.pace, paused=False),
        stepping=False,
    )


def _command(state: AppState, run: RunView, intent: b.Parting) -> tuple[StartBranch | None, Kind]:
    """What core is asked for; None where there is no such token."""
    steps: int | None = 0 if select.is_paused(state) else None  # who has paused wants to look at what was put there
    put: dict[str, Any] = {}
    kind: Kind
    match intent:
        case b.Rewind(index):
            position, kind, steps = _position(state, run, index), "rewind", 0
        case b.ForceToken(token_id, index):
            position, kind, put = _position(state, run, index), "force", {"token_ids": (token_id,)}
        case b.PutTokens(position, token_ids):
            kind, put = "force", {"token_ids": token_ids}
        case b.EditFrom(position, text):
            kind, put = "edit", {"text": text}
        case b.AnotherTry(index):
            position, kind, put, steps = _position(state, run, index), "try", {"reroll": next_reroll(state, run)}, None
        case b.Fork(index):
            position, kind, steps = _position(state, run, index) + 1, "fork", 0
    if not 0 <= position <= run.prompt_tokens + run.count:
        return None, kind
    command = StartBranch(
        run_id=run.run_id,
        branch_id=state.branches.last_id + 1,
        position=position,
        parent=run.branch_id,
        row=run.row,
        params=_unsent(state, run),
        max_steps=steps,
        interventions=select.as_asked(run, state.acting.interventions),
        breakpoints=state.acting.breakpoints,
        **put,
    )
    return command, kind


def _position(state: AppState, run: RunView, index: int | None) -> int:
    """Where the token with this index stands (None: the one shown); beyond the end where there is none."""
    least = 0
    if index is None:
        index, least = select.token_index(state), -run.prompt_tokens
    if index is None or not least <= index < run.count:
        return run.prompt_tokens + run.count + 1
    return run.prompt_tokens + index


def next_reroll(state: AppState, run: RunView) -> int:
    """The first number of draws that no branch of this run has used."""
    used = [view_of(state, key).started.plan.draws.reroll for key in of_run(state, run.run_id)]
    return max([run.started.plan.draws.reroll, *used]) + 1


def _unsent(state: AppState, run: RunView) -> Mapping[str, object]:
    """What was changed since the run ended: it has not been told yet."""
    node = state.branches.nodes.get(run.branch)
    if run.finish is None or node is None or node.asked is None:
        return EMPTY
    return MappingProxyType(params.differences(node.asked, select.params(state)))


def started(state: AppState, event: BranchStarted) -> AppState:
    """The new branch is shown; the one before is kept."""
    parent = view(state, (event.run_id, event.parent))
    if parent is None or state.run is None:
        return state
    request = state.branches.requested
    kind: Kind = "fork"
    own = request is not None and request.command.branch_id == event.branch_id
    run = begin_branch(parent, event)
    state = left(state)
    if request is not None and own:
        kind = request.kind
        nodes = dict(state.branches.nodes)
        nodes[parent.branch] = replace(nodes[parent.branch], acts_back=request.acts_back)
        state = replace(state, branches=replace(state.branches, nodes=MappingProxyType(nodes), requested=None))
    node = BranchNode(event.parent, event.position, kind, run)
    return _shown(state, run.branch, node, (event.reused_positions, event.recomputed_positions))


def begun(state: AppState, run: RunView) -> AppState:
    """A new run is in use, the branches of the runs before are kept; the state's `run` is set by the caller."""
    state = left(state)
    before = state.branches
    nodes = {**before.nodes, run.branch: BranchNode(None, 0, "run", run)}
    runs = sorted({run_id for run_id, _ in nodes})[-KEPT_RUNS:]
    waiting = before.requested if before.requested and before.requested.command.run_id == run.run_id else None
    return replace(
        state,
        branches=replace(
            before,
            nodes=MappingProxyType({key: node for key, node in nodes.items() if key[0] in runs}),
            memory=MappingProxyType({}),
            requested=waiting,  # a twin of this run
            reuse=None,
        ),
    )


def left(state: AppState) -> AppState:
    """What the branch in use has said and was told is put away, for when it is shown again."""
    run, before = state.run, state.branches
    if run is None or run.branch not in before.nodes:
        return state
    node = before.nodes[run.branch]
    asked = node.asked if run.finish is not None and node.asked is not None else told(state, run)
    own: dict[str, Any] = {"acts": state.acting.acts, "acts_epoch": state.acting.epoch, "acts_back": None}
    nodes = {**before.nodes, run.branch: replace(node, run=run, asked=asked, **own)}
    other = before.pairs.get(run.branch)
    if other is not None and other in nodes:  # both have been told the same, but for what is set for one of them
        values = {name: getattr(asked, name) for name in node.own}
        acts = None if node.own_acts is None else state.acting.acts
        nodes[run.branch] = replace(nodes[run.branch], own=MappingProxyType(values), own_acts=acts)
        nodes[other] = replace(nodes[other], asked=asked.replace(nodes[other].own))
    return replace(state, branches=replace(before, nodes=MappingProxyType(nodes)))


def told(state: AppState, run: RunView) -> GenerationParams:
    """The parameters that the run in use has been told; what still waits when it ends has never been."""
    never = [*state.waiting, *(state.pending if run.finish is not None else ())]
    return select.params(state).replace({name: getattr(run.params, name) for name in never})


# -- going from one to another


def show(state: AppState, key: Key) -> AppState:
    """Another branch in use, where there is one, at the step that is selected."""
    node = state.branches.nodes.get(key)
    if node is None or key in state.branches.deleted or (state.run is not None and state.run.branch == key):
        return state
    state = left(state)
    beside = state.run is not None and state.branches.pairs.get(state.run.branch) == key
    state = _shown(state, key, state.branches.nodes[key], None)
    if beside:
        return with_answer(_with_own(state, node))
    changes = {} if node.asked is None else params.differences(node.asked, select.params(state))
    changes = {name: value for name, value in changes.items() if name not in state.waiting}
    if node.run.finish is None and changes:  # the controls say what the next token will be chosen by
        epoch = state.epoch + 1
        pending = {**state.pending, **dict.fromkeys(changes, epoch)}
        state = replace(state, epoch=epoch, pending=MappingProxyType(pending))
        each = (f"{name} {written(getattr(node.asked, name))} → {written(value)}" for name, value in changes.items())
        text = tr("The next token of this branch is chosen by the parameters set now: {0}.").format(", ".join(each))
        state = notices.announce(state, "info", text)
    return with_answer(acting.taken_over(state, node.run))


def _with_own(state: AppState, node: BranchNode) -> AppState:
    """The controls show what is set for this side only; nothing is changed by that."""
    base, overrides = select.defaults(state), {**state.overrides, **node.own}
    kept = {name: value for name, value in overrides.items() if getattr(base, name) != value}
    state = replace(state, overrides=MappingProxyType(kept))
    if node.own_acts is None:
        return state
    return replace(state, acting=replace(state.acting, acts=node.own_acts, epoch=None))


def _shown(state: AppState, key: Key, node: BranchNode, reuse: tuple[int, int] | None) -> AppState:
    nodes = MappingProxyType({**state.branches.nodes, key: node})
    selected = state.selected
    if selected is not None and (reuse is not None or selected >= node.run.count):
        selected = None
    return replace(
        state,
        run=node.run,
        acting=deleting.settled(state.acting, node.run),
        branches=replace(state.branches, nodes=nodes, reuse=reuse),
        selected=selected,
        pending=EMPTY,
        waiting=state.waiting if node.run.finish is None else EMPTY,
        stepping=False,
        asked=EMPTY,
        answers=EMPTY,
        answer_floor=state.last_generation,
    )


def switched(state: AppState, event: BranchSwitched) -> AppState:
    """This branch is in use, and what going back to it cost."""
    key = event.run_id, event.branch_id
    if state.run is None or key not in state.branches.nodes:
        return state
    if state.run.branch != key:  # another one had begun before core came to it
        state = left(state)
        node = state.branches.nodes[key]
        state = with_answer(acting.taken_over(_shown(state, key, node, None), node.run, asked=False))
    reuse = event.reused_positions, event.recomputed_positions
    state = replace(state, branches=replace(state.branches, reuse=reuse))
    if event.given_up:
        text = tr("Cache and records of this batch had been given up: Recompute in a card feeds its row again.")
        return notices.announce(state, "info", text)
    if not event.recomputed_positions:
        return state
    text = tr("The cache of this branch had been given up: {0} of its positions are computed again.")
    return notices.announce(state, "info", text.format(f"{event.recomputed_positions:,}"))


def held(state: AppState, event: BranchesHeld) -> AppState:
    """The memory of each branch."""
    memory = {**state.branches.memory, **{(event.run_id, one.branch_id): one for one in event.branches}}
    return replace(state, branches=replace(state.branches, memory=MappingProxyType(memory)))


def refused(state: AppState) -> AppState:
    """The branch asked for does not begin."""
    return acting.as_it_is(replace(state, branches=replace(state.branches, requested=None)))


def forgotten(state: AppState) -> BranchState:
    """No branches: another model is in use."""
    return BranchState(last_id=state.branches.last_id)


def _renamed(state: AppState, key: Key, name: str) -> AppState:
    if key not in state.branches.nodes:
        return state
    names = {k: v for k, v in state.branches.names.items() if k != key} | ({key: name} if name else {})
    return replace(state, branches=replace(state.branches, names=MappingProxyType(names)))


def _deleted(state: AppState, key: Key) -> AppState:
    shown = [other for other, _ in lanes(state)]
    if key not in shown or len(shown) < 2:
        return notices.announce(state, "info", tr("The last branch of a run cannot be deleted."))
    if state.run is not None and state.run.branch == key:
        state = show(state, visible_parent(state, key) or next(other for other in shown if other != key))
    before = state.branches
    pairs = {k: v for k, v in before.pairs.items() if key not in (k, v)}
    deleted = before.deleted | {key}
    return replace(state, branches=replace(before, deleted=deleted, pairs=MappingProxyType(pairs)))


def with_deleted(state: AppState, deleted: frozenset[Key]) -> AppState:
    """Undo and redo: these are deleted, as far as they are not in use."""
    own = set() if state.run is None else {state.run.branch}
    return replace(state, branches=replace(state.branches, deleted=frozenset(deleted - own | state.branches.gone)))


def with_names(state: AppState, names: Mapping[Key, str]) -> AppState:
    """Undo and redo: these names."""
    return replace(state, branches=replace(state.branches, names=names))


# -- reading


def view(state: AppState, key: Key) -> RunView | None:
    """What a branch said, as far as it is known; None where there is no such branch."""
    if state.run is not None and state.run.branch == key:
        return state.run
    node = state.branches.nodes.get(key)
    return None if node is None else node.run


def view_of(state: AppState, key: Key) -> RunView:
    """The same of a branch that there is."""
    run = view(state, key)
    assert run is not None
    return run


def with_view(state: AppState, run: RunView) -> AppState:
    """Something that a branch said after it was left."""
    node = state.branches.nodes.get(run.branch)
    if node is None:
        return state
    nodes = {**state.branches.nodes, run.branch: replace(node, run=run)}
    return replace(state, branches=replace(state.branches, nodes=MappingProxyType(nodes)))


def of_run(state: AppState, run_id: int) -> list[Key]:
    """The branches of a run, deleted ones too, in the order in which they began."""
    return sorted(key for key in state.branches.nodes if key[0] == run_id)


def visible_parent(state: AppState, key: Key) -> Key | None:
    """The nearest branch that this one comes from and that is shown."""
    nodes, deleted = state.branches.nodes, state.branches.deleted
    while (parent := nodes[key].parent) is not None:
        key = (key[0], parent)
        if key not in deleted:
            return key
    return None


def lanes(state: AppState) -> list[tuple[Key, int]]:
    """The branches shown of the run in use, each below the one it comes from, and how deep they are."""
    if state.run is None:
        return []
    shown = [key for key in of_run(state, state.run.run_id) if key not in state.branches.deleted]
    parents = {key: visible_parent(state, key) for key in shown}

    def below(parent: Key | None, depth: int) -> Iterator[tuple[Key, int]]:
        for key in shown:
            if parents[key] == parent:
                yield key, depth
                yield from below(key, depth + 1)

    return list(below(None, 0))


def with_answer(state: AppState) -> AppState:
    """In a chat: the turn that another branch had answered is answered by the one in use."""
    run, draft = state.run, state.draft
    if run is None or run.finish is None or not draft.turns or draft.turns[-1].role != "assistant":
        return state
    ends = [view_of(state, key).finish for key in of_run(state, run.run_id)]
    texts = {end.texts[0] for end in ends if end is not None}
    text = run.finish.texts[0]
    if draft.turns[-1].content not in texts or draft.turns[-1].content == text or not text.strip():
        return state
    turns = (*draft.turns[:-1], ChatMessage("assistant", text))
    return replace(state, draft=replace(draft, turns=turns, generation=draft.generation + 1))
