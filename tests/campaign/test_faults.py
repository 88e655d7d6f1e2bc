"""Everything that core calls fails once, in every way: it is told in one sentence, and the next run works."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from core.contract import (
    Answered,
    Ask,
    AttentionQuery,
    ChatMessage,
    DistributionQuery,
    LoadFailed,
    ModelPreviewed,
    ModelReady,
    PauseRun,
    PreviewModel,
    Prompt,
    ResumeRun,
    RunFinished,
    RunStarted,
    SetParams,
    StopRun,
    ThumbnailQuery,
    Tokenize,
    Tokenized,
    WorkerState,
)
from tests.campaign.driver import PROMPT, TINY, Driver, errors
from tests.leaks import assert_no_hooks

BEAMS = {"do_sample": False, "num_beams": 3, "max_new_tokens": 5}
MODES: dict[str, dict[str, object]] = {
    "beams": BEAMS,
    "groups": {**BEAMS, "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "constraints": {**BEAMS, "force_words_ids": ((5,),)},
}
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "max_new_tokens": 4}


class PanicError(BaseException):
    """What Rust extensions raise when they panic: outside Exception."""


FAULTS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: RuntimeError("first line\nsecond line"),
    "memory": lambda: MemoryError(),
    "device memory": lambda: torch.OutOfMemoryError("Tried to allocate 2.00 GiB.\nSee documentation"),
    "panic": lambda: PanicError("called `Option::unwrap()` on a `None` value"),
}


@dataclass(frozen=True)
class Site:
    """A call that fails. `target` is module:attribute; `act` provokes it; the calls before `after` still work."""

    target: str
    act: str
    after: int = 0
    event: str = ""  # only calls that are given an event of this type count

    def __str__(self) -> str:
        return f"{self.act}: {self.target.partition(':')[2]}{f' of {self.event}' if self.event else ''}"


def _sites(act: str, *targets: str, after: int = 0) -> list[Site]:
    return [Site(target, act, after) for target in targets]


SITES = [
    *_sites(
        "load",
        "core.models.loader:choose_device",
        "core.models.loader:choose_dtype",
        "core.models.loader:resolve",
        "core.models.loader:find_folder",
        "core.models.loader:check_folder",
        "core.models.loader:draw_up",
        "core.models.loader:check_stored",
        "core.models.loader:check_memory",
        "core.models.loader:_trusted_tokenizer",
        "core.models.loader:_load_module",
        "core.models.loader:_generation_config",
        "core.models.loader:safe_open",
        "core.models.loader:settle",
        "core.models.loader:check_finite",
        "core.models.loader:model_info",
        "core.controls:LoadControl.progress",
        "core.decode.session:Session.close",
    ),
    *_sites("tokenize", "core.domains.text:TextDomain.encode", "core.domains.text:TextDomain.piece"),
    *_sites("tokenize", "tokenizers:Tokenizer.encode_batch", "core.decode.prepare:PromptRow"),
    *_sites("chat", "core.domains.text:TextDomain.render_chat"),
    *_sites(
        "start",
        "core.decode.session:Session",
        "core.decode.prepare:resolve_params",
        "core.decode.prepare:prompt_rows",
        "core.decode.prepare:pad_left",
        "core.decode.session:make_plan",
        "core.decode.lengths:settle_lengths",
        "core.decode.session:Forward",
        "core.decode.session:make_cache",
        "core.decode.session:Trace",
        "core.decode.session:build_pipeline",
        "core.decode.session:make_mode",
        "core.domains.text:TextDomain.stream",
        "core.decode.session:Session.attached",
        "core.decode.branch:give_up_cache",  # of the run before
    ),
    *_sites(
        "run",
        "transformers:GPT2LMHeadModel.forward",
        "core.decode.forward:Forward.__call__",
        "core.decode.forward:Forward._before_layer",
        "core.decode.forward:Forward._before_norm",
        "core.decode.kv:GrowLayer.update",
        "core.decode.kv:GrowLayer._writable",
        "core.trace.record:Trace.take",
        "core.trace.record:Trace.take_residual",
        "core.trace.record:Trace.commit",
        "core.decode.engine:PrefillProgress",
        "core.decode.session:Session.advance",
        "core.desk:Meter.step",
    ),
    *_sites(
        "run",
        "core.decode.engine:process",
        "core.decode.engine:observe",
        "core.decode.engine:cache_report",
        "core.decode.engine:_check_finite",
        "core.decode.engine:_process",
        "core.decode.engine:StepSnapshot",
        "core.decode.engine:StepTiming",
        "transformers:TemperatureLogitsWarper.__call__",
        "transformers:TopKLogitsWarper.__call__",
        "transformers:TopPLogitsWarper.__call__",
        "core.decode.modes.sample:CounterSample.choose",
        "core.decode.modes.sample:inverse_cdf",
        "core.decode.modes.sample:uniform",
        "core.domains.stream:TextStream.push",
        "core.domains.text:TextDomain.token_bytes",
        "core.decode.stopping:RowStop.check",
        "core.decode.forward:Forward.__call__",
        after=2,
    ),
    *_sites(
        "stop",
        "core.domains.stream:TextStream.flush",
        "core.decode.session:Session.cancel",
        "core.decode.session:Session.result",
        "core.decode.session:Session.note_pause",
        "core.desk:Meter.share",
    ),
    *_sites(
        "change",
        "core.decode.session:Session.set_params",
        "core.decode.session:build_pipeline",
        "core.decode.session:make_mode",
        "core.contract.params:GenerationParams.replace",
    ),
    *_sites(
        "attention",
        "core.decode.session:derive",
        "core.decode.session:Session.recording",
        "core.trace.attention:sliced_weights",
        "core.trace.attention:family_eager",
        "core.trace.record:Trace.queries",
        "core.decode.kv.sight:CacheSight.keys",
        "core.desk:Meter.view",
    ),
    *_sites("thumbnails", "core.trace.attention:adaptive_max_pool2d", "core.trace.attention:sliced_weights"),
    *_sites(
        "distribution",
        "core.models.anatomy:Anatomy.read_out",
        "core.trace.record:Trace.residuals",
        "core.decode.recorded:final_scores",
    ),
    *_sites(
        "beams",
        "core.decode.modes.hypotheses:Pool.add",
        "core.decode.modes.beams:Beams.end",
        "core.decode.modes.beams:Beams.choose",
        "core.decode.modes.beams:Beams.conclude",
        "core.decode.modes.beams:length_score",
        "core.decode.modes.beams:best_first",
        "core.decode.session:Session.result",
        "core.branches:Branches.trim",
    ),
    *_sites("groups", "core.decode.modes.hypotheses:Pool.add", "core.decode.modes.beams:Beams.end"),
    *_sites("constraints", "core.decode.modes.constrained_beam:ConstrainedBeamSearch._end_all"),
    *_sites("preview", "core.models.preview:resolve"),
    *(Site("core.mailbox:Mailbox.put", act, 0, event) for act, event in (
        ("load", "StateChanged"),
        ("load", "ModelReady"),
        ("start", "RunStarted"),
        ("run", "StateChanged"),
        ("run", "PrefillProgress"),
        ("run", "StepSnapshot"),
        ("run", "RunFinished"),
        ("stop", "RunFinished"),
        ("change", "ParamsApplied"),
    )),
    *(Site("core.mailbox:Mailbox.put_latest", act, 0, event) for act, event in (
        ("load", "LoadProgress"),
        ("attention", "Answered"),
        ("tokenize", "Tokenized"),
        ("stop", "Vitals"),
    )),
]  # fmt: skip


class Trap:
    """Patches a site so that it fails once, in the worker thread only."""

    def __init__(self, site: Site, make: Callable[[], BaseException], patch: pytest.MonkeyPatch) -> None:
        self.armed = self.fired = False
        self._left = site.after
        module, _, path = site.target.partition(":")
        *owners, name = path.split(".")
        holder: Any = importlib.import_module(module)
        for owner in owners:
            holder = getattr(holder, owner)
        original = getattr(holder, name)

        @functools.wraps(original)
        def failing(*args: Any, **kwargs: Any) -> Any:
            given = type(args[-1]).__name__ if args else ""
            here = threading.current_thread().name == "tokenglass-worker"
            if here and self.armed and not self.fired:
                if not site.event or given == site.event:
                    self.fired = self._left == 0
                    self._left -= 1
                if self.fired:
                    raise make()
            return original(*args, **kwargs)

        patch.setattr(holder, name, failing)


@pytest.fixture(scope="module")
def modules() -> list[Any]:
    """The torch modules that were loaded, newest last."""
    return []


@pytest.fixture(scope="module")
def driver(modules: list[Any]) -> Iterator[Driver]:
    from core.models import loader

    load = loader.load

    def noting(*args: Any) -> Any:
        loaded = load(*args)
        modules[:] = [loaded.module]
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "load", noting)
        one = Driver()
        yield one
        one.close()


def prepare(driver: Driver, act: str) -> int:
    """What must have happened before; returns the run's number."""
    if act in ("load", "start", "run", *MODES):
        driver.run(max_new_tokens=1)  # a session to be given up, whatever test came before
    if act in ("stop", "change"):
        run_id = driver.start(max_steps=2)
        driver.until(lambda: driver.state is WorkerState.PAUSED)
        return run_id
    if act in ("attention", "thumbnails", "distribution"):
        return driver.run(temperature=0.5, do_sample=True).run_id
    return 0


