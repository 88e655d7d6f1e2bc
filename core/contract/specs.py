"""What is asked for: a model, a prompt, a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from core.contract.breakpoints import Breakpoint
from core.contract.cache import CacheSpec
from core.contract.errors import GrammarError
from core.contract.interventions import Intervention
from core.contract.picture import Picture

DrawSource = Literal["counter", "torch"]
GrammarKind = Literal["regex", "json_schema", "choice"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model, where and in which precision.

    name: a name from `core.list_models()` (`smollm2`, `tiny-gpt2`), the path of a local transformers folder or of a
        GGUF file, a model of the Hugging Face hub (`org/name`, `org/name@revision`, or the address of its page), or
        random weights from a config: `new:gpt2`, `new:llama?num_hidden_layers=2&seed=1`, `new:qwen2`, `new:imagegpt`.
    device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
    dtype: `auto`, `bf16` or `fp32`; auto is bf16 where the device computes it natively.
    """

    name: str
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a chat; role is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: exactly one of text, ids, messages (rendered with the model's chat template) or image.

    image: for models whose tokens are pixels. It is resized and quantised, and its first pixels are given: those of
    `keep_rows` rows of the model's canvas, or `keep_pixels`; all where neither is set.
    """

    text: str | None = None
    ids: tuple[int, ...] | None = None
    messages: tuple[ChatMessage, ...] | None = None
    image: Picture | None = None
    keep_rows: int | None = None
    keep_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the generated text, as a whole and from its first character on, must be.

    regex: a regular expression (Rust syntax, no look-around) that matches all of the text, not a part of it.
    json_schema: a JSON schema; the text is one JSON value that fits it.
    choice: texts one a line, or a JSON array of texts; the text is exactly one of them.
    """

    kind: GrammarKind
    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise GrammarError(
                f"A grammar is a text, not a {type(self.text).__name__}; write choices one a line, or as a JSON array."
            )


MOST_SEQUENCES = 512  # in one batch; beyond it a step takes seconds, and its snapshots megabytes


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One run. `params` holds only what the user chose; the rest comes from the model, then from the defaults.

    prompts: one a row; shorter ones are padded on the left.
    preset: names in `params` whose values a preset has set, and nobody since.
    host_defaults: what the window sets where the user chose nothing; stronger than the model's own defaults.
    draw_source: `counter` (counter-based, reproducible per row and position) or `torch` (torch.multinomial
        on a torch generator, equal to `generate()` under the same seed).
    max_steps: pause after so many steps (None: run on); used by Step.
    top_logprobs: candidates recorded in each snapshot (0: none).
    trace: record queries and residuals, so that every view can be derived later.
    trace_budget_bytes: records beyond it are dropped, oldest first.
    reuse_prefix: begin with the cache and records of the run before, as far as its tokens are the same (the next
        turn of a chat). Off, a run never depends on what ran before it.
    grammar: what every continuation must be, if anything.
    assistant: a smaller model with the same vocabulary that drafts tokens, for assisted generation.
    force_words: phrases that constrained beams must say, as texts; of several alternatives one is enough. They join
        those of the parameter force_words_ids.
    cache: how keys and values are kept; of the negative prompt's stream, too.
    branch_budget_bytes: cache and records that the branches not in use may hold together; beyond it the one used
        longest ago gives its cache up first.
    negative_prompt: what classifier-free guidance (guidance_scale) steers away from; None or an empty text: the last
        token of each prompt alone, as in `generate()`.
    interventions: changes to what the model computes, in force from the first position on.
    breakpoints: conditions that stop the run between two tokens.
    """

    prompts: tuple[Prompt, ...]
    params: Mapping[str, object] = field(default_factory=dict)
    mode: str | None = None
    seed: int = 0
    draw_source: DrawSource = "counter"
    reroll: int = 0
    max_steps: int | None = None
    top_logprobs: int = 50
    prefill_chunk: int = 256
    trace: bool = True
    trace_budget_bytes: int = 1 << 30
    host_defaults: Mapping[str, object] = field(default_factory=dict)
    reuse_prefix: bool = False
    grammar: Grammar | None = None
    assistant: ModelSpec | None = None
    negative_prompt: Prompt | None = None
    force_words: tuple[tuple[str, ...], ...] = ()
    cache: CacheSpec = field(default_factory=CacheSpec)
    interventions: tuple[Intervention, ...] = ()
    breakpoints: tuple[Breakpoint, ...] = ()
    branch_budget_bytes: int = 1 << 30
    preset: frozenset[str] = frozenset()

    @property
    def steers_from(self) -> Prompt | None:
        """The negative prompt, if it says anything."""
        return None if self.negative_prompt == Prompt(text="") else self.negative_prompt
