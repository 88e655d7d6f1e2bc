"""What parameters say together: contradictions, the mode asked for by name, and which ones have no effect.

The rules are those of `generate()` and `GenerationConfig.validate` of transformers 4.51, which had all modes.
"""

from __future__ import annotations

import dataclasses

from core.contract.errors import ParameterError
from core.contract.params import MODES, PARAMETERS, GenerationParams

_DRAWN = {"sample": True, "beam_sample": True, "greedy_search": False, "beam_search": False}
_HOW = {
    "beam_search": "num_beams above 1",
    "beam_sample": "num_beams above 1",
    "group_beam_search": "num_beams and num_beam_groups above 1",
    "constrained_beam_search": "force_words_ids and num_beams above 1",
    "contrastive_search": "penalty_alpha above 0, top_k above 1 and do_sample off",
    "dola_generation": "dola_layers",
    "assisted_generation": "an assistant model, assistant_early_exit or prompt_lookup_num_tokens",
    "greedy_search": "num_beams 1 and none of the other modes' parameters",
    "sample": "num_beams 1, a temperature above 0 and none of the other modes' parameters",
}


def in_mode(params: GenerationParams, mode: str, assisted: bool = False) -> GenerationParams:
    """The parameters with do_sample as `mode` wants it. Raises `ParameterError` where they give another mode."""
    if mode not in MODES:
        raise ParameterError(f"The mode “{mode}” is not available; there are {', '.join(MODES[:-1])} and {MODES[-1]}.")
    if mode in _DRAWN:
        params = dataclasses.replace(params, do_sample=_DRAWN[mode])
    found = params.infer_mode(assisted)
    if found != mode:
        raise ParameterError(f"The mode “{mode}” needs {_HOW[mode]}; these parameters give {found}.")
    return params


def check_together(params: GenerationParams, assisted: bool = False) -> None:
    """Raises `ParameterError`, one sentence, where values contradict each other. `assisted`: with a draft model."""
    problems = (
        _beams(params),
        _groups(params),
        _constraints(params),
        _single(params),
        _drafts(params, assisted),
        _guidance(params, assisted),
    )
    for problem in problems:
        if problem:
            raise ParameterError(problem)
    forced = {"forced_eos_token_id": params.forced_eos_token_id}
    if params.forced_bos_token_id is not None:
        forced["forced_bos_token_id"] = (params.forced_bos_token_id,)
    for name, ids in forced.items():
        if ids and set(ids) <= set(params.suppress_tokens):
            raise ParameterError(
                f"Every token of {name} is also in suppress_tokens, so none would be left; take one out."
            )


def _beams(params: GenerationParams) -> str | None:
    many, beams = params.num_return_sequences, params.num_beams
    if beams > 1 and many > beams:
        return f"num_return_sequences ({many}) cannot be more than num_beams ({beams}); there are no more beams."
    if beams == 1 and many > 1 and not params.samples:
        return (
            f"num_return_sequences ({many}) needs sampling or beams, because greedy search always says the same; "
            "switch do_sample on or raise num_beams."
        )
    return None


def _groups(params: GenerationParams) -> str | None:
    beams, groups = params.num_beams, params.num_beam_groups
    if groups == 1:
        if params.diversity_penalty > 0:
            return "diversity_penalty acts between groups of beams; set num_beam_groups above 1 too."
        return None
    if beams == 1:
        return f"num_beam_groups ({groups}) needs beams; set num_beams to a multiple of it."
    if beams % groups:
        return f"num_beams ({beams}) cannot be divided into {groups} groups; take a multiple of num_beam_groups."
    if params.samples:
        return "Groups of beams do not sample; switch do_sample off or set num_beam_groups to 1."
    if params.diversity_penalty == 0:
        return "With diversity_penalty 0 all groups of beams would be identical; set it above 0."
    return None


def _constraints(params: GenerationParams) -> str | None:
    if not params.force_words_ids:
        return None
    if params.num_beams == 1:
        return "force_words_ids needs beams, which place the phrases; set num_beams above 1."
    if params.samples:
        return "Constrained beams do not sample; switch do_sample off or take force_words_ids away."
    if params.num_beam_groups > 1:
        return "Constrained beams know no groups; set num_beam_groups to 1 or take force_words_ids away."
    return None


def _single(params: GenerationParams) -> str | None:
    if params.penalty_alpha == 0 or params.num_beams > 1:
        return None
    if params.samples:
        return "Contrastive search (penalty_alpha above 0) does not sample; switch do_sample off or set it to 0."
    if params.top_k < 2:
        return "Contrastive search (penalty_alpha above 0) compares the top_k likeliest tokens; set top_k above 1."
    return None


def _drafts(params: GenerationParams, assisted: bool) -> str | None:
    drafts = {
        "an assistant model": assisted,
        "prompt_lookup_num_tokens": params.prompt_lookup_num_tokens is not None,
        "assistant_early_exit": params.assistant_early_exit is not None,
    }
    given = [name for name, there in drafts.items() if there]
    if len(given) > 1:
        return f"Tokens can be drafted in one way only, but {' and '.join(given)} are given; keep one."
    mode = params.infer_mode(assisted)
    if given and mode != "assisted_generation":
        return f"Drafts ({given[0]}) go only with greedy search and sampling, not with {mode}; take one away."
    if params.dola_layers is not None and mode != "dola_generation":
        return f"dola_layers goes only with greedy search and sampling, not with {mode}; take one away."
    if given and params.num_return_sequences > 1:
        return f"Drafts ({given[0]}) go with one sequence only; set num_return_sequences to 1."
    return None


def _guidance(params: GenerationParams, assisted: bool) -> str | None:
    mode = params.infer_mode(assisted)
    if params.guidance_scale == 1 or mode != "assisted_generation":
        return None
    return (
        f"Guidance (guidance_scale {params.guidance_scale:g}) does not go with {mode}; set guidance_scale to 1 or "
        "take the other mode's parameters away."
    )


def inactive_reason(name: str, params: GenerationParams, assisted: bool = False) -> str:
    """Why the parameter has no effect under these values, as a half sentence; empty where it acts."""
    needs = PARAMETERS[name].needs
    mode = params.infer_mode(assisted)
    there = {
        "sampling": params.samples and mode in ("sample", "beam_sample", "assisted_generation", "dola_generation"),
        "beams": params.num_beams > 1,
        "groups": mode == "group_beam_search",
        "contrastive": mode == "contrastive_search",
        "assistant": mode == "assisted_generation" and params.prompt_lookup_num_tokens is None,
        "lookup": mode == "assisted_generation" and params.prompt_lookup_num_tokens is not None,
    }
    if name == "penalty_alpha" and params.penalty_alpha > 0 and not there["contrastive"]:
        return f"no effect in {mode}; contrastive search needs num_beams 1"
    if not needs or any(there[need] for need in needs):
        return ""
    if "sampling" in needs and params.do_sample and params.temperature == 0:
        return "no effect while temperature is 0, which means greedy"
    return f"no effect in {mode}; it needs {' or '.join(_NEEDED[need] for need in needs)}"


_NEEDED = {
    "sampling": "sampling (do_sample)",
    "beams": "beams (num_beams above 1)",
    "groups": "groups of beams (num_beam_groups above 1)",
    "contrastive": "contrastive search (penalty_alpha above 0)",
    "assistant": "a draft (an assistant model or assistant_early_exit)",
    "lookup": "prompt lookup (prompt_lookup_num_tokens)",
}
