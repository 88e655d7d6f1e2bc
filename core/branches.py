"""The tree of a run: its branches, which of them is in use, and who gives memory back first.

Only the worker thread calls it. The branches of runs before are kept as tokens, so that one can go back to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from core.contract.branches import BranchesHeld, BranchMemory, BranchStarted, BranchSwitched, StartBranch
from core.contract.errors import PromptError
from core.contract.events import RunFinished
from core.contract.twins import StartTwin

if TYPE_CHECKING:
    from core.decode.session import Session
    from core.models.loaded import LoadedModel

KEPT_RUNS = 8  # runs before the newest one, as tokens
Key = tuple[int, int]  # run, branch


@dataclass
class Node:
    """A branch. left_at: when it was left, in seconds of `perf_counter`; what it waits does not count as its time."""

    session: Session
    left_at: float | None = None


class Branches:
    """All branches there are, the one used longest ago first."""

    def __init__(self) -> None:
        self._nodes: dict[Key, Node] = {}
        self._current: Key | None = None
        self._twins: dict[Key, Key] = {}  # each of two that go on together → the other one
        self._differ: dict[Key, frozenset[str]] = {}  # in what they differ

    @property
    def current(self) -> Session | None:
        """The branch in use."""
        return None if self._current is None else self._nodes[self._current].session

    @property
    def together(self) -> tuple[Session, ...]:
        """The branch in use, and the one that goes on beside it."""
        return tuple(self._nodes[key].session for key in self._keys_together())

    def in_turn(self) -> Session:
        """Which of them goes next: who has said less, the older one first."""
        going = [session for session in self.together if not session.finished]
        return min(going, key=lambda session: (session.new_tokens, session.branch_id))

    def owes(self, stepped: Session) -> bool:
        """Whether the other one has yet to take the step that this one has taken."""
        others = (session for session in self.together if session is not stepped and not session.finished)
        return any(o.branch_id > stepped.branch_id and o.new_tokens < stepped.new_tokens for o in others)

    def own_settings(self, session: Session) -> frozenset[str]:
        """What is set for one side only, see `StartTwin`; nothing for the branch in use, which is the one meant."""
        if session is self.current or self._current is None:
            return frozenset()
        return self._differ.get(self._current, frozenset())

    def find(self, run_id: int, branch_id: int) -> Session | None:
        """A branch, whichever is in use."""
        node = self._nodes.get((run_id, branch_id))
        return None if node is None else node.session

    def begin(self, session: Session) -> list[Session]:
        """A new run, with `session` as its first branch. Those of the runs before keep nothing but their tokens.

        Returns those that this ends, because they cannot be fed again.
        """
        for key in [key for key in self._nodes if key[0] == session.run_id]:
            self._part_twins(key)
            self._nodes.pop(key).session.close()  # the number is used again
        ended = [node.session for node in self._nodes.values() if _give_up_all(node)]
        self._use((session.run_id, session.branch_id), Node(session))
        runs = list(dict.fromkeys(run for run, _ in self._nodes))
        for key in [key for key in self._nodes if key[0] in runs[: -KEPT_RUNS - 1]]:
            self._part_twins(key)
            self._nodes.pop(key).session.close()
        return ended

    def forget_model(self, loaded: LoadedModel) -> list[Key]:
        """Forget the branches that run on a model, so that its memory comes back; not those in use."""
        kept = self._keys_together()
        keys = [key for key, node in self._nodes.items() if node.session.loaded is loaded and key not in kept]
        for key in keys:
            self._part_twins(key)
            self._nodes.pop(key).session.close()
        return keys

    def part(
        self, command: StartBranch, cancelled: Callable[[], bool], paused_at: float | None
    ) -> tuple[Session, BranchStarted]:
        """A new branch, which is in use from now on. Raises `PromptError` or `ParameterError`.

        paused_at: since when the one before waits, if it does.
        """
        from core.decode.branch import begin_branch

        parent = self._node(command.run_id, command.parent)
        if (command.run_id, command.branch_id) in self._nodes:
            raise PromptError(f"There is a branch {command.branch_id} already; take another number.")
        session, started = begin_branch(parent.session, command, cancelled, self._others(parent.session))
        self._leave(paused_at)
        self._use((session.run_id, session.branch_id), Node(session))
        return session, started

    def pair(self, command: StartTwin, cancelled: Callable[[], bool], loaded: LoadedModel | None) -> BranchStarted:
        """A twin beside the branch in use.

        Raises `PromptError` or `ParameterError`.
        """
        from core.decode.twin import begin_twin

        beside = self._node(command.run_id, command.beside).session
        if (command.run_id, command.branch_id) in self._nodes:
            raise PromptError(f"There is a branch {command.branch_id} already; take another number.")
        session, started = begin_twin(beside, command, cancelled, self._others(beside), loaded)
        ours, theirs = (command.run_id, command.beside), (command.run_id, command.branch_id)
        self._nodes[theirs] = Node(session)
        for key in (ours, theirs):
            self._part_twins(key)
            self._differ[key] = frozenset(command.own_settings)
        self._twins |= {ours: theirs, theirs: ours}
        return started

    def unpair(self) -> None:
        """The branch in use goes on alone."""
        if self._current is not None:
            self._part_twins(self._current)

    def _part_twins(self, key: Key) -> None:
        other = self._twins.pop(key, None)
        if other is not None:
            self._twins.pop(other, None)
            for one in {key, other} - {self._current}:
                if one in self._nodes and self._nodes[one].left_at is None:
                    self._nodes[one].left_at = perf_counter()

    def switch(
        self, run_id: int, branch_id: int, paused_at: float | None
    ) -> tuple[Session, BranchSwitched, float | None]:
        """Use another branch; also returns since when it waits. Raises `PromptError`."""
        from core.decode.branch import was_given_up

        node = self._node(run_id, branch_id)
        self._leave(paused_at)
        session, since = node.session, node.left_at
        self._use((run_id, branch_id), node)
        reused, missing = self._restore(node)
        for key in self._keys_together()[1:]:
            self._nodes[key].left_at = None
            self._restore(self._nodes[key])
        return session, BranchSwitched(run_id, branch_id, reused, missing, was_given_up(session)), since

    def is_beside(self, run_id: int, branch_id: int) -> bool:
        """Whether a branch goes on beside the one in use."""
        return (run_id, branch_id) in self._keys_together()[1:]

    def drop(self, run_id: int, branch_id: int) -> Session | None:
        """Give a branch's memory back; returns it if this ends it. Raises `PromptError`."""
        node = self._node(run_id, branch_id)
        if (run_id, branch_id) == self._current:
            raise PromptError("The branch in use cannot be dropped; switch to another one first.")
        self._part_twins((run_id, branch_id))
        return node.session if _give_up_all(node, self._starts(node.session)) else None

    def clear(self) -> None:
        """Forget everything."""
        nodes, self._nodes, self._current = self._nodes, {}, None
        self._twins, self._differ = {}, {}
        for node in nodes.values():
            node.session.close()

    def trim(self) -> bool:
        """Keep to the budget: caches first, then records, the branch used longest ago first. Whether any gave way."""
        from core.decode.branch import give_up_cache

        current = self.current
        if current is None or len(self._nodes) < 2:
            return False
        budget, gave = current.spec.branch_budget_bytes, False
        idle = [node for key, node in self._nodes.items() if key not in self._keys_together()]
        for give_up in (give_up_cache, lambda session: _give_up_records(session, self._starts(session))):
            for node in idle:
                if self._idle_bytes() <= budget:
                    return gave
                if _can_be_fed_again(node.session):
                    give_up(node.session)
                    gave = True
        return gave

    def held(self) -> BranchesHeld | None:
        """What the branches of the run in use hold; None where there is only one."""
        if self._current is None:
            return None
        run_id = self._current[0]
        if sum(run == run_id for run, _ in self._nodes) < 2:
            return None
        return BranchesHeld(run_id, tuple(memory for key, memory in self._memory() if key[0] == run_id))

    # -- inside

    def _keys_together(self) -> tuple[Key, ...]:
        if self._current is None:
            return ()
        other = self._twins.get(self._current)
        return (self._current,) if other is None else (self._current, other)

    def _leave(self, paused_at: float | None) -> None:
        for key in self._keys_together():
            self._nodes[key].left_at = perf_counter() if paused_at is None else paused_at

    def _use(self, key: Key, node: Node) -> None:
        self._nodes.pop(key, None)
        self._nodes[key] = node  # the one used last is the last one
        node.left_at = None
        self._current = key

    def _node(self, run_id: int, branch_id: int) -> Node:
        node = self._nodes.get((run_id, branch_id))
        if node is None:
            raise PromptError(f"There is no branch {branch_id} of this run any more.")
        return node

    def _others(self, session: Session) -> tuple[Session, ...]:
        return tuple(node.session for node in self._nodes.values() if node.session is not session)

    def _restore(self, node: Node) -> tuple[int, int]:
        """Take over what others hold of a cache that was given up; positions held, and those to be fed."""
        from core.decode.branch import take_cache
        from core.decode.kv import cache_length

        session = node.session
        padding = session.rows[0].padding
        if session.refill_to > cache_length(session.cache):
            held = take_cache(session, self._others(session))
            return held, max(0, session.refill_to - padding - held)
        return max(0, cache_length(session.cache) - padding), 0

    def _starts(self, session: Session) -> int:
        """The first slot of a session's own records that nobody continues."""
        starts = [
            other.trace.start
            for other in self._others(session)
            if other.trace is not None and other.trace.parent is session.trace
        ]
        return max(starts, default=0)

    def _idle_bytes(self) -> int:
        together = self._keys_together()
        return sum(m.cache_bytes + m.record_bytes for key, m in self._memory() if key not in together)

    def _memory(self) -> Iterator[tuple[Key, BranchMemory]]:
        from core.decode.branch import was_given_up
        from core.decode.kv import cache_length, storages

        seen: set[int] = set()
        for key in sorted(self._nodes):
            session = self._nodes[key].session
            held = storages(session.cache)
            for beside in session.caches_beside:
                held |= storages(beside)
            own = sum(count for address, count in held.items() if address not in seen)
            seen |= held.keys()
            records = sum(trace.own_nbytes for trace in session.traces)
            positions = max(0, max(cache_length(session.cache), session.refill_to) - session.rows[0].padding)
            cached = session.refill_to == 0 and not was_given_up(session)
            yield key, BranchMemory(key[1], positions, own, records, cached)


