"""A plan as core would make it, without a model."""

from __future__ import annotations

from core.contract import (
    PARAMETERS,
    CachePlan,
    DrawPlan,
    GenerationParams,
    GenerationPlan,
    InputPlan,
    LengthPlan,
    ModelInfo,
    ParameterValue,
    PlanLine,
    RunSpec,
    StagePlan,
)


def fake_plan(info: ModelInfo, spec: RunSpec, params: GenerationParams, prompt_tokens: int) -> GenerationPlan:
    """Lengths, mode and draws follow the parameters; the rest is one plain run."""
    set_by = {**dict.fromkeys(info.from_generation_config, "model"), **dict.fromkeys(spec.host_defaults, "host")}
    origins = {**set_by, **dict.fromkeys(spec.params, "user")}
    drawn = params.mode == "sample"
    length = prompt_tokens + params.max_new_tokens
    return GenerationPlan(
        model=info.title,
        parameters=tuple(ParameterValue(n, getattr(params, n), origins.get(n, "default")) for n in PARAMETERS),
        inputs=InputPlan("text", (prompt_tokens,), (0,), 1, (False,), False, info.bos_token_id, 0, True, False, 256, 0),
        length=LengthPlan("max_new_tokens", params.max_new_tokens, 0, length, info.max_positions, False, None, 0),
        mode=params.mode,
        mode_rule="do_sample is on and num_beams is 1" if drawn else "do_sample is off and num_beams is 1",
        mode_origin="yours" if "do_sample" in spec.params else "model",
        processors=(StagePlan("temperature", {"temperature": params.temperature}),) if drawn else (),
        stopping=(PlanLine("max_new_tokens", f"{params.max_new_tokens} new tokens", "from max_new_tokens"),),
        cache=CachePlan("growing", info.layers, info.kv_bytes_per_token, length, 1, None),
        draws=DrawPlan(spec.seed if drawn else None, "counter", 0),
        outputs=(PlanLine("sequences", "yes", "ids of prompt and continuation"),),
        ignored_keys=("past_key_values",),
        warnings=((8, "No EOS token and no stop string is set, so only the length ends the run."),)
        if not params.eos_token_id
        else (),
    )
