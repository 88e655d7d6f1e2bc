"""The plan in words: ten numbered steps, and the few lines that fit beside the parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from core.contract.plan import GenerationPlan, InputPlan, Origin, ParameterValue, PlanLine, PlanStep

ORIGIN_WORDS: Mapping[Origin, str] = MappingProxyType(
    {"user": "yours", "preset": "preset", "host": "window default", "model": "model", "default": "default"}
)
_ORIGIN_REASONS: Mapping[Origin, str] = MappingProxyType(
    {
        "user": "yours",
        "preset": "the preset",
        "host": "the window's default",
        "model": "the model's generation_config",
        "default": "library default",
    }
)


def plain(value: object) -> str:
    """A value as a person would write it."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return "none" if not value else json.dumps(value, ensure_ascii=False)
    return str(value)


def plan_summary(plan: GenerationPlan) -> tuple[PlanLine, ...]:
    """Mode, length, stopping, cache, draws and interventions."""
    length, draws = plan.length, plan.draws
    longest = max(plan.inputs.prompt_tokens)
    whole = f"all {length.max_positions:,} positions" if length.limited else f"{longest:,} + {length.max_new_tokens:,}"
    source = "torch generator" if draws.source == "torch" else "counter-based"
    drawn = ("none", "nothing is drawn") if draws.seed is None else (f"seed {draws.seed}", source)
    return (
        PlanLine("mode", plan.mode, plan.mode_origin),
        PlanLine("length", f"{length.max_length:,}", whole),
        _stop_line(plan),
        PlanLine("cache", plan.cache.kind, f"{plan.cache.bytes_per_token / 1e3:.3g} kB a token"),
        PlanLine("draws", *drawn),
        *(PlanLine("intervention", text, "") for text in plan.interventions),
    )


def _stop_line(plan: GenerationPlan) -> PlanLine:
    eos, strings = plan.value("eos_token_id"), plan.value("stop_strings")
    ids = eos.value if isinstance(eos.value, tuple) else ()
    texts = strings.value if isinstance(strings.value, tuple) else ()
    stops = [f"eos {', '.join(map(str, ids)) or 'none'}", *map(repr, texts)]
    return PlanLine("stop", " · ".join(stops), ORIGIN_WORDS[eos.origin])


def plan_steps(plan: GenerationPlan) -> tuple[PlanStep, ...]:
    """The ten steps, in the order of `generate()`."""
    made = (
        ("Parameters", *_parameters(plan)),
        ("Prompt", *_prompt(plan.inputs)),
        ("Batch", *_batch(plan.inputs)),
        ("Length", *_length(plan)),
        ("Mode", *_mode(plan)),
        ("Cache", *_cache(plan)),
        ("Logits processors", *_processors(plan)),
        ("Stopping criteria", " · ".join(line.name for line in plan.stopping), plan.stopping),
        ("Draws", *_draws(plan)),
        ("Outputs", *_outputs(plan)),
    )
    return tuple(
        PlanStep(number, title, summary, lines, tuple(text for step, text in plan.warnings if step == number))
        for number, (title, summary, lines) in enumerate(made, start=1)
    )


_Step = tuple[str, tuple[PlanLine, ...]]


def _mode(plan: GenerationPlan) -> _Step:
    """The mode, and what the model computes otherwise than it was trained to."""
    acts = tuple(PlanLine("intervention", text, "yours") for text in plan.interventions)
    summary = f"{plan.mode} · {_count(len(acts), 'intervention')}" if acts else plan.mode
    return summary, (PlanLine("mode", plan.mode, plan.mode_rule), *acts)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _parameters(plan: GenerationPlan) -> _Step:
    """What somebody chose, then the defaults that act; defaults without effect stay out."""
    order: tuple[Origin, ...] = ("user", "preset", "host", "model", "default")
    shown = [p for origin in order for p in plan.parameters if p.origin == origin and _is_worth_a_line(p)]
    counts = [
        f"{n} {_COUNTED[o]}" for o in order if (n := sum(p.origin == o for p in plan.parameters)) and o != "default"
    ]
    rest = len(plan.parameters) - len(shown)
    lines = [PlanLine(p.name, plain(p.value), _why(p)) for p in shown]
    lines.append(PlanLine("…", f"{rest} more", "library defaults that change nothing"))
    return " · ".join(counts) or "all library defaults", tuple(lines)


