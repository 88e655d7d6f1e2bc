"""A configuration, explained: what each field means, what it adds up to, and why a model cannot be made of it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from transformers import PretrainedConfig

from core.configs.estimate import estimate
from core.configs.fields import aliases, class_defaults, describe_fields, output_keys
from core.configs.sources import Start, find, of_content
from core.contract.configs import ConfigDescription, ConfigEstimate, ConfigProblem
from core.contract.errors import ModelLoadError, ParameterError
from core.domains.sandboxed import one_line
from core.models.blueprint import draw_up
from core.models.clean import clean_config
from core.models.loaded import LoadedModel
from core.models.new_families import AUTO, NewFamily, NewOption, Value
from core.models.new_model import NewModel, parse_value, shape_problems
from core.models.placement import choose_device
from core.models.rope import rope_init_problem
from core.models.units import byte_count

_UNCHANGING = "it cannot be changed here: a model that continues a prompt needs it as it is"


def describe(
    subject: str,
    changes: Mapping[str, object] | None = None,
    *,
    seed: int | None = None,
    device: str = "auto",
    loaded: LoadedModel | None = None,
) -> ConfigDescription:
    """The configuration that `subject` names, with `changes`; an empty subject is that of `loaded`.

    changes: by the names of the class's fields or their aliases; texts are read as the fields need them. Values that
    cannot be are `problems` of the answer. Raises `ModelLoadError` for a subject that is no configuration and
    `ParameterError` for a name that is no field.
    """
    start = _of_loaded(loaded) if not subject and loaded is not None else find(subject)
    values = dict(start.values)
    found = [_change(start, values, name, value) for name, value in (changes or {}).items()]
    problems = [problem for problem in found if problem is not None]
    if start.family is None:
        return _shown_only(subject, start, device)
    weights_seed = start.seed if seed is None else seed
    if start.family is not None and seed is not None:
        parse_value(_seed_option(start.family), str(seed))
    config: PretrainedConfig | None = None
    if not problems:
        config, problems = _build(start, values)
    estimated = None if config is None else estimate(config, choose_device(device))
    notices = start.notices
    if estimated is not None:
        problems += _too_large(estimated)
        notices += _tight(estimated)
    new = None if problems else _new_model(start.family, values, start.kind, weights_seed)
    return ConfigDescription(
        subject=subject,
        family=start.family.name,
        title=start.title,
        class_name=start.kind.__name__,
        fields=describe_fields(start.kind, start.family, values, editable=True),
        changes={n: v for n, v in values.items() if v != class_defaults(start.kind)[n]},
        config_json=_as_json(start, values, config),
        output_keys=output_keys(start.kind),
        problems=tuple(problems),
        estimate=estimated,
        new_name=None if new is None else new.name,
        seed=weights_seed,
        notices=notices if new is None else (*notices, *new.notices),
    )


def _of_loaded(loaded: LoadedModel) -> Start:
    title = loaded.info.title
    notice = (
        f"This is the configuration of {title}, which is loaded and stays as it is: what is changed is a new model."
    )
    content = clean_config(json.loads(loaded.module.config.to_json_string(use_diff=False)))
    return of_content(title, content, notices=(notice,))


def _shown_only(subject: str, start: Start, device: str) -> ConfigDescription:
    """Of a family of which no new models are made: its class, its fields, its parameters."""
    blueprint = draw_up(start.title, dict(start.content))
    config = blueprint.config
    notice = f"Models of random weights are not made of {start.kind.__name__}; this configuration is only shown."
    return ConfigDescription(
        subject=subject,
        family=start.kind.model_type,
        title=start.title,
        class_name=start.kind.__name__,
        fields=describe_fields(start.kind, None, start.values, editable=False),
        changes=dict(start.values),
        config_json=config.to_json_string(),
        output_keys=output_keys(start.kind),
        problems=(),
        estimate=estimate(config, choose_device(device), blueprint),
        new_name=None,
        notices=(*start.notices, notice),
    )


def _change(start: Start, values: dict[str, object], name: str, value: object) -> ConfigProblem | None:
    """Set one field; what it cannot be stays in the form, with the reason. Raises `ParameterError`."""
    defaults, asked = class_defaults(start.kind), str(value)[:60]
    field = start.kind.attribute_map.get(name, name)
    if name == "rope_theta" and "rope_parameters" in defaults:
        before = values.get("rope_parameters")
        rest = before if isinstance(before, dict) else {"rope_type": "default"}
        field, value = "rope_parameters", json.dumps({**rest, "rope_theta": _number(value)})
    if field not in defaults:
        known = [*defaults, *(a for names in aliases(start.kind).values() for a in names)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; the nearest one is “{near[0]}”." if near else f"; it has {', '.join(list(defaults)[:6])} and more."
        raise ParameterError(f"{start.kind.__name__} has no field “{name[:40]}”{hint}")
    option = start.family.option(field) if start.family is not None else None
    if option is None:
        raise ParameterError(f"{field} of {start.kind.__name__}: {_UNCHANGING}.")
    text = value if isinstance(value, str) else json.dumps(value)
    if option.kind != "plain" and _not_finite(text):
        return ConfigProblem((field,), f"{name} cannot be “{asked}”; its numbers are finite.")
    if text.strip().lower() in ("none", "null") and defaults[field] is None:
        values[field] = None
        return None
    try:
        values[field] = _plain(option, parse_value(option, text.strip()))
    except ModelLoadError as error:
        values[field] = value
        return ConfigProblem((field,), error.message)
    if values[field] == AUTO:
        values[field] = value
        return ConfigProblem((field,), f"{field} is a token id, a list of them, or none.")
    return None


def _not_finite(text: str) -> bool:
    """Whether a text is JSON with NaN or Infinity, which JSON does not know."""
    found: list[str] = []
    try:
        json.loads(text, parse_constant=found.append)
    except (ValueError, RecursionError):
        return False
    return bool(found)


def _number(value: object) -> object:
    try:
        return float(str(value))
    except ValueError:
        return value


def _plain(option: NewOption, value: Value) -> object:
    """The value as it stands in a config.json."""
    return json.loads(value) if option.kind != "plain" and isinstance(value, str) and value != AUTO else value


def _seed_option(family: NewFamily) -> NewOption:
    option = family.option("seed")
    assert option is not None  # every family has it
    return option


def _build(start: Start, values: Mapping[str, object]) -> tuple[PretrainedConfig | None, list[ConfigProblem]]:
    """The class's own instance, or all reasons why there is none."""
    family, problems = start.family, []
    assert family is not None
    defaults = class_defaults(start.kind)
    for name, value in values.items():
        option = family.option(name)
        if option is None:
            if value != defaults[name]:
                problems.append(ConfigProblem((name,), f"{name} = {json.dumps(value)}: {_UNCHANGING}."))
            continue
        try:
            if value is not None or defaults[name] is not None:
                parse_value(option, value if isinstance(value, str) else json.dumps(value))
        except ModelLoadError as error:  # of a file: what was typed has been read before
            problems.append(ConfigProblem((name,), error.message))
    if not problems:
        shape = shape_problems(family, _options(family, {**defaults, **values}))
        problems = [ConfigProblem(names, text) for names, text in shape]
    if problems:
        return None, problems
    try:
        config = start.kind(**deepcopy(dict(values)))  # it adds to the objects it is given
        rope = rope_init_problem(config)
        return (config, []) if rope is None else (None, [ConfigProblem(("rope_parameters",), rope)])
    except Exception as error:  # what the class itself refuses
        cause = error.__cause__ or error
        return None, [ConfigProblem((), f"{start.kind.__name__} refuses this: {one_line(cause)}.")]


