"""Padding that leaves with its row, or stays behind when a row goes its own way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from core.contract import CacheSpec, StartBranch, StepSnapshot
from core.decode.branch import begin_branch
from core.models.loaded import LoadedModel
from tests.parity.branching import advance
from tests.parity.reference import open_session, prompt_of, run

NEW = 24
WINDOWS = [
    CacheSpec("sliding_window", window=4),
    CacheSpec("sink", window=4, sinks=3),
    CacheSpec("sink", window=4, sinks=3, relative=True),
]


@pytest.mark.parametrize("spec", WINDOWS, ids=lambda s: s.words())
def test_a_row_goes_on_as_if_alone_when_the_padded_one_has_ended(random_llama: LoadedModel, spec: CacheSpec) -> None:
    long, short = prompt_of(random_llama, 14, seed=3), prompt_of(random_llama, 6, seed=4)
    alone = run(random_llama, [long], {"max_new_tokens": NEW}, cache=spec, top_logprobs=20)
    said = run(random_llama, [short], {"max_new_tokens": NEW}, cache=spec).sequences[0][6:]
    eos = next(t for i, t in enumerate(said) if i >= 6 and t not in alone.sequences[0][14:] and t not in said[:i])
    both = run(random_llama, [long, short], {"max_new_tokens": NEW, "eos_token_id": [eos]}, cache=spec, top_logprobs=20)
    assert len(both.sequences[1]) < len(both.sequences[0])  # the padding has left with its row
    own = [step for step in both.steps if step.id.row == 0]
    _same_logprobs(own, alone.steps)
    assert both.sequences[0] == alone.sequences[0]


@pytest.mark.parametrize("spec", WINDOWS, ids=lambda s: s.words())
def test_a_branch_of_the_row_without_padding_equals_the_row_alone(random_llama: LoadedModel, spec: CacheSpec) -> None:
    long, short = prompt_of(random_llama, 14, seed=3), prompt_of(random_llama, 6, seed=4)
    alone = run(random_llama, [long], {"max_new_tokens": NEW + 8}, cache=spec, top_logprobs=20)
    parent = open_session(random_llama, [long, short], {"max_new_tokens": NEW}, cache=spec, top_logprobs=20)
    advance(parent)
    at = 14 + NEW - 1
    session, started = begin_branch(parent, StartBranch(1, 2, at, row=0, params={"max_new_tokens": NEW + 8}))
    steps = advance(session)
    assert started.reused_positions == at - 1
    _same_logprobs(steps, alone.steps[NEW - 1 :])


def _same_logprobs(ours: Sequence[StepSnapshot], theirs: Sequence[StepSnapshot]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.token_id == other.token_id
        assert np.allclose(np.sort(one.top.logprob), np.sort(other.top.logprob), atol=1e-3)