_COUNTED = {"user": "yours", "preset": "of the preset", "host": "of the window", "model": "of the model"}
_ALWAYS = ("do_sample", "max_new_tokens", "eos_token_id", "num_beams")


def _is_worth_a_line(parameter: ParameterValue) -> bool:
    acts = parameter.name in ("temperature", "top_k") and not parameter.note
    return parameter.origin != "default" or parameter.name in _ALWAYS or acts


def _why(parameter: ParameterValue) -> str:
    reason = _ORIGIN_REASONS[parameter.origin]
    return f"{reason}; {parameter.note}" if parameter.note else reason


def _prompt(inputs: InputPlan) -> _Step:
    kinds = {
        "text": ("text", "tokenised with the special tokens that the tokenizer adds"),
        "chat": ("chat", "rendered with the model's template, which writes the special tokens itself"),
        "ids": ("token ids", "taken as they are"),
        "embeddings": ("embeddings", "no tokens are known of them, so no processor sees any"),
    }
    if inputs.bos_token_id is None:
        bos = PlanLine("BOS", "none", "the model has no BOS token")
    elif inputs.bos_alone:
        bos = PlanLine("BOS", str(inputs.bos_token_id), "an empty prompt begins with it")
    else:
        there = all(inputs.bos)
        what = "at the beginning" if there else "not added" if not any(inputs.bos) else "in some rows"
        bos = PlanLine("BOS", str(inputs.bos_token_id), f"{what}; this engine adds nothing to the tokenizer's work")
    tokens = _span(inputs.prompt_tokens)
    lines = (
        PlanLine("given as", *kinds[inputs.kind]),
        PlanLine("tokens", tokens, "in each row" if len(inputs.prompt_tokens) > 1 else ""),
        bos,
        PlanLine("truncation", "none", "a prompt longer than the model's positions is refused"),
        PlanLine("prefill", f"chunks of {inputs.prefill_chunk:,}", "can be broken off between two layers"),
    )
    return f"{kinds[inputs.kind][0]}, {tokens} tokens", lines


def _span(values: tuple[int, ...]) -> str:
    least, most = min(values), max(values)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _batch(inputs: InputPlan) -> _Step:
    rows = len(inputs.prompt_tokens)
    if inputs.attention_mask:
        share = sum(inputs.padding) / (rows * inputs.slots)
        padding = PlanLine(
            "padding", "left", f"{sum(inputs.padding):,} slots ({share:.0%}) of token {inputs.pad_token_id}"
        )
        mask = PlanLine("attention_mask", "given", "0 for padding; processors do not see padding either")
    else:
        padding = PlanLine("padding", "none", "all rows are equally long" if rows > 1 else "there is one row")
        mask = PlanLine("attention_mask", "not needed", "every slot is a token")
    positions = ("explicit", "counted from each row's first token") if inputs.position_ids else ("by the model", "")
    copies = PlanLine("num_return_sequences", str(inputs.copies), "each prompt is copied so often")
    lines = (
        PlanLine("rows", f"{rows:,}", "prompts × copies"),
        *((copies,) if inputs.copies > 1 else ()),
        padding,
        mask,
        PlanLine("position_ids", *positions),
    )
    return "1 row" if rows == 1 else f"{rows:,} rows", lines


def _length(plan: GenerationPlan) -> _Step:
    length = plan.length
    longest = max(plan.inputs.prompt_tokens)
    by = {
        "max_new_tokens": "max_new_tokens, the prompt not counted",
        "max_length": f"max_length {length.asked_max_length or 0:,} less the prompt",
        "default": "the default of this program; generate() would take 20",
        "MaxLengthCriteria": "your MaxLengthCriteria less the prompt",
    }[length.governed_by]
    end = "the model's positions come first" if length.limited else f"{longest:,} + {length.max_new_tokens:,}"
    lines = [
        PlanLine("new tokens", f"at most {length.max_new_tokens:,}", by),
        PlanLine("whole text", f"at most {length.max_length:,}", end),
        PlanLine("positions", f"{length.max_positions:,}", "of the model; the token chosen after the last is the end"),
    ]
    least = sorted(set(length.min_new_by_row or (length.min_new_tokens,)))
    if least[-1]:
        many = f"{least[0]:,}" if len(least) == 1 else f"{least[0]:,} to {least[-1]:,}"
        lines.insert(1, PlanLine("EOS", f"not before {many} new tokens", _least(plan)))
    return f"{longest:,} + {length.max_new_tokens:,}", tuple(lines)


