"""Logits that no honest model returns: never a NaN drawn, and a clear message at the token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch

from core.api import events, load_model, open_session
from core.contract import (
    DistributionQuery,
    NonFiniteLogitsError,
    Prompt,
    RunSpec,
    StepSnapshot,
    TokenglassError,
)
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.models import build_gpt2

INF, NAN = math.inf, math.nan
Spoil = Callable[[torch.Tensor], torch.Tensor]


def put(value: float, at: slice | int) -> Spoil:
    """Set some logits of each row."""

    def spoil(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., at] = value
        return logits

    return spoil


def only(values: dict[int, float], elsewhere: float) -> Spoil:
    """These logits, and one value for all others."""

    def spoil(logits: torch.Tensor) -> torch.Tensor:
        logits = torch.full_like(logits, elsewhere)
        for token_id, value in values.items():
            logits[..., token_id] = value
        return logits

    return spoil


REFUSED: dict[str, Spoil] = {
    "one nan": put(NAN, 7),
    "the last is nan": put(NAN, -1),
    "all nan": put(NAN, slice(None)),
    "one +inf": put(INF, 3),
    "all +inf": put(INF, slice(None)),
    "all -inf": put(-INF, slice(None)),
    "nan among -inf": only({5: NAN}, -INF),
    "+inf and -inf": only({5: INF}, -INF),
}
BORNE: dict[str, tuple[Spoil, int | None]] = {  # and the greedy token, where it is known
    "one -inf": (put(-INF, 7), None),
    "half -inf": (put(-INF, slice(0, 150)), None),
    "one hot": (only({42: 0.0}, -INF), 42),
    "one hot and huge": (only({42: 1e30}, -1e30), 42),
    "all equal": (put(0.0, slice(None)), 0),
    "two equal": (only({9: 5.0, 4: 5.0}, 0.0), 4),
    "all huge": (put(3e37, slice(None)), 0),
    "all tiny": (put(-3e37, slice(None)), 0),
    "denormal": (put(1e-40, slice(None)), 0),
}
SETTINGS: dict[str, dict[str, object]] = {
    "greedy": {"do_sample": False},
    "greedy, penalised": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "sample": {"do_sample": True},
    "sample, staged": {
        "do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95,
        "repetition_penalty": 1.2, "min_new_tokens": 2,
    },
    "sample, top_p alone": {"do_sample": True, "top_p": 0.5},
}  # fmt: skip
GOOD_STEPS = 2


@contextmanager
def spoiled(loaded: LoadedModel, spoil: Spoil, after: int) -> Iterator[None]:
    """The head returns spoiled logits from its call number `after` on."""
    calls = 0

    def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        nonlocal calls
        calls += 1
        return spoil(output) if calls > after else None

    handle = loaded.module.get_output_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def run(loaded: LoadedModel, params: dict[str, object], source: str = "counter") -> tuple[Session, list[StepSnapshot]]:
    """A run from start to end; the steps before an error."""
    given = {"max_new_tokens": 6, "eos_token_id": (), **params}
    session = open_session(loaded, RunSpec((Prompt(ids=(1, 2, 3)),), given, seed=3, draw_source=source))  # type: ignore[arg-type]
    steps: list[StepSnapshot] = []
    with suppress(TokenglassError):  # the session keeps it
        steps.extend(e for e in events(session) if isinstance(e, StepSnapshot))
    return session, steps


def assert_sane(step: StepSnapshot, vocab_size: int) -> None:
    """Every number is one, and a distribution sums to no more than 1."""
    assert 0 <= step.token_id < vocab_size
    for value in (step.logprob, step.final_logprob, step.entropy_bits, step.final_entropy_bits):
        assert math.isfinite(value), step
    assert step.final_logprob <= 1e-6
    assert step.entropy_bits >= -1e-6
    for column in (step.top.logprob, step.top.final_logprob):
        assert not np.isnan(column).any()
        assert np.exp(column).sum() <= 1 + 1e-5
    chosen = step.top.token_ids.tolist().index(step.token_id)
    assert step.top.killed_by[chosen] == -1


@pytest.mark.parametrize("source", ["counter", "torch"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("case", REFUSED)
def test_logits_that_are_no_numbers_end_the_run_at_their_token(
    random_gpt2: LoadedModel, case: str, settings: str, source: str
) -> None:
    for good in (0, GOOD_STEPS):
        with spoiled(random_gpt2, REFUSED[case], good):
            session, steps = run(random_gpt2, SETTINGS[settings], source)
        assert len(steps) == good
        assert isinstance(session.error, NonFiniteLogitsError)
        assert f"not finite at token {good};" in session.error.message
        assert session.result().new_tokens == good
        for step in steps:
            assert_sane(step, 300)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("case", BORNE)
def test_strange_but_honest_logits_are_borne(random_gpt2: LoadedModel, case: str, settings: str) -> None:
    spoil, greedy = BORNE[case]
    with spoiled(random_gpt2, spoil, 0):
        session, steps = run(random_gpt2, SETTINGS[settings])
    for step in steps:
        assert_sane(step, 300)
    if session.error is not None:  # a pipeline may well leave no token, and says so
        assert "left no token to choose at token" in session.error.message
        return
    assert len(steps) == 6
    if settings == "greedy" and greedy is not None:
        assert {step.token_id for step in steps} == {greedy}
    if case.startswith("one hot") and "penalised" not in settings:
        assert {step.token_id for step in steps} == {42}
        assert steps[0].final_entropy_bits == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_that_overflow_in_the_pipeline_are_never_drawn(random_gpt2: LoadedModel, settings: str) -> None:
    with spoiled(random_gpt2, only({5: 3e38, 6: -3e38}, 0.0), 0):
        session, steps = run(random_gpt2, {**SETTINGS[settings], "temperature": 0.01})
    for step in steps:
        assert_sane(step, 300)
    if session.error is not None:
        assert isinstance(session.error, NonFiniteLogitsError), session.error.message


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model that knows one token."""
    folder = build_gpt2(tmp_path_factory.mktemp("single"), tokenizer=False, vocab_size=1)
    return load_model(folder, device="cpu", dtype="fp32")


@pytest.mark.parametrize("source", ["counter", "torch"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_vocabulary_of_one_is_certain(single: LoadedModel, settings: str, source: str) -> None:
    given = {k: v for k, v in SETTINGS[settings].items() if k not in ("no_repeat_ngram_size", "min_new_tokens")}
    session = open_session(
        single,
        RunSpec((Prompt(ids=(0,)),), {"max_new_tokens": 5, "eos_token_id": (), **given}, draw_source=source),  # type: ignore[arg-type]
    )
    steps = [e for e in events(session) if isinstance(e, StepSnapshot)]
    assert [step.token_id for step in steps] == [0] * 5
    for step in steps:
        assert_sane(step, 1)
        assert (step.rank, step.top.token_ids.tolist()) == (0, [0])
        assert step.logprob == pytest.approx(0, abs=1e-6)
    answer = session.answer(DistributionQuery(session.run_id, 2, final=True))
    assert answer.token_ids.tolist() == [0]