def provoke(driver: Driver, act: str, run_id: int) -> None:
    """Do what should meet the fault, until it was told; whatever began has also ended."""
    if act == "load":
        number = driver.load()
        driver.until(lambda: any(isinstance(e, ModelReady | LoadFailed) for e in driver.events))
        assert [e for e in driver.events if isinstance(e, LoadFailed) and e.model_id == number]
    elif act in ("tokenize", "chat"):
        chat = Prompt(messages=(ChatMessage("user", "Hello"),))
        driver.submit(Tokenize(-1, chat if act == "chat" else PROMPT[0]))
        driver.until(lambda: bool(errors(driver.events)))
        told = [e for e in driver.events if isinstance(e, Tokenized)]
        assert not told or told[0].generation == -1
    elif act == "preview":
        driver.submit(PreviewModel(-1, TINY))
        driver.until(lambda: any(isinstance(e, ModelPreviewed) for e in driver.events))
    elif act in ("start", "run", *MODES):
        driver.start(**MODES.get(act, SAMPLING))
        driver.until(lambda: bool(errors(driver.events)) and driver.state is WorkerState.READY)
    elif act == "stop":
        driver.submit(StopRun())
        driver.until(lambda: bool(errors(driver.events)) and driver.state is WorkerState.READY)
    elif act == "change":
        driver.submit(SetParams({"do_sample": False, "top_k": 5}, 1))
        driver.until(lambda: bool(errors(driver.events)))
        driver.submit(ResumeRun(max_steps=1), PauseRun())  # the run was not harmed
        driver.sync()
    else:
        view(driver, act, run_id)


