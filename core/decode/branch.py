"""A branch: a session that begins with what another one said up to a position, and says something else there.

It is what a fresh run would be that had said the same so far: kept tokens count as generated, draws are those of the
row it parted from. Nothing of what both have in common is computed again: the cache is forked (copy on write), the
records are segments with a parent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from core.contract.branches import BranchStarted, StartBranch
from core.contract.cache import CacheSpec
from core.contract.errors import ParameterError, PromptError, ViewUnavailableError
from core.contract.events import PromptRow
from core.contract.interventions import of_row
from core.contract.specs import Prompt, RunSpec
from core.decode import prepare
from core.decode.kv import cache_length, fork_row
from core.decode.rows import Row
from core.models.loaded import LoadedModel
from core.trace.path import Path
from core.trace.record import Trace

if TYPE_CHECKING:
    from core.decode.session import Session


@dataclass(frozen=True)
class Parting:
    """Where a branch parts from a row of `parent`, which may be a branch itself.

    prompt: its own, another one than the row's where it parts inside the prompt. kept: generated tokens it begins
    with. put: tokens it says next. position: tokens of the row that it has in common, prompt included; asked: where it
    was asked to part, from where on its interventions act, even on what turned out to be the same.
    donors: other branches whose cache may hold what the parent's does not hold any more.
    """

    parent: Session
    row: Row
    prompt: PromptRow
    kept: tuple[int, ...]
    put: tuple[int, ...]
    position: int
    asked: int
    donors: tuple[Session, ...] = ()


def begin_branch(
    parent: Session,
    command: StartBranch,
    cancelled: Callable[[], bool] = lambda: False,
    donors: Iterable[Session] = (),
    loaded: LoadedModel | None = None,
    cache: CacheSpec | None = None,
) -> tuple[Session, BranchStarted]:
    """The branch, not advanced yet. Raises `PromptError` or `ParameterError`; `parent` is never changed.

    loaded, cache: the model it runs on and the kind of its cache, the parent's if None; of another one nothing can be
    taken over.
    """
    from core.decode.session import Session

    parting = _parting(parent, command, tuple(donors))
    spec = _spec(parent, command, parting)
    spec = spec if cache is None else dataclasses.replace(spec, cache=cache)
    _check_mode(parent, spec)
    branch = Session(
        loaded or parent.loaded,
        spec,
        run_id=parent.run_id,
        branch_id=command.branch_id,
        cancelled=cancelled,
        assistant=parent.assistant,
        extras=dataclasses.replace(parent.extras, inputs_embeds=None, past=None),
        parting=parting,
    )
    kept, most = len(parting.kept), branch.params.max_new_tokens
    if kept + len(parting.put) > most or kept == most:
        raise ParameterError(
            f"The branch would begin with {kept + len(parting.put):,} tokens, but max_new_tokens is {most:,}; raise it."
        )
    padding = branch.rows[0].padding
    return branch, BranchStarted(
        run_id=parent.run_id,
        branch_id=command.branch_id,
        parent=parent.branch_id,
        row=command.row,
        position=parting.position,
        kept_tokens=kept,
        put=parting.put,
        started=branch.started,
        padding=padding,
        reused_positions=branch.reused,
        recomputed_positions=branch.opening_slots - padding - branch.reused,
    )


def _spec(parent: Session, command: StartBranch, parting: Parting) -> RunSpec:
    """The parent's, with everything that was changed while it ran. Deleted is what was so where it parts."""
    changed = {name: getattr(parent.asked, name) for name in parent.changed}
    mode = parent.spec.mode if not command.params else None
    if mode is None and parent.spec.mode is not None:
        changed = {"do_sample": parent.asked.do_sample, **changed}
    asked = parent.acts.now.asked if command.interventions is None else command.interventions
    asked = parent.acts.parted(parting.row.padding + command.position - 1, asked)
    copies = max(1, len(parent.rows) // parent.prompt_count)
    return dataclasses.replace(
        parent.spec,
        prompts=parent.spec.prompts[command.row // copies :][:1],
        params={**parent.spec.params, **changed, **command.params},
        preset=frozenset(parent.spec.preset - changed.keys() - command.params.keys()),
        mode=mode,
        reroll=parent.spec.reroll if command.reroll is None else command.reroll,
        reuse_prefix=False,
        max_steps=command.max_steps,
        interventions=of_row(asked, command.row),
        breakpoints=parent.breaks.asked if command.breakpoints is None else command.breakpoints,
    )


def _check_mode(parent: Session, spec: RunSpec) -> None:
    params = prepare.resolve_params(parent.loaded, spec)
    name = params.infer_mode(parent.assistant is not None)
    if "beam" in name:
        raise ParameterError(_BEAMS)
    if spec.draw_source == "torch" and params.samples:
        raise ParameterError(
            "torch's generator cannot be set back to a token, so a branch would draw other numbers; take draw_source "
            "counter."
        )


_BEAMS = (
    "Beams are chosen together, so no branch can part from one of them; take greedy_search or sample, and run again."
)


def _parting(parent: Session, command: StartBranch, donors: tuple[Session, ...]) -> Parting:
    if parent.embeds is not None:
        raise PromptError("A run that began with embeddings has no branches; begin it with tokens.")
    if parent.mode.has_beams:  # while they run there are no rows yet
        raise ParameterError(_BEAMS)
    row = next((row for row in parent.rows if row.index == command.row), None)
    if row is None:
        raise PromptError(f"There is no row {command.row}; the run has {len(parent.rows)}.")
    prompt, position = row.prompt.token_ids, command.position
    length = len(prompt) + len(row.token_ids)
    if not 0 <= position <= length:
        raise PromptError(f"There is no position {position:,}; the sequence has {length:,} tokens.")
    before = (*prompt, *row.token_ids)[:position]
    put = _put(parent.loaded, before, command)
    if position >= len(prompt):
        return Parting(parent, row, row.prompt, before[len(prompt) :], put, position, position, donors)
    # Tokens that happen to be the same are in common, too.
    while put and position < len(prompt) and put[0] == prompt[position]:
        before, put, position = (*before, put[0]), put[1:], position + 1
    return Parting(parent, row, _prompt(parent.loaded, (*before, *put)), (), (), position, command.position, donors)


def _put(loaded: LoadedModel, before: tuple[int, ...], command: StartBranch) -> tuple[int, ...]:
    """The tokens that are said instead. Raises `PromptError` or `ParameterError`."""
    info = loaded.info
    if command.text is not None:
        return tuple(encode_after(loaded, before, command.text))
    unknown = next((i for i in command.token_ids if not 0 <= i < info.output_size), None)
    if unknown is not None:
        raise ParameterError(f"Token id {unknown} does not exist; {info.title} knows ids 0 to {info.output_size - 1}.")
    return tuple(command.token_ids)


def encode_after(loaded: LoadedModel, before: tuple[int, ...], text: str) -> list[int]:
    """The tokens of `text` as a continuation of `before`. Raises `PromptError`."""
    domain = loaded.text
    if not text:
        return []
    if not before:
        return domain.encode(text)
    ids = domain.encode(text, add_special_tokens=False)
    if _continuation(loaded, before, ids) == text:
        return ids
    # Some tokenizers put a space in front of a text: it is encoded after something that is then left out.
    anchor = domain.encode("\n", add_special_tokens=False)
    anchored = domain.encode("\n" + text, add_special_tokens=False)
    if anchored[: len(anchor)] == anchor and _continuation(loaded, before, anchored[len(anchor) :]) == text:
        return anchored[len(anchor) :]
    return ids


def _continuation(loaded: LoadedModel, before: tuple[int, ...], ids: list[int]) -> str:
    stream = loaded.text.stream(before)
    return "".join([*map(stream.push, ids), stream.flush()])


def _prompt(loaded: LoadedModel, ids: tuple[int, ...]) -> PromptRow:
    if not ids:
        raise PromptError("Nothing would be left of the prompt; keep a token, or put one there.")
    return prepare.runnable(loaded, prepare.tokenize(loaded, Prompt(ids=ids)))


# -- what the session's constructor calls


def continue_row(run: Session, parting: Parting) -> None:
    """The only row of the branch begins with what it keeps, and says next what was put there."""
    row, source = run.rows[0], parting.row
    run.first_row = parting.parent.first_row + source.index
    run.put = list(parting.put)
    kept = len(parting.kept)
    before = [since for since in parting.parent.rerolls_since if since[0] < kept]
    run.rerolls_since = [*before, (kept, run.spec.reroll)]
    row.token_ids = list(parting.kept)
    link = source.link if kept else None
    for _ in range(len(source.token_ids) - kept if kept else 0):
        assert link is not None  # as long as the tokens
        link = link.before
    row.link = link
    row.ends = source.ends[:kept]
    row.text = source.text[: row.ends[-1]] if kept else ""
    # Tokens since the last one that completed any text may be bytes of an unfinished character.
    told = next((n for n in range(kept, 0, -1) if row.ends[n - 1] > (row.ends[n - 2] if n > 1 else 0)), 0)
    row.stream = run.loaded.text.stream((*parting.prompt.token_ids, *parting.kept[:told]))
    for token_id in parting.kept[told:]:
        row.stream.push(token_id)
    row.stop.resume(row.text, run.params)
    if kept:
        run.ids = torch.cat([run.ids, run.ids.new_tensor([parting.kept])], dim=1)  # (1, T)


def take_over(run: Session, parting: Parting) -> int:
    """Records and cache of what is in common; returns the positions that need not be fed again."""
    row, source, parent = run.rows[0], parting.row, parting.parent
    if run.loaded is not parent.loaded or run.spec.cache != parent.spec.cache:
        return 0  # everything is fed by itself, under its own interventions
    common = min(row.padding + parting.position, run.ids.shape[1] - 1)
    own = min(common, row.padding + parting.asked)
    run.acts.take(parent.acts, own, source.index)
    if run.acts.differs(parent.acts, own, common, source.index):
        common = own  # the same tokens, but fed under other interventions
    if run.spec.cache.kind == "heavy_hitters" and common < run.prompt_slots:
        common -= common % run.spec.prefill_chunk  # a chunk is fed as a whole, or others are kept
        own = min(own, common)
        run.acts.take(parent.acts, own, source.index)
    run.past_slots = common
    if run.mode.moves_lanes:
        return 0  # it compares with hidden states that nobody keeps
    if run.trace is not None:
        if parent.trace is None or was_given_up(parent):
            return 0
        common = min(common, parent.trace.stop if source.fed is None else min(source.fed, parent.trace.stop))
        run.trace = parent.trace.fork(common)
        row.path = source.path.moved(common, 0)
        run.acts.take(parent.acts, min(own, common), source.index)
        run.past_slots = common
    best, lane, held = parent, 0, 0
    for session in (parent, *(donor for donor in parting.donors if donor.loaded is run.loaded)):
        at, count = _held(session, run, common, source if session is parent else None)
        if count > held:
            best, lane, held = session, at, count
    if held:
        run.cache = fork_row(best.cache, lane, held, run.limit)
    if held == common:
        run.forward.delete(run.cache)
    return max(0, held - row.padding)


def continue_others(run: Session, parting: Parting) -> None:
    """What else was fed goes on, too: the negative prompt's stream, the draft model."""
    run.mode.continue_from(parting.parent.mode, min(parting.position, run.ids.shape[1] - 1))
    ours, theirs = run.guidance, parting.parent.guidance
    if ours is not None and theirs is not None and not run.several and parting.kept:
        ours.continue_from(theirs, run)


def _held(session: Session, run: Session, most: int, source: Row | None) -> tuple[int, int]:
    """The lane of a session that holds the first slots of `run`, and how many of them."""
    if session.spec.cache != run.spec.cache:
        return 0, 0
    most = min(most, cache_length(session.cache), session.ids.shape[1])
    if source is not None:
        lane = next((number for number, lane in enumerate(session.lanes) if lane is source), None)
        return (0, 0) if lane is None else (lane, _reusable(session, lane, run, most))
    alone = len(session.rows) == 1 and not session.mode.moves_lanes
    if run.spec.cache.kind == "heavy_hitters" and session.prompt_slots != run.prompt_slots:
        return 0, 0  # fed in other portions, it kept others
    if not alone or session.rows[0].padding != run.rows[0].padding or most == 0:
        return 0, 0
    until = run.acts.same_until(session.acts)  # fed under other interventions it holds something else
    most = most if until is None else min(most, until)
    same = int((session.ids[0, :most] == run.ids[0, :most]).int().cumprod(0).sum())
    return 0, _reusable(session, 0, run, same)


def _reusable(session: Session, lane: int, run: Session, most: int) -> int:
    """How many slots of a lane `run` can begin with, which has deleted nothing but what it has deleted there, too."""
    padding = run.rows[0].padding
    return session.cache.reusable(most, lane, {p + padding for p in run.acts.at(most).deleted.get(0, ())})


# -- giving memory back, and filling it again


def give_up_cache(run: Session) -> None:
    """Forget keys and values; `Session.advance` feeds the positions again before anything else."""
    run.refill_to = max(run.refill_to, cache_length(run.cache))
    run.cache.forget()
    if run.mode.own_cache is not None:
        run.mode.own_cache.forget()
    if run.guidance is not None:
        run.guidance.forget()


def give_up_records(run: Session, keep: int | None) -> None:
    """Forget the cache and the records from slot `keep` on; they are taken again when the positions are fed.

    keep: None where those that it continues are given up, too; then it will have records of its own from the start.
    """
    give_up_cache(run)
    if run.guidance is not None:
        run.guidance.forget_records()
    if run.trace is None:
        return
    if keep is not None:
        run.trace.crop(keep)
    else:
        run.trace = Trace(run.spec.trace_budget_bytes, keeps_keys=run.several)
        run.rows[0].path = Path(0, 0)


def give_up_rows(run: Session) -> None:
    """The same for rows that cannot be fed again side by side: what is looked at is fed again, a row at a time."""
    trace = run.trace
    run.close()
    run.trace = None if trace is None else trace.emptied()


def was_given_up(run: Session) -> bool:
    """Whether it holds nothing but its tokens."""
    return run.trace is not None and run.trace.given_up


def check_held(run: Session) -> None:
    """Raises `ViewUnavailableError` where keys and values were given up."""
    if run.refill_to:
        raise ViewUnavailableError(
            "The cache of this branch was given up to stay within the memory for branches; switch to it, and it is "
            "computed again."
        )


def take_cache(run: Session, donors: Iterable[Session]) -> int:
    """Fill a cache that was given up from others that hold the same; returns the positions that need not be fed."""
    best, held = None, 0
    recorded = run.refill_to if run.trace is None else run.trace.stop
    for session in donors:
        if session is not run and session.loaded.module is run.loaded.module:
            _, count = _held(session, run, min(run.refill_to, recorded), None)
            if count > held:
                best, held = session, count
    if best is not None:
        run.cache = fork_row(best.cache, 0, held, run.limit)
    if held == run.refill_to:
        run.refill_to = 0
        run.forward.delete(run.cache)
    return max(0, held - run.rows[0].padding)
