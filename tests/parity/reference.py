"""What transformers itself computes, and runs of our engine to hold against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig

from core.contract import GenerationParams, PrefillProgress, Prompt, RunFinished, RunSpec, StepSnapshot
from core.decode.session import Session
from core.models.loaded import LoadedModel

LANGUAGE = ("tiny_gpt2", "random_gpt2", "random_llama", "random_qwen2", "random_qwen2_sliding")
FAMILIES = (*LANGUAGE, "random_imagegpt")
Rows = Sequence[Sequence[int]]


@dataclass
class Ours:
    """A finished run of our engine."""

    session: Session
    steps: list[StepSnapshot]
    progress: list[PrefillProgress]
    finished: RunFinished

    @property
    def sequences(self) -> list[list[int]]:
        return [list(ids) for ids in self.finished.sequences]

    def of_row(self, row: int) -> list[StepSnapshot]:
        return [step for step in self.steps if step.id.row == row]


def prompt_of(loaded: LoadedModel, length: int, seed: int = 0) -> list[int]:
    """Token ids without EOS, the same each time."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(1, loaded.info.vocab_size, (length,), generator=generator).tolist()


def open_session(loaded: LoadedModel, rows: Rows, params: dict[str, Any] | None = None, **spec: Any) -> Session:
    """A session on token ids; what `params` leaves open is neutral (greedy, no EOS), not the model's default."""
    neutral = {n: v for n, v in asdict(GenerationParams()).items() if n != "min_new_tokens"}  # it would count as chosen
    chosen = {**neutral, "max_new_tokens": 12, **(params or {})}
    return Session(loaded, RunSpec(tuple(Prompt(ids=tuple(row)) for row in rows), chosen, **spec), run_id=1)


def finish(session: Session) -> Ours:
    """Run a session to its end."""
    events: list[PrefillProgress | StepSnapshot] = []
    with session.attached():
        while not session.finished:
            events += session.advance()
    steps = [event for event in events if isinstance(event, StepSnapshot)]
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    return Ours(session, steps, progress, session.result())


def run(loaded: LoadedModel, rows: Rows, params: dict[str, Any] | None = None, **spec: Any) -> Ours:
    """Open and finish."""
    return finish(open_session(loaded, rows, params, **spec))


@contextmanager
def plain(loaded: LoadedModel, attention: str = "sdpa") -> Iterator[Any]:
    """The model as transformers runs it: its own attention, no defaults of its generation config."""
    model = loaded.module
    config, implementation = model.generation_config, model.config._attn_implementation
    model.generation_config = GenerationConfig()
    model.set_attn_implementation(attention)
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.generation_config = config
        model.set_attn_implementation(implementation)


def pad_left(loaded: LoadedModel, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (B, T)."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=loaded.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=loaded.device)
    return ids, mask


def generate(loaded: LoadedModel, rows: Rows, *, seed: int | None = None, **params: Any) -> Any:
    """`generate()` with exactly these parameters; returns its output with scores and logits."""
    ids, mask = pad_left(loaded, rows)
    params = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0, **params}
    if not params.get("eos_token_id"):
        params.pop("eos_token_id", None)
    with plain(loaded) as model, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        return model.generate(
            ids, attention_mask=mask, return_dict_in_generate=True, output_scores=True, output_logits=True, **params
        )


def unpadded(rows: Rows, sequences: torch.Tensor, eos: Sequence[int] = (), copies: int = 1) -> list[list[int]]:
    """Rows of `generate()` without the padding on the left, and cut after their first EOS."""
    width, found = max(map(len, rows)), []
    for index, sequence in enumerate(sequences.tolist()):
        prompt = list(rows[index // copies])
        new = sequence[width:]
        end = next((i + 1 for i, token in enumerate(new) if token in eos), len(new))
        assert sequence[width - len(prompt) : width] == prompt
        found.append(prompt + new[:end])
    return found


def full_logits(loaded: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    """Logits (T, V) of one forward pass over all positions, without any cache."""
    with plain(loaded) as model:
        logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)], device=loaded.device), use_cache=False).logits
        return logits[0].float()


def twin(loaded: LoadedModel) -> LoadedModel:
    """A copy for passes that ask transformers for its insides: it then hooks the model for good."""
    return replace(loaded, module=deepcopy(loaded.module))


def eager_attention(loaded: LoadedModel, ids: Sequence[int]) -> list[torch.Tensor]:
    """`output_attentions` of one eager pass over all positions: per layer (H, T, T)."""
    with plain(twin(loaded), "eager") as model:
        tokens = torch.tensor([list(ids)], device=loaded.device)
        output = model(input_ids=tokens, use_cache=False, output_attentions=True)
        return [weights[0].float() for weights in output.attentions]


def dense(step: StepSnapshot, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw and final log-probabilities (V,) of a step that recorded every token as a candidate."""
    assert len(step.top.token_ids) == vocabulary
    raw, final = torch.full((vocabulary,), torch.nan), torch.full((vocabulary,), torch.nan)
    ids = torch.tensor(step.top.token_ids)
    raw[ids], final[ids] = torch.tensor(step.top.logprob), torch.tensor(step.top.final_logprob)
    return raw, final
