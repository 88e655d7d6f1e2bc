"""The plan of a run, read off the session that will run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contract.cache import CACHE_MEANINGS
from core.contract.events import ModelInfo
from core.contract.interventions import words
from core.contract.params import PARAMETERS, GenerationParams
from core.contract.plan import (
    CachePlan,
    DrawPlan,
    GenerationPlan,
    InputPlan,
    LengthPlan,
    Origin,
    ParameterValue,
    PlanLine,
    StagePlan,
)
from core.contract.plan_words import ORIGIN_WORDS, plain
from core.contract.specs import RunSpec
from core.contract.together import inactive_reason
from core.decode.extras import DEFAULTS
from core.decode.lengths import OWN
from core.decode.own_code import name_of
from core.decode.room import position_bytes

if TYPE_CHECKING:
    from core.decode.session import Session

_DRAWN = {"sample", "beam_sample"}
_CHOSEN = ("user", "preset")
_NEED_EOS = ("min_new_tokens", "min_length", "exponential_decay_length_penalty")
_PARAMETERS, _LENGTH, _STOP = 1, 4, 8  # numbers of the steps that warnings belong to


def make_plan(run: Session) -> GenerationPlan:
    """What `run` executes: its own parameters, stages, criteria and cache, with the reason for each."""
    info, params = run.loaded.info, run.params
    assisted = run.assistant is not None
    length = _length(run)
    return GenerationPlan(
        model=info.title,
        parameters=tuple(_value(run, name, assisted) for name in PARAMETERS),
        inputs=_inputs(run),
        length=length,
        mode=run.mode.name,
        mode_rule=_mode_rule(run.spec, params, run.mode.name, assisted),
        mode_origin=_mode_origin(run),
        processors=tuple(StagePlan(stage.name, dict(stage.params)) for stage in run.stages),
        stopping=_stopping(run, length),
        cache=CachePlan(
            run.spec.cache.words(),
            len(run.forward.anatomy.layers),
            position_bytes(info, run.spec.cache),
            run.limit,
            run.mode.cache_rows(run),
            info.sliding_window,
            run.spec.cache.budget,
            CACHE_MEANINGS[run.spec.cache.kind],
            run.spec.cache,
        ),
        draws=DrawPlan(
            run.spec.seed if _draws(run) else None,
            run.spec.draw_source,
            run.spec.reroll,
        ),
        outputs=_outputs(run),
        beside=_beside(run),
        ignored_keys=tuple(getattr(run.loaded.module.config, "keys_to_ignore_at_inference", ())),
        grammar=run.spec.grammar,
        allowed_first=None if run.grammar is None else run.grammar.allowed_tokens((), params.eos_token_id),
        warnings=_warnings(run, length, assisted),
        interventions=tuple(map(words, run.acts.now.asked)),
    )


def origin(name: str, info: ModelInfo, spec: RunSpec, changed: frozenset[str] = frozenset()) -> Origin:
    """Who chose the value in force. changed: set by the user since the run began."""
    if name in spec.params or name in changed:
        return "preset" if name in spec.preset and name not in changed else "user"
    if name in spec.host_defaults:
        return "host"
    return "model" if name in info.from_generation_config else "default"


def _origin(run: Session, name: str) -> Origin:
    return origin(name, run.loaded.info, run.spec, run.changed)


def _draws(run: Session) -> bool:
    may = run.mode.name in ("assisted_generation", "dola_generation")
    return run.mode.name in _DRAWN or (may and run.params.samples)


def _value(run: Session, name: str, assisted: bool) -> ParameterValue:
    """The value that was asked for, and, where another one is in force, why."""
    asked, used = getattr(run.asked, name), getattr(run.params, name)
    note = inactive_reason(name, run.params, assisted)
    if name == "do_sample" and run.spec.mode is not None:
        return ParameterValue(name, used, "user", f"from the mode {run.spec.mode}")
    if asked != used and run.lengths.governed_by == OWN and name != "min_length":
        note = f"{used}, because your {OWN} decides"
    elif asked != used:
        note = _REPLACED[name].format(used)
    elif name == "max_new_tokens" and run.lengths.governed_by == "default":
        note = "generate() would take 20"
    return ParameterValue(name, asked, _origin(run, name), note)


_REPLACED = {
    "max_new_tokens": "{}, because max_length decides",
    "max_length": "{}, because max_new_tokens decides",
    "min_length": "not used, because min_new_tokens decides",
}


def _inputs(run: Session) -> InputPlan:
    from core.decode.engine import pad_id

    info, prompts = run.loaded.info, [row.prompt for row in run.rows]
    bos = info.bos_token_id
    return InputPlan(
        kind=_given_as(run),
        prompt_tokens=tuple(len(prompt.token_ids) for prompt in prompts),
        padding=tuple(row.padding for row in run.rows),
        copies=len(run.rows) // run.prompt_count,
        bos=tuple(bos is not None and prompt.token_ids[0] == bos for prompt in prompts),
        bos_alone=any(prompt.token_ids == (bos,) and not prompt.rendered for prompt in prompts),
        bos_token_id=bos,
        pad_token_id=pad_id(run.loaded, run.params),
        position_ids="position_ids" in run.forward.anatomy.accepts,
        attention_mask=any(row.padding for row in run.rows),
        prefill_chunk=run.spec.prefill_chunk,
        reused_positions=run.reused,
    )


def _given_as(run: Session) -> str:
    if run.embeds is not None:
        return "embeddings"
    given = run.spec.prompts[0]
    return "chat" if given.messages is not None else "ids" if given.ids is not None else "text"


def _length(run: Session) -> LengthPlan:
    params, most = run.params, run.loaded.info.max_positions
    longest = max(len(row.prompt.token_ids) for row in run.rows)
    # The token chosen after the last position is never fed, so a text may be one longer than the positions.
    length = min(longest + params.max_new_tokens, most + 1)
    return LengthPlan(
        governed_by=run.lengths.governed_by,
        max_new_tokens=params.max_new_tokens,
        min_new_tokens=max(params.min_new_tokens, params.min_length - run.prompt_slots, 0),
        min_new_by_row=tuple(
            # `generate()` takes the length of embeddings off for all rows alike, padding included.
            max(params.min_new_tokens, params.min_length - (run.unseen or len(row.prompt.token_ids)), 0)
            for row in run.rows
        ),
        max_length=length,
        max_positions=most,
        limited=length < longest + params.max_new_tokens,
        asked_max_length=run.asked.max_length,
        asked_min_length=run.asked.min_length,
    )


def _mode_origin(run: Session) -> str:
    if run.spec.mode is not None:
        return ORIGIN_WORDS["user"]
    if run.params.do_sample and run.params.temperature == 0:
        return "temperature is 0"
    if run.mode.name == "assisted_generation":
        return ORIGIN_WORDS["user" if run.assistant is not None else _origin(run, _drafting(run.params))]
    return ORIGIN_WORDS[_origin(run, _DECIDES.get(run.mode.name, "do_sample"))]


def _drafting(params: GenerationParams) -> str:
    """The parameter that asks for drafts."""
    return "assistant_early_exit" if params.prompt_lookup_num_tokens is None else "prompt_lookup_num_tokens"


_DECIDES = {
    "beam_search": "num_beams",
    "beam_sample": "num_beams",
    "group_beam_search": "num_beam_groups",
    "constrained_beam_search": "force_words_ids",
    "contrastive_search": "penalty_alpha",
    "dola_generation": "dola_layers",
}


def _mode_rule(spec: RunSpec, params: GenerationParams, mode: str, assisted: bool) -> str:
    """The rule of `GenerationConfig.get_generation_mode` that applied, with the values it looked at."""
    greedy = "temperature is 0" if params.do_sample else "do_sample is off"
    draws = "do_sample is on" if params.samples else greedy
    rule = {
        "greedy_search": f"{greedy} and num_beams is 1",
        "sample": "do_sample is on and num_beams is 1",
        "beam_search": f"num_beams is {params.num_beams} and {greedy}",
        "beam_sample": f"num_beams is {params.num_beams} and do_sample is on",
        "group_beam_search": f"num_beams is {params.num_beams} and num_beam_groups is {params.num_beam_groups}",
        "constrained_beam_search": f"force_words_ids has {len(params.force_words_ids)} constraints",
        "contrastive_search": f"penalty_alpha is {params.penalty_alpha:g}, top_k is {params.top_k} and {greedy}",
        "dola_generation": f"dola_layers is {plain(params.dola_layers)} and {draws}",
        "assisted_generation": f"{_draft(params, assisted)} and {draws}",
    }[mode]
    return f"asked for by name; {rule}" if spec.mode is not None else rule


def _draft(params: GenerationParams, assisted: bool) -> str:
    if params.prompt_lookup_num_tokens is not None:
        return f"prompt_lookup_num_tokens is {params.prompt_lookup_num_tokens}"
    if not assisted:
        return f"assistant_early_exit is {params.assistant_early_exit}"
    return "there is an assistant model"


def _stopping(run: Session, length: LengthPlan) -> tuple[PlanLine, ...]:
    params, piece = run.params, run.loaded.text.piece
    lines, replaced = [], run.extras.replaced
    if params.eos_token_id and "eos_token_id" not in replaced:
        named = " · ".join(f"{i} {piece(i)!r}" for i in params.eos_token_id)
        lines.append(PlanLine("eos_token_id", named, ORIGIN_WORDS[_origin(run, "eos_token_id")]))
    if params.stop_strings and "stop_strings" not in replaced:
        named = " · ".join(map(repr, params.stop_strings))
        lines.append(PlanLine("stop_strings", named, "found across token borders, also begun in the prompt"))
    if run.grammar is not None and not params.eos_token_id:
        lines.append(PlanLine("grammar", "complete", "nothing can follow and there is no EOS token to say so"))
    decided = {"default": "the default of this program; generate() would take 20"}
    why = decided.get(length.governed_by, f"from {length.governed_by}")
    lines.append(PlanLine("max_new_tokens", f"{length.max_new_tokens:,} new tokens", why))
    lines.append(PlanLine("positions", f"{length.max_positions:,}", "each position of the model can be fed once"))
    if params.max_time is not None and "max_time" not in replaced:
        lines.append(PlanLine("max_time", f"{params.max_time:g} s", "since the first forward pass, pauses left out"))
    lines += [_own_criterion(own) for own in run.extras.criteria]
    return tuple(lines)


def _own_criterion(own: object) -> PlanLine:
    place = next((name for name, kind in DEFAULTS.items() if kind is type(own)), None)
    why = "asked after each token of a row" if place is None else f"in the place of {place}"
    return PlanLine(name_of(own), "yours", why)


def _beside(run: Session) -> tuple[PlanLine, ...]:
    """Caches that grow beside that of the sequences."""
    lines = []
    guidance, info = run.guiding, run.loaded.info
    if guidance is not None:
        rows, limit = len(run.lanes), min(guidance.prompt_slots + run.params.max_new_tokens, info.max_positions)
        size = info.kv_bytes_per_token * limit * rows
        what = f"{limit:,} positions × {rows:,} {'row' if rows == 1 else 'rows'}, of the negative prompt's stream"
        lines.append(PlanLine("guidance, at most", f"{size / 1e6:.3g} MB", what))
    if run.assistant is not None:
        theirs = run.assistant.info
        limit = min(run.limit, theirs.max_positions)
        size = theirs.kv_bytes_per_token * limit
        lines.append(PlanLine("draft, at most", f"{size / 1e6:.3g} MB", f"{limit:,} positions of {theirs.title}"))
    return tuple(lines)


def _outputs(run: Session) -> tuple[PlanLine, ...]:
    spec, views = run.spec, {view.view: view for view in run.loaded.info.views}

    def derived(name: str, view: str, how: str) -> PlanLine:
        status = views.get(view)
        if run.trace is None:
            return PlanLine(name, "no", "nothing is recorded in this run")
        if status is not None and not status.available:
            return PlanLine(name, "no", status.reason)
        return PlanLine(name, "when asked for", how)

    top = f"the {spec.top_logprobs} likeliest a step" if spec.top_logprobs else "of the chosen token only"
    return (
        PlanLine("sequences", "yes", "ids of prompt and continuation, without padding"),
        PlanLine("scores", top, "before and after the processors"),
        derived("logits", "distribution", "read out of the recorded residual, for any step"),
        derived("attentions", "attention", "from recorded queries and cached keys; the model stays on SDPA"),
        derived("hidden_states", "distribution", "the residual stream that entered each layer"),
        PlanLine("past_key_values", "kept", "until the next run; the next turn of a chat continues it"),
    )


def _warnings(run: Session, length: LengthPlan, assisted: bool) -> tuple[tuple[int, str], ...]:
    params = run.params
    found = []
    for name in PARAMETERS:
        why = inactive_reason(name, params, assisted)
        if why and _origin(run, name) in _CHOSEN:
            found.append((_PARAMETERS, f"{name} = {plain(getattr(params, name))} has {why}."))
    if not params.eos_token_id:
        idle = [name for name in _NEED_EOS if getattr(params, name)]
        found += [(_PARAMETERS, f"{name} has no effect, because no EOS token is set.") for name in idle]
    found += [(_LENGTH, sentence) for sentence in run.lengths.warnings]
    image = run.loaded.info.image
    if length.limited and (image is None or _origin(run, "max_new_tokens") in _CHOSEN):
        left = length.max_length - max(len(row.prompt.token_ids) for row in run.rows)
        found.append(
            (
                _LENGTH,
                f"The model's {length.max_positions:,} positions end the run after {left:,} new tokens, before the "
                f"{length.max_new_tokens:,} asked for; generate() would go on and fail.",
            )
        )
    wanted = run.prompt_slots + params.max_new_tokens
    if run.mode.name == "contrastive_search" and image is not None and wanted > length.max_positions:
        said = (
            "Contrastive search has no position left to try candidates of the last pixel; it takes the likeliest one."
        )
        found.append((_LENGTH, said))
    ends = params.eos_token_id or params.stop_strings or run.grammar is not None or run.extras.criteria
    if not ends:
        found.append((_STOP, "No EOS token and no stop string is set, so only the length ends the run."))
    return tuple(found)
