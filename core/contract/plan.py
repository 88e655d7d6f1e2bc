"""The plan of a run: what the ten steps of `generate()` decide for it, as plain data.

The engine builds it from the very objects it runs, so it cannot say anything else. `plan_words.py` turns it into the
ten steps that people read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from core.contract.cache import CacheSpec
from core.contract.specs import DrawSource, Grammar

Origin = Literal["user", "preset", "host", "model", "default"]


@dataclass(frozen=True, slots=True)
class ParameterValue:
    """A parameter in force.

    origin: the user, a preset, the front end's own default, the model's generation_config, the library.
    note: why it has no effect, or what replaced the value that was asked for; empty otherwise.
    """

    name: str
    value: object
    origin: Origin
    note: str = ""


@dataclass(frozen=True, slots=True)
class InputPlan:
    """The prompts as the model gets them, one entry a row where the fields are tuples.

    kind: `text`, `chat` (rendered with the model's template), `ids` or `embeddings`.
    bos: whether each row begins with the BOS token; `bos_alone`: an empty prompt was replaced by it.
    position_ids: whether the model takes them. attention_mask: only where there is padding.
    """

    kind: str
    prompt_tokens: tuple[int, ...]
    padding: tuple[int, ...]
    copies: int
    bos: tuple[bool, ...]
    bos_alone: bool
    bos_token_id: int | None
    pad_token_id: int
    position_ids: bool
    attention_mask: bool
    prefill_chunk: int
    reused_positions: int

    @property
    def slots(self) -> int:
        """Width of the padded batch."""
        return self.prompt_tokens[0] + self.padding[0]


@dataclass(frozen=True, slots=True)
class LengthPlan:
    """When length ends the run. governed_by: the parameter that decided it, or `MaxLengthCriteria`, of the caller's.

    limited: the positions end it first.
    min_new_tokens: as `generate()` counts, with the padding of shorter prompts; min_new_by_row: as each row has it.
    """

    governed_by: str
    max_new_tokens: int
    min_new_tokens: int
    max_length: int
    max_positions: int
    limited: bool
    asked_max_length: int | None
    asked_min_length: int
    min_new_by_row: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage of the logits pipeline that was built, with its parameters."""

    name: str
    params: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The KV cache. limit: positions that the run will ever feed. window: what sliding layers attend to.

    budget: positions that each layer keeps at most between two steps; None: all. meaning: the kind in a sentence.
    """

    kind: str
    layers: int
    bytes_per_token: int
    limit: int
    rows: int
    window: int | None
    budget: int | None = None
    meaning: str = ""
    spec: CacheSpec = field(default_factory=CacheSpec)


@dataclass(frozen=True, slots=True)
class DrawPlan:
    """Where random numbers come from; seed None where nothing is drawn."""

    seed: int | None
    source: DrawSource
    reroll: int


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One line for people: what, its value, and where that comes from."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One of the ten steps for people. summary: the step in a few words; warnings: sentences that belong to it."""

    number: int
    title: str
    summary: str
    lines: tuple[PlanLine, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What a run does, decided before its first token.

    stopping: the criteria in the order in which they are asked. outputs: what can be had afterwards, and why not.
    ignored_keys: `config.keys_to_ignore_at_inference`, which `Trainer` drops; generate() does not read it.
    beside: other caches than that of the sequences. allowed_first: tokens that the grammar allows at the first step.
    warnings: with the number of the step they belong to. interventions: in force now, in words.
    """

    model: str
    parameters: tuple[ParameterValue, ...]
    inputs: InputPlan
    length: LengthPlan
    mode: str
    mode_rule: str
    mode_origin: str
    processors: tuple[StagePlan, ...]
    stopping: tuple[PlanLine, ...]
    cache: CachePlan
    draws: DrawPlan
    outputs: tuple[PlanLine, ...]
    ignored_keys: tuple[str, ...]
    grammar: Grammar | None = None
    allowed_first: int | None = None
    warnings: tuple[tuple[int, str], ...] = ()
    interventions: tuple[str, ...] = ()
    beside: tuple[PlanLine, ...] = ()

    def value(self, name: str) -> ParameterValue:
        """The parameter of this name; KeyError if there is none."""
        for one in self.parameters:
            if one.name == name:
                return one
        raise KeyError(name)
