"""Where a configuration comes from: a family's defaults, a name with options, a file, a folder, a loaded model."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from core.configs.fields import class_defaults
from core.contract.errors import ModelLoadError
from core.domains.sandboxed import one_line
from core.models.clean import clean_config
from core.models.config_bounds import check_config
from core.models.conversion import known_conversion
from core.models.files import is_there, read_json_object
from core.models.hub_cache import find_snapshot
from core.models.new_families import FAMILIES, NewFamily
from core.models.new_model import PREFIX, parse_new
from core.models.preflight import CONFIG
from core.models.sources import resolve


@dataclass(frozen=True)
class Start:
    """A configuration before it is changed.

    content: as it stands in a config.json, cleaned; empty for a family's defaults. values: the fields of the class that
    it sets otherwise than the class does. family: ours, None where no models of it can be made.
    """

    title: str
    kind: type[PretrainedConfig]
    family: NewFamily | None
    values: Mapping[str, object]
    content: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    notices: tuple[str, ...] = ()


def find(subject: str) -> Start:
    """The configuration that `subject` names, see `DescribeConfig`. Raises `ModelLoadError`."""
    if subject in FAMILIES:
        family = FAMILIES[subject]
        return Start(family.title, config_class(subject), family, {})
    if subject.startswith(PREFIX):
        new = parse_new(subject)
        return of_content(new.title, new.config(), seed=new.seed)
    path = Path(subject).expanduser()
    if path.suffix.lower() != ".json":
        path = _folder(subject) / CONFIG
    if not is_there(path):
        if path.name == CONFIG and path.parent.is_dir():
            raise ModelLoadError(
                f"The folder “{str(path.parent)[:200]}” has no {CONFIG}; choose the folder of a model."
            )
        raise ModelLoadError(f"There is no file “{subject[:200]}”.")
    name = path.parent.name if path.name == CONFIG else path.name
    content = read_json_object(path)
    check_config(name, content)
    return of_content(name, clean_config(content))


def of_content(title: str, content: Mapping[str, Any], *, seed: int = 0, notices: tuple[str, ...] = ()) -> Start:
    """What a config.json says, checked and cleaned before. Raises `ModelLoadError`."""
    kind = config_class(str(content.get("model_type")))
    defaults = class_defaults(kind)
    try:
        made = kind.from_dict(dict(content))
    except Exception as error:  # each family has its own idea of how to refuse a config
        raise ModelLoadError(
            f"The configuration of “{title}” is none of a {kind.model_type} model: {one_line(error)}.",
            detail=traceback.format_exc(),
        ) from None
    said = {kind.attribute_map.get(name, name): value for name, value in content.items()}
    if "rope_parameters" in defaults and {"rope_theta", "rope_scaling"} & set(said):  # as older files have it
        said["rope_parameters"] = getattr(made, "rope_parameters", None)
    values = {name: said[name] for name, default in defaults.items() if name in said and said[name] != default}
    extra = sorted(set(said) - set(defaults) - set(vars(PretrainedConfig())) - {"model_type", "rope_theta"})
    if extra:
        notices += (f"It also says {', '.join(extra)[:200]}, which {kind.__name__} does not know.",)
    return Start(title, kind, FAMILIES.get(kind.model_type), _without_derived(kind, values), content, seed, notices)


def config_class(model_type: str) -> type[PretrainedConfig]:
    """The config class of a family. Raises `ModelLoadError`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        raise ModelLoadError(f"“{model_type[:40]}” is no family that the installed transformers knows.")
    kind: type[PretrainedConfig] = CONFIG_MAPPING[model_type]
    return kind


def _without_derived(kind: type[PretrainedConfig], values: Mapping[str, object]) -> dict[str, object]:
    """Without what the class would fill in itself, so that it follows when the fields it comes from are changed."""
    kept = dict(values)
    for name in [n for n, default in class_defaults(kind).items() if default is None and n in values]:
        rest = {n: value for n, value in kept.items() if n != name}
        try:
            derived = getattr(kind(**rest), name, None)
        except Exception:  # without it the class does not accept the others
            continue
        if derived == values[name]:
            kept = rest
    return kept


def _folder(subject: str) -> Path:
    """The folder of a model that is on this disk."""
    path = Path(subject).expanduser()
    if path.is_dir():
        return path
    source = resolve(subject)
    if source.hub is not None:
        snapshot = find_snapshot(source.hub)
        if snapshot is None:
            raise ModelLoadError(f"“{source.title}” is not on this disk; load it once, or give its config.json.")
        return snapshot
    if source.path is None:
        raise ModelLoadError(f"“{source.title}” has no config.json.")
    converted = known_conversion(source.path) if source.path.suffix.lower() == ".gguf" else source.path
    if converted is None:
        raise ModelLoadError(f"“{source.title}” is a GGUF file that was not converted yet; load it once.")
    return converted