def view(driver: Driver, act: str, run_id: int) -> None:
    """Ask for a view of a finished run."""
    queries = {
        "attention": AttentionQuery(run_id, layer=0),
        "thumbnails": ThumbnailQuery(run_id, (0, 1)),
        "distribution": DistributionQuery(run_id, 3, final=True),
    }
    driver.submit(Ask("view", 1, queries[act]))
    driver.until(lambda: bool(errors(driver.events)))
    told = [e for e in driver.events if isinstance(e, Answered)]
    assert not told or told[0].answer is None


def check(driver: Driver, site: Site, fault: str, reference: tuple[int, ...], modules: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if site.act == "chat":
            patch.setattr("core.domains.text.TextDomain.has_chat_template", True)
        trap = Trap(site, FAULTS[fault], patch)
        run_id = prepare(driver, site.act)
        trap.armed = True
        provoke(driver, site.act, run_id)
        assert trap.fired, "the fault was never met"
        driver.settle()
    begun = [e.run_id for e in driver.events if isinstance(e, RunStarted)]
    ended = [e.run_id for e in driver.events if isinstance(e, RunFinished)]
    lost = {"RunStarted": begun, "RunFinished": ended}.get(site.event)
    assert begun == ended or lost is not None
    told = errors(driver.events)
    assert len(told) == 1, told
    sentence = told[0].message
    assert sentence.isprintable(), sentence
    assert sentence.endswith("."), sentence
    assert driver.alive
    assert driver.state is WorkerState.READY
    assert_no_hooks(modules[-1])
    assert driver.run().sequences[0] == reference
    driver.forget()


@pytest.fixture(scope="module")
def reference(driver: Driver) -> tuple[int, ...]:
    ids = driver.run().sequences[0]
    driver.forget()
    return ids


@pytest.fixture
def calm(driver: Driver) -> Iterator[None]:
    """A test that failed leaves the next one a lab to work with."""
    yield
    driver.settle()
    driver.forget()


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize(
    ("site", "fault"), [(s, [*FAULTS][n % len(FAULTS)]) for n, s in enumerate(SITES)], ids=lambda value: str(value)
)
def test_one_failure_is_told_and_the_next_run_works(
    driver: Driver, modules: list[Any], reference: tuple[int, ...], site: Site, fault: str
) -> None:
    check(driver, site, fault, reference, modules)


@pytest.mark.slow
@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("site", SITES, ids=str)
def test_every_failure_is_told_and_the_next_run_works(
    driver: Driver, modules: list[Any], reference: tuple[int, ...], site: Site, fault: str
) -> None:
    check(driver, site, fault, reference, modules)


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_self_test_switches_views_off_or_refuses_the_model(
    driver: Driver, reference: tuple[int, ...], fault: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        trap = Trap(Site("core.decode.selftest:use_our_attention", "load"), FAULTS[fault], patch)
        trap.armed = True
        driver.load()
        driver.until(lambda: any(isinstance(e, ModelReady | LoadFailed) for e in driver.events))
        assert trap.fired
    ready = [e for e in driver.events if isinstance(e, ModelReady)]
    reasons = [v.reason for e in ready for v in e.info.views if not v.available]
    sentences = [*reasons, *(error.message for error in errors(driver.events))]
    assert sentences
    for sentence in sentences:
        assert sentence.isprintable()
        assert sentence.endswith(".")
    driver.forget()
    assert driver.run().sequences[0] == reference
    driver.forget()
    driver.load()  # the views are back
    info = driver.until_event(ModelReady, since=0).info
    assert all(view.available for view in info.views)