def _can_be_fed_again(session: Session) -> bool:
    """Of a batch, rows have left; the candidates of contrastive search are more than what was said."""
    return len(session.rows) == 1 and not session.mode.moves_lanes


def _give_up_all(node: Node, keep: int | None = None) -> bool:
    """Cache and records, but for those before slot `keep` that others continue.

    Whether this ends it, because it cannot be fed again.
    """
    from core.decode.branch import give_up_cache, give_up_rows

    session = node.session
    if _can_be_fed_again(session):
        give_up_cache(session)
        _give_up_records(session, keep)
        return False
    ends = not session.finished
    session.cancel()
    give_up_rows(session)
    return ends


def _give_up_records(session: Session, keep: int | None) -> None:
    """Records from slot `keep` on; they come back when the positions are fed again."""
    from core.decode.branch import give_up_records

    give_up_records(session, keep)


def broken_off(session: Session) -> RunFinished:
    """The end of a run that cannot even say what it has made."""
    return RunFinished(
        run_id=session.run_id,
        finish_reason="cancelled",
        finish_reasons=("cancelled",),
        texts=("",),
        sequences=((),),
        prompt_tokens=(0,),
        new_tokens=0,
        ttft_ms=None,
        tokens_per_s=None,
        error=None if session.error is None else session.error.report(),
        branch_id=session.branch_id,
    )
