"""What core can be asked to do, one thing a scenario, on four models: text, pictures, a folder, an export."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.contract import (
    Answered,
    Ask,
    AttentionQuery,
    AttributionQuery,
    BranchSwitched,
    CacheContentQuery,
    CacheSpec,
    ChatMessage,
    CheckOnnx,
    ColumnQuery,
    Command,
    CommandRefused,
    CompareQuery,
    ConfigDescribed,
    DescribeConfig,
    DescribeOnnx,
    Experiment,
    ExperimentFinished,
    ExportOnnx,
    Grammar,
    HeadsQuery,
    InterventionQuery,
    KeyNormsQuery,
    LensQuery,
    LoadFailed,
    LoadModel,
    ModelPreviewed,
    ModelReady,
    ModelSaved,
    ModelSpec,
    NormsQuery,
    OnnxDescribed,
    OnnxFinished,
    Picture,
    PictureQuery,
    Planned,
    PreviewModel,
    PreviewPlan,
    Prompt,
    RolloutQuery,
    RunExperiment,
    RunFinished,
    RunSpec,
    SaveModel,
    SkipPart,
    StartBranch,
    StartRun,
    StartTwin,
    SwitchBranch,
    Tokenize,
    Tokenized,
    WalkQuery,
    WatchQuery,
    WaterfallQuery,
)
from tests.campaign.driver import PROMPT, TINY, Driver

PROMPT_IDS = range(7)
BASE = {"eos_token_id": (), "max_new_tokens": 4, "do_sample": False}
BEAMS = {"num_beams": 3}
NEW = "new:gpt2?n_layer=1&n_embd=32&n_head=2&vocab_size=300"
PAINTER = "new:imagegpt?vocab_size=28&n_positions=64&n_layer=2&n_embd=32&initializer_range=0.3"
PICTURE = Picture.of(np.random.default_rng(5).integers(0, 256, (11, 9, 3)).astype(np.uint8))
CANVAS = (Prompt(image=PICTURE, keep_pixels=20),)
CHAT = Prompt(messages=(ChatMessage("user", "Hello"),))
_numbers = itertools.count(10_000)


@dataclass(frozen=True)
class Scenario:
    """Commands for a run that has ended, and the events of which one says that they were carried out.

    commands: of the driver, the run before, and a folder that is the scenario's own. desk: on which model. slow: even
    without a failure it takes seconds.
    """

    commands: Callable[[Driver, int, Path], tuple[Command, ...]]
    done: tuple[type, ...]
    desk: str = "text"
    slow: bool = False


@dataclass(frozen=True)
class Desk:
    """A model, and what it is given to read. `name`: of the folder that a test makes for it."""

    name: str
    prompts: tuple[Prompt, ...]
    is_folder: bool = False

    def spec(self, folder: Path) -> ModelSpec:
        return ModelSpec(str(folder) if self.is_folder else self.name, device="cpu", dtype="fp32")


DESKS = {
    "text": Desk(TINY.name, PROMPT),
    "pictures": Desk(PAINTER, CANVAS),
    "folder": Desk("folder", (Prompt(text="Hello, world"),), is_folder=True),
    "export": Desk(NEW, (Prompt(ids=(1, 2, 3)),)),
}


def run(params: dict[str, Any], desk: str = "text", prompts: tuple[Prompt, ...] = (), **spec: Any) -> Scenario:
    def commands(_driver: Driver, _before: int, _folder: Path) -> tuple[Command, ...]:
        return (StartRun(next(_numbers), RunSpec(prompts or DESKS[desk].prompts, {**BASE, **params}, **spec)),)

    return Scenario(commands, (RunFinished,), desk)


def view(make: Callable[[int], Any], desk: str = "text") -> Scenario:
    return Scenario(lambda _driver, before, _folder: (Ask("view", 1, make(before)),), (Answered,), desk)


def command(make: Callable[[Path], Command], done: type, desk: str = "text", slow: bool = False) -> Scenario:
    return Scenario(lambda _driver, _before, folder: (make(folder),), (done,), desk, slow)


def branch(_driver: Driver, before: int, _folder: Path) -> tuple[Command, ...]:
    return (StartBranch(before, 1, len(PROMPT_IDS) + 1, reroll=1),)


def put(_driver: Driver, before: int, _folder: Path) -> tuple[Command, ...]:
    return (StartBranch(before, 1, len(PROMPT_IDS) + 1, text=" dog"), SwitchBranch(before, 0))


def twin(_driver: Driver, before: int, _folder: Path) -> tuple[Command, ...]:
    return (StartTwin(before, 1, params={"repetition_penalty": 1.5}),)


def compare(driver: Driver, before: int, folder: Path) -> tuple[Command, ...]:
    return (*branch(driver, before, folder), Ask("view", 1, CompareQuery(before, 1)))


def surprise(driver: Driver, _before: int, _folder: Path) -> tuple[Command, ...]:
    assert driver.model is not None
    return (Ask("view", 1, PictureQuery(driver.model.model_id, PICTURE)),)


def load(driver: Driver, _before: int, _folder: Path) -> tuple[Command, ...]:
    assert driver.model is not None
    return (LoadModel(driver.model.spec, next(_numbers)),)


SCENARIOS: dict[str, Scenario] = {
    "beam search": run(BEAMS),
    "beam sampling": run({**BEAMS, "do_sample": True}),
    "beam groups": run({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}),
    "constrained beams": run({**BEAMS, "force_words_ids": ((5,),)}),
    "contrastive": run({"penalty_alpha": 0.5, "top_k": 4}),
    "DoLa": run({"dola_layers": "high"}),
    "prompt lookup": run({"prompt_lookup_num_tokens": 3}),
    "early exit": run({"assistant_early_exit": 2}),
    "draft model": run({}, assistant=ModelSpec("tiny-gpt2", device="cpu", dtype="fp32")),
    "guidance": run({"guidance_scale": 2.0}, negative_prompt=Prompt(text="It was")),
    "grammar": run({}, grammar=Grammar("regex", r" [a-z ]+\.")),
    "torch's draws": run({"do_sample": True, "top_p": 0.9}, draw_source="torch"),
    "rows": run({"num_return_sequences": 2, "do_sample": True, "repetition_penalty": 1.2}),
    "reused prefix": run({}, reuse_prefix=True),
    "intervened": run({}, interventions=(SkipPart(1, "mlp"),)),
    "sinks": run({}, cache=CacheSpec("sink", window=4, sinks=2)),
    "heavy hitters": run({}, cache=CacheSpec("heavy_hitters", window=4, heavy=2)),
    "eight bits": run({}, cache=CacheSpec("int8")),
    "no cache": run({}, cache=CacheSpec("off")),
    "lens": view(lambda n: LensQuery(n, (2, 5))),
    "norms": view(lambda n: NormsQuery(n, 4, contributions=True)),
    "attribution": view(lambda n: AttributionQuery(n, 4, 5)),
    "walk": view(lambda n: WalkQuery(n, (4, 6))),
    "waterfall": view(lambda n: WaterfallQuery(n, 7, {"temperature": 0.5, "do_sample": True})),
    "rollout": view(lambda n: RolloutQuery(n, (2, 5))),
    "column": view(lambda n: ColumnQuery(n, 1, 2)),
    "heads": view(lambda n: HeadsQuery(n, (0, 1))),
    "key norms": view(lambda n: KeyNormsQuery(n, 1)),
    "cache content": view(lambda n: CacheContentQuery(n, 1, head=0)),
    "watch": view(lambda n: WatchQuery(n, (5, " dog"), (2, 6))),
    "what if": view(lambda n: InterventionQuery(n, 5, (SkipPart(1, "mlp"),))),
    "branch": Scenario(branch, (RunFinished, CommandRefused)),
    "branch with a text": Scenario(put, (CommandRefused, BranchSwitched)),
    "twin": Scenario(twin, (RunFinished, CommandRefused)),
    "comparison": Scenario(compare, (Answered,)),
    "experiment": command(
        lambda _f: RunExperiment(next(_numbers), Experiment("prefix", PROMPT[0], new_tokens=2)), ExperimentFinished
    ),
    "plan": command(lambda _f: PreviewPlan(1, RunSpec(PROMPT, BASE)), Planned),
    "config": command(lambda _f: DescribeConfig(1, "gpt2", {"n_layer": 2}), ConfigDescribed),
    "config of the model": command(lambda _f: DescribeConfig(1, ""), ConfigDescribed),
    "save": command(lambda f: SaveModel(1, NEW, str(f / "new")), ModelSaved),
    "graph": command(lambda _f: DescribeOnnx(1), OnnxDescribed),
    "refused export": command(lambda f: ExportOnnx(1, str(f / "no.onnx"), 3), OnnxFinished),
    "check of nothing": command(lambda f: CheckOnnx(1, str(f / "none.onnx")), OnnxFinished),
    "export": command(lambda f: ExportOnnx(1, str(f / "model.onnx"), 20), OnnxFinished, "export", slow=True),
    "picture": run({"do_sample": True}, "pictures"),
    "pictures": run({"do_sample": True, "num_return_sequences": 2}, "pictures"),
    "guided picture": run({"guidance_scale": 2.0}, "pictures"),
    "attention to pixels": view(lambda n: AttentionQuery(n, layer=1), "pictures"),
    "lens of pixels": view(lambda n: LensQuery(n, (20, 22)), "pictures"),
    "heads of pixels": view(lambda n: HeadsQuery(n, (0, 1)), "pictures"),
    "surprise": Scenario(surprise, (Answered,), "pictures"),
    "graph of a painter": command(lambda _f: DescribeOnnx(1), OnnxDescribed, "pictures"),
    "load of a painter": Scenario(load, (ModelReady, LoadFailed), "pictures"),
    "load of a folder": Scenario(load, (ModelReady, LoadFailed), "folder"),
    "look at a folder": Scenario(
        lambda driver, _b, _f: (PreviewModel(1, driver.model.spec),) if driver.model else (),
        (ModelPreviewed,),
        "folder",
    ),
    "chat": command(lambda _f: Tokenize(1, CHAT), Tokenized, "folder"),
    "run of a chat": run({}, "folder", (CHAT,)),
}