def _least(plan: GenerationPlan) -> str:
    from_length = plan.length.asked_min_length and plan.value("min_new_tokens").origin == "default"
    if from_length and len(set(plan.length.min_new_by_row)) > 1:
        theirs = f"generate() counts its padding, too, so {plan.length.min_new_tokens:,} in every row"
        return f"from min_length, less each row's own prompt; {theirs}"
    return "from min_length, less the prompt" if from_length else "from min_new_tokens"


def _cache(plan: GenerationPlan) -> _Step:
    cache, reused = plan.cache, plan.inputs.reused_positions
    most = cache.limit if cache.budget is None else min(cache.budget, cache.limit)
    full = cache.bytes_per_token * most * cache.rows
    lines = [
        PlanLine("kind", cache.kind, cache.meaning or "a doubling buffer"),
        PlanLine(
            "a position", f"{cache.bytes_per_token / 1e3:.3g} kB", f"K and V of {cache.layers} layers, in each row"
        ),
        PlanLine(
            "at most",
            f"{full / 1e6:.3g} MB",
            f"{most:,} positions × {cache.rows:,} {'row' if cache.rows == 1 else 'rows'}",
        ),
    ]
    lines += plan.beside
    if cache.window:
        lines.append(PlanLine("window", f"{cache.window:,}", "of sliding layers, by the mask; all positions are kept"))
    if reused:
        lines.append(PlanLine("reused", f"{reused:,} positions", "the same tokens as in the run before, not fed again"))
    return f"{cache.kind}, {cache.bytes_per_token / 1e3:.3g} kB a position", tuple(lines)


def _processors(plan: GenerationPlan) -> _Step:
    lines = [
        PlanLine(
            f"{number}. {stage.name}", " · ".join(plain(v) for v in stage.params.values()), _STAGE.get(stage.name, "")
        )
        for number, stage in enumerate(plan.processors, start=1)
    ]
    if not lines:
        lines = [PlanLine("none", "", "the model's own distribution is used as it is")]
    if plan.grammar is not None and plan.allowed_first is not None:
        lines.append(PlanLine("first step", f"{plan.allowed_first:,} tokens", "are allowed by the constraint"))
    return " → ".join(stage.name for stage in plan.processors) or "none", tuple(lines)


_STAGE = {
    "grammar": "where generate() calls prefix_allowed_tokens_fn",
    "temperature": "from here on only because tokens are drawn",
}


def _draws(plan: GenerationPlan) -> _Step:
    draws = plan.draws
    if draws.seed is None:
        return "none", (PlanLine("draws", "none", f"{plan.mode} takes no random number"),)
    counter = "a function of seed, row, position and reroll, the same on every machine"
    how = "torch.multinomial, as generate() draws" if draws.source == "torch" else counter
    lines = [PlanLine("seed", str(draws.seed), ""), PlanLine("source", draws.source, how)]
    if draws.reroll:
        lines.append(PlanLine("reroll", str(draws.reroll), "another try with the same seed"))
    return f"seed {draws.seed}, {draws.source}", tuple(lines)


def _outputs(plan: GenerationPlan) -> _Step:
    ignored = ", ".join(plan.ignored_keys) or "none"
    lines = (
        *plan.outputs,
        PlanLine("forward()", "one pass", "returns logits and past_key_values of all positions given; chooses nothing"),
        PlanLine("generate()", "ids", "with return_dict_in_generate also scores, logits and past_key_values"),
        PlanLine(
            "pipeline()", "text", "and sets max_new_tokens 256, do_sample on, temperature 0.7 where nobody chose them"
        ),
        PlanLine(
            "keys_to_ignore_at_inference", ignored, "left out of predictions by Trainer; generate() does not read it"
        ),
    )
    return ", ".join(line.name for line in plan.outputs if line.value != "no"), lines
