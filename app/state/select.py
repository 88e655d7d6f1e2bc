"""What panels read out of the state: pure functions, no Qt."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.state import batch, image_draft
from app.state.run import RunView
from app.state.state import AppState, AttentionFocus, ColourBy, Draft
from app.state.texts import tr
from app.theme.palette import PALETTES, Palette
from core.contract import (
    Answered,
    ChatMessage,
    DeletePositions,
    GenerationParams,
    Intervention,
    MutePositions,
    ParameterError,
    Prompt,
    RunSpec,
    ScaleHeads,
    SkipPart,
    StepSnapshot,
    ViewStatus,
    WorkerState,
    of_row,
    validate,
)
from core.contract.specs import MOST_SEQUENCES

LN2 = math.log(2.0)
ENTROPY_TOP_BITS = 8.0  # upper end of the entropy and surprisal colours
SURPRISAL_TOP_BITS = 12.0
RANK_TOP = 1000.0


def palette(state: AppState) -> Palette:
    """The colours of the current theme."""
    return PALETTES[state.theme]


def is_active(state: AppState) -> bool:
    """Whether a run is asked for or in progress (paused counts)."""
    if state.requested is not None or (state.run is not None and state.run.finish is None):
        return True
    beside = None if state.run is None else state.branches.pairs.get(state.run.branch)
    return beside is not None and state.branches.nodes[beside].run.finish is None


def is_paused(state: AppState) -> bool:
    """Whether a run waits to go on."""
    return is_active(state) and (state.worker is WorkerState.PAUSED or state.pace.paused)


def is_streaming(state: AppState) -> bool:
    """Whether tokens come faster than anybody can look at each, and the newest one is shown."""
    return is_active(state) and not is_paused(state) and not state.stepping and state.selected is None


def can_run(state: AppState) -> bool:
    """Whether Run does something: a model is loaded, or will be."""
    return state.model is not None or state.loading is not None


def can_step(state: AppState) -> bool:
    """Whether Step does something: start a run, or take one token of a paused one."""
    return is_paused(state) or (can_run(state) and not is_active(state)) or is_stepping(state)


def is_stepping(state: AppState) -> bool:
    """Whether a step is being taken, and another one can be asked for."""
    return state.stepping and is_active(state)


def step_index(state: AppState) -> int | None:
    """The index of the step that every panel shows: the selected one, else the newest; None before the first.

    While a token of the prompt is selected, the first one: views of the sequence show `token_index`.
    """
    run = state.run
    if run is None or run.count == 0:
        return None
    if state.selected is None:
        return run.count - 1
    return max(0, min(state.selected, run.count - 1))


def token_index(state: AppState) -> int | None:
    """The token shown, counted from the first generated one: below 0 of the prompt, the last of which is -1."""
    run, selected = state.run, state.selected
    if run is None or selected is None or selected >= 0:
        return step_index(state)
    return max(selected, -run.prompt_tokens)


def chosen_index(state: AppState) -> int | None:
    """The index of the step shown; None also where a token of the prompt is, which nobody has chosen."""
    return None if in_prompt(state) else step_index(state)


def in_prompt(state: AppState) -> bool:
    """Whether a token of the prompt is selected."""
    return state.run is not None and state.selected is not None and state.selected < 0


def pinned_index(state: AppState) -> int | None:
    """The index of the step that was selected; None while the newest is followed, or a token of the prompt shown."""
    return None if state.selected is None else chosen_index(state)


def shown_position(state: AppState) -> int | None:
    """The position whose query and residual belong to the token shown: the one before it, which leads to it.

    Of the first token of all, its own. None where it was not fed yet.
    """
    run, index = state.run, token_index(state)
    if run is None or index is None:
        return None
    position = max(0, query_position(run, index))
    return position if index >= 0 or position < fed_positions(run) else None


def step(state: AppState) -> StepSnapshot | None:
    """The step that every panel shows."""
    index = step_index(state)
    return None if index is None or state.run is None else state.run.step(index)


def query_position(run: RunView, index: int) -> int:
    """The position whose query chose the step with this index."""
    return run.prompt_tokens - 1 + index


def fed_positions(run: RunView) -> int:
    """Positions fed to the model so far, whose attention can be asked for."""
    if run.count:
        return min(int(run.column("cache_length")[-1]) - run.padding, run.model.max_positions)
    return run.prefill.done if run.prefill else 0


def next_step(state: AppState, otherwise: str) -> str:
    """What an empty card tells the user to do: to select a step, to go on with a run that waits, else otherwise."""
    if in_prompt(state):
        return tr("The selected token is part of the prompt: nobody chose it. Select one that was generated.")
    if state.run is not None and is_paused(state):
        return tr("F5 goes on with the paused run, F10 makes one step.")
    return otherwise


def has_nothing(state: AppState) -> bool:
    """Whether there is nothing to show before the user does something: no run, or one that waits to begin."""
    return state.run is None or (is_paused(state) and not fed_positions(state.run))


def pieces(run: RunView) -> tuple[str, ...]:
    """The text of every token of the sequence, prompt first. O(length): cache it by (key, count)."""
    return run.prompt.pieces + tuple(s.piece for s in run.steps())


def probability(run: RunView) -> NDArray[np.float64]:
    """Probability of each chosen token before the pipeline, in [0, 1]."""
    return np.asarray(np.exp(run.column("logprob")))


def surprisal_bits(run: RunView) -> NDArray[np.float64]:
    """-log2 of the probability before the pipeline."""
    return np.asarray(-run.column("logprob") / LN2)


def colour_values(run: RunView, by: ColourBy, start: int = 0) -> NDArray[np.float64]:
    """The quantity of each step from `start` on, scaled to [0, 1] for the sequential map.

    Bright is always what the model was sure of: high probability, low entropy, surprisal and rank.
    """
    if by == "probability":
        return np.asarray(np.exp(run.column("logprob")[start:]))
    if by == "entropy":
        return entropy_levels(run.column("entropy_bits")[start:])
    if by == "surprisal":
        return np.asarray(1.0 - np.clip(-run.column("logprob")[start:] / LN2 / SURPRISAL_TOP_BITS, 0.0, 1.0))
    return np.asarray(1.0 - np.clip(np.log1p(run.column("rank")[start:]) / math.log1p(RANK_TOP), 0.0, 1.0))


def cards_for(state: AppState) -> tuple[str, ...]:
    """The cards that show what is particular about the run: its pixels, its beams, what its mode did, its rows."""
    run = state.run
    if run is None:
        return ()
    paints = run.model.image is not None
    found = ["canvas"] if paints else []
    if run.has_beams:
        found.append("beams")
    elif run.count and (run.step(0).detail is not None or run.step(0).guidance is not None):
        found.append("mode")
    if len(run.started.rows) > 1 and not paints:
        found.append("rows")
    return tuple(found)


def acting_cards(state: AppState) -> tuple[str, ...]:
    """The cards that have something to tell: interventions made, tokens watched, a breakpoint that stopped the run."""
    acting = state.acting
    some = (("interventions", acting.acts), ("watches", acting.pins), ("breakpoints", acting.hits))
    return tuple(name for name, things in some if things)


def entropy_levels(entropy_bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropies scaled to [0, 1], bright where the model was sure."""
    return np.asarray(1.0 - np.clip(entropy_bits / ENTROPY_TOP_BITS, 0.0, 1.0))


