"""The contract: frozen plain data, complete unions, snapshots as JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from types import ModuleType

import numpy as np
import pytest

import core.contract as contract
from core.contract import (
    CacheReport,
    Candidates,
    Command,
    Event,
    ParameterError,
    StepId,
    StepSnapshot,
    StepTiming,
    TokenglassError,
    ViewUnavailableError,
    branches,
    cache,
    cache_formula,
    cache_lab,
    cache_views,
    commands,
    errors,
    events,
    snapshot,
    specs,
    twins,
    views,
)

MODULES = (branches, cache, cache_formula, cache_lab, cache_views, commands, events, snapshot, specs, twins, views)


def classes_of(module: ModuleType) -> list[type]:
    return [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]


def a_snapshot() -> StepSnapshot:
    top = Candidates(
        token_ids=np.array([7, 3], np.int64),
        pieces=(" a", "\\xf0"),
        logprob=np.array([-0.5, -1.5], np.float32),
        final_logprob=np.array([0.0, -np.inf], np.float32),
        killed_by=np.array([-1, 1], np.int8),
        stages=("temperature", "top_k"),
    )
    cache = CacheReport(5, *(np.array(values, np.int64) for values in ([40, 40], [20, 20], [80, 80], [60, 60])))
    return StepSnapshot(
        id=StepId(1, 2, 0, 0, 0, 4, 9, 3),
        token_id=7,
        piece=" a",
        text=" a",
        token_bytes=b" a",
        logprob=-0.5,
        final_logprob=0.0,
        entropy_bits=1.25,
        final_entropy_bits=0.0,
        rank=0,
        top=top,
        u=None,
        timing=StepTiming(1.0, 0.5, 0.25, 2.0),
        cache=cache,
        trace_bytes=0,
    )


@pytest.mark.parametrize("data", [c for m in MODULES for c in classes_of(m) if dataclasses.is_dataclass(c)])
def test_all_data_is_frozen_and_slotted(data: type) -> None:
    assert data.__dataclass_params__.frozen, data
    assert "__slots__" in vars(data), data
    assert data.__doc__
    assert not data.__doc__.startswith(data.__name__ + "("), f"{data} has no docstring of its own"


def test_the_unions_hold_every_command_and_every_event() -> None:
    begin = {branches.StartBranch, branches.SwitchBranch, branches.DropBranch, twins.StartTwin, twins.EndTwin}
    begin |= {cache_lab.RunExperiment, cache_lab.StopExperiment}
    assert set(typing.get_args(Command)) == set(classes_of(commands)) | begin
    finished = {c for c in classes_of(events) if dataclasses.is_dataclass(c)}
    happened = {StepSnapshot, branches.BranchStarted, branches.BranchSwitched, branches.BranchesHeld}
    happened |= {cache_lab.ExperimentProgress, cache_lab.ExperimentFinished, twins.BranchesGone}
    parts = {events.ViewStatus, events.ModelInfo, events.PromptRow}  # carried by events
    assert set(typing.get_args(Event)) == (finished - parts) | happened


def test_every_public_name_is_exported() -> None:
    public = {c.__name__ for m in (*MODULES, errors) for c in classes_of(m)}
    assert public <= set(contract.__all__)
    assert all(hasattr(contract, name) for name in contract.__all__)


def test_errors_have_stable_distinct_codes_and_travel_as_data() -> None:
    kinds = [c for c in classes_of(errors) if issubclass(c, TokenglassError)]
    assert len({kind.code for kind in kinds}) == len(kinds)
    report = ParameterError("One sentence.", detail="more").report()
    assert dataclasses.astuple(report) == ("parameter", "One sentence.", "more")
    assert str(ParameterError("One sentence.")) == "One sentence."
    assert ViewUnavailableError("Gone.", can_recompute=True).can_recompute


def test_a_cache_report_adds_keys_and_values_of_all_layers() -> None:
    cache = a_snapshot().cache
    assert (cache.used_bytes, cache.allocated_bytes) == (120, 280)


def test_a_snapshot_as_json_has_exactly_the_documented_keys() -> None:
    token = json.loads(json.dumps(a_snapshot().to_json(), allow_nan=False))
    assert list(token) == [
        "row", "beam", "index", "token_id", "token", "bytes", "logprob", "final_logprob", "entropy_bits",
        "final_entropy_bits", "rank", "top_logprobs", "u", "kv_used_bytes", "kv_allocated_bytes", "step_ms",
    ]  # fmt: skip
    assert token["top_logprobs"] == [
        {"token_id": 7, "token": " a", "logprob": -0.5, "final_logprob": 0.0},
        {"token_id": 3, "token": "\\xf0", "logprob": -1.5, "final_logprob": None},
    ]
    assert token["bytes"] == [32, 97]
    assert token["kv_used_bytes"] == [60, 60]
    assert token["kv_allocated_bytes"] == [140, 140]
    assert (token["index"], token["u"], token["step_ms"]) == (4, None, 2.0)