def _options(family: NewFamily, values: Mapping[str, object]) -> dict[str, Value]:
    """The fields as options of a new model; what the class leaves open is filled in as it would."""
    found: dict[str, Value] = {}
    for option in family.options:
        if option.name not in values:
            continue
        value = values[option.name]
        if isinstance(value, dict | list):
            found[option.name] = json.dumps(value)
        elif value is None and option.kind == "plain" and option.default is not None:
            heads = values[family.heads[0]]
            found[option.name] = heads if option.name in family.heads and isinstance(heads, int) else 1
        elif value is None or isinstance(value, int | float | str):
            found[option.name] = value
    return found


def _new_model(family: NewFamily, values: Mapping[str, object], kind: type[PretrainedConfig], seed: int) -> NewModel:
    """The model of random weights that has this configuration, by its shortest name."""
    options = _options(family, {**class_defaults(kind), **values, "seed": seed})
    chosen = {o.name: options[o.name] for o in family.options if o.name in options and options[o.name] != o.default}
    model = NewModel(family, chosen)
    usual = model.usual_end
    return NewModel(
        family,
        {n: v for n, v in chosen.items() if not (v == usual and (o := family.option(n)) and o.default == AUTO)},
    )


def _too_large(estimated: ConfigEstimate) -> list[ConfigProblem]:
    needed = next(e.weight_bytes for e in estimated.dtypes if e.dtype == "fp32") + estimated.buffer_bytes
    if needed <= estimated.available_bytes:
        return []
    what = "weights and the masks over all pairs of positions" if estimated.buffer_bytes else "weights"
    text = (
        f"The {what} take {byte_count(needed)} in fp32, in which they are drawn, and "
        f"{byte_count(estimated.available_bytes)} are free; choose a smaller width, fewer layers or positions."
    )
    return [ConfigProblem((), text)]


def _tight(estimated: ConfigEstimate) -> tuple[str, ...]:
    """A full context that does not fit beside weights that do."""
    used = next(e for e in estimated.dtypes if e.dtype == estimated.dtype)
    needed = used.needed_bytes(estimated.max_positions) + estimated.buffer_bytes
    if used.weight_bytes + estimated.buffer_bytes <= estimated.available_bytes < needed:
        free = byte_count(estimated.available_bytes)
        return (f"With a full context it takes {byte_count(needed)}, and {free} are free.",)
    return ()


def _as_json(start: Start, values: Mapping[str, object], config: PretrainedConfig | None) -> str:
    if config is not None:
        return str(config.to_json_string()).rstrip()
    content: dict[str, Any] = {**class_defaults(start.kind), **values, "model_type": start.kind.model_type}
    return json.dumps(content, indent=2, sort_keys=True)