def colour_ends(by: ColourBy) -> tuple[str, str]:
    """The values at the dark and the bright end of the legend."""
    return {
        "probability": ("0", "1"),
        "entropy": (f"≥ {ENTROPY_TOP_BITS:g} bits", "0"),
        "surprisal": (f"≥ {SURPRISAL_TOP_BITS:g} bits", "0"),
        "rank": (f"≥ {RANK_TOP:g}", "0"),
    }[by]


def interventions(run: RunView, index: int | None = None) -> tuple[Intervention, ...]:
    """The interventions in force when the step with this index was chosen; None: for the next one."""
    acts = [act for act in run.acts if index is None or act.index <= index]
    return acts[-1].interventions if acts else run.base


def listed_row(run: RunView | None) -> int:
    """The row shown, as the list of interventions names it: of a branch, the row of the run that it is of."""
    return 0 if run is None else run.row if run.origin is None else run.origin


def as_asked(run: RunView, asked: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    """The list as core is told it: it knows a branch as a run of one row."""
    return asked if run.origin is None else of_row(asked, run.origin)


def muted_heads(asked: tuple[Intervention, ...]) -> frozenset[tuple[int, int]]:
    """(layer, head) of every head that is muted."""
    scaled = (one for one in asked if isinstance(one, ScaleHeads) and one.factor == 0)
    return frozenset((one.layer, head) for one in scaled for head in one.heads)


def skipped_parts(asked: tuple[Intervention, ...]) -> frozenset[tuple[int, str]]:
    """(layer, part) of everything that is skipped."""
    return frozenset((one.layer, one.part) for one in asked if isinstance(one, SkipPart))


def muted_positions(asked: tuple[Intervention, ...], row: int) -> frozenset[int]:
    """The positions of a row that are hidden from later queries."""
    return frozenset(p for one in asked if isinstance(one, MutePositions) and one.row == row for p in one.positions)


def view_status(state: AppState, view: str) -> ViewStatus | None:
    """The self-test result of `attention` or `distribution` for the run's (else the loaded) model."""
    model = state.run.model if state.run else state.model
    if model is None:
        return None
    return next((v for v in model.views if v.view == view), None)


def heads_of(focus: AttentionFocus) -> tuple[tuple[int, ...] | None, str | None]:
    """A focus as attention queries take it: (heads, reduce)."""
    if isinstance(focus.head, int):
        return (focus.head,), None
    return focus.chosen or None, focus.head


def answer(state: AppState, slot: str) -> Answered | None:
    """The newest answer in a slot; it may belong to an earlier question of the same run."""
    return state.answers.get(slot)


def fraction_done(state: AppState, slot: str) -> float | None:
    """How far the answer is that the slot waits for, in [0, 1]; None where that is not told."""
    question, (generation, fraction) = state.asked.get(slot), state.deriving.get(slot, (0, 0.0))
    told = question is not None and question.generation == generation and is_waiting(state, slot)
    return fraction if told else None


def is_waiting(state: AppState, slot: str) -> bool:
    """Whether the last question of the slot is still unanswered."""
    question = state.asked.get(slot)
    if question is None:
        return False
    got = state.answers.get(slot)
    return got is None or got.generation < question.generation


def defaults(state: AppState) -> GenerationParams:
    """What applies without any change by the user: the model's values, and sampling (the window's own default).

    That is for models that would take the likeliest token; those that ask for beams, or another mode, are left theirs.
    """
    base = state.model.defaults if state.model else GenerationParams()
    return base.replace({"do_sample": True}) if base.mode == "greedy_search" else base


def params(state: AppState) -> GenerationParams:
    """The parameters that the next token (or the next run) will use."""
    return defaults(state).replace(state.overrides)


def chat_messages(draft: Draft) -> tuple[ChatMessage, ...]:
    """The chat as it would be sent. With no message written, the last answer is left out, to be generated again."""
    head = (ChatMessage("system", draft.system),) if draft.system.strip() else ()
    turns = tuple(t for t in draft.turns if t.content.strip())
    if draft.message.strip():
        return (*head, *turns, ChatMessage("user", draft.message))
    while turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    return head + turns


def prompts(draft: Draft) -> tuple[Prompt, ...]:
    """The draft as the worker takes it: one prompt, or those of the batch."""
    if draft.tab == "batch":
        return _of_batch(draft.batch)
    if draft.tab == "image":
        return (image_draft.run_prompt(draft.image),)
    return (Prompt(text=draft.text) if draft.tab == "text" else Prompt(messages=chat_messages(draft)),)


@lru_cache(maxsize=1)
def _of_batch(text: str) -> tuple[Prompt, ...]:
    return tuple(Prompt(text=line) for line in batch.prompts(text))


def missing_prompt(draft: Draft) -> str:
    """Why there is nothing to begin with, in a sentence; empty where there is something."""
    if draft.tab == "chat" and not chat_messages(draft):
        return tr("The chat is empty; write a message first.")
    many = batch.count(draft.batch) if draft.tab == "batch" else 1
    if not many:
        return tr("The batch is empty; write a prompt on each line.")
    if many > MOST_SEQUENCES:
        return tr("The batch has {0} prompts, but {1} is the most; split it.").format(f"{many:,}", MOST_SEQUENCES)
    return ""


def prompt(draft: Draft) -> Prompt:
    """What is tokenised while it is being written; of a batch the first prompt."""
    if draft.tab == "image":
        return image_draft.whole_prompt(draft.image)
    if draft.tab == "batch":
        return Prompt(text=batch.first(draft.batch))
    return next(iter(prompts(draft)), Prompt(text=""))


def run_spec(state: AppState, max_steps: int | None = None) -> RunSpec:
    """The run that Run would start now."""
    own = state.model is None or defaults(state).do_sample != state.model.defaults.do_sample
    return RunSpec(
        prompts=prompts(state.draft),
        params=dict(state.overrides),
        host_defaults={"do_sample": True} if own else {},  # the window samples where the model itself would not
        seed=state.seed,
        reroll=state.reroll,
        reuse_prefix=state.draft.tab == "chat",
        max_steps=max_steps,
        trace_budget_bytes=state.trace_budget_mb << 20,
        grammar=state.grammar,
        cache=state.cache,
        preset=of_preset(state),
        interventions=tuple(x for x in state.acting.interventions if not isinstance(x, DeletePositions)),  # of one run
        breakpoints=state.acting.breakpoints,
        **_mode_texts(state),
    )


def of_preset(state: AppState) -> frozenset[str]:
    """The overrides that are as the preset applied last has them.

    Where it does not name do_sample, its beams, contrastive search or DoLa mean that it is off.
    """

    def is_its(name: str, value: object) -> bool:
        try:
            return state.config.get(name) is not None and bool(validate({name: state.config[name]})[name] == value)
        except ParameterError:
            return False

    own = {name: value for name, value in state.overrides.items() if is_its(name, value)}
    if state.overrides.get("do_sample") is False and state.config.get("do_sample") is None:
        mode = defaults(state).replace({**own, "do_sample": False}).mode
        own |= {} if mode in ("greedy_search", "assisted_generation") else {"do_sample": False}
    return frozenset(own)


def _mode_texts(state: AppState) -> dict[str, Any]:
    """What the mode needs besides parameters, as a `RunSpec` takes it."""
    texts, spec = state.mode_texts, state.model.spec if state.model is not None else state.spec
    given: dict[str, Any] = {}
    if texts.force_words is not None:
        given["force_words"] = phrases(texts.force_words)
    if texts.assistant:
        given["assistant"] = replace(spec, name=texts.assistant)
    if texts.negative:
        given["negative_prompt"] = Prompt(text=texts.negative)
    return given


def phrases(text: str) -> tuple[tuple[str, ...], ...]:
    """Phrases one a line, alternatives between `|`; spaces at their ends are part of them."""
    lines = (tuple(part for part in line.split("|") if part.strip()) for line in text.splitlines())
    return tuple(line for line in lines if line)
