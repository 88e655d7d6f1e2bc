"""Scripts and notebooks: one blocking call, or a stream of snapshots, on the engine the window uses.

Everything happens in the calling thread; calls from several threads wait for each other. A model stays loaded
between calls until `unload`, and carries hooks only while a step is computed, never between two of them.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from core.arguments import to_beginning, to_budget, to_cache, to_extras
from core.contract import (
    Breakpoint,
    BreakpointHit,
    CacheSpec,
    FinishReason,
    GenerationPlan,
    Grammar,
    Intervention,
    ModelSpec,
    ParameterError,
    PictureAnswer,
    PictureQuery,
    RunSpec,
    StartBranch,
    StepSnapshot,
)
from core.contract.specs import DrawSource
from core.contract.twins import CompareAnswer, CompareAttentionAnswer, CompareAttentionQuery, CompareQuery
from core.contract.views import ViewAnswer
from core.prompts import (
    Ids,
    Image,
    Images,
    Messages,
    Text,
    to_breakpoints,
    to_ids,
    to_interventions,
    to_negative,
    to_picture,
    to_whole,
)
from core.result import RunResult

# torch is imported when a model is first used, so that `import core.api` stays quick.
if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from core.decode.extras import Extras
    from core.decode.pipeline import AllowedTokens, Processor
    from core.decode.session import RunEvent, Session
    from core.decode.stopping import Criterion
    from core.models.load_control import LoadControl
    from core.models.loaded import LoadedModel

ModelName = str | os.PathLike[str]

_lock = threading.RLock()  # loading changes process-wide torch state, so nothing may run meanwhile
_loaded: dict[tuple[str, str, str], LoadedModel] = {}
_numbers = itertools.count(1)


def run(
    model: ModelName,
    prompt: Text | None = None,
    *,
    prompt_ids: Ids | None = None,
    messages: Messages | None = None,
    image: Images | None = None,
    keep_rows: int | None = None,
    keep_pixels: int | None = None,
    params: Mapping[str, object] | None = None,
    mode: str | None = None,
    seed: int = 0,
    draw_source: DrawSource = "counter",
    top_logprobs: int = 50,
    trace: bool = True,
    trace_budget_mb: int = 1024,
    prefill_chunk: int = 256,
    cache: CacheSpec | str | None = None,
    grammar: Grammar | None = None,
    assistant_model: ModelName | None = None,
    negative_prompt: str | Sequence[int] | None = None,
    interventions: Sequence[Intervention | str] = (),
    breakpoints: Sequence[Breakpoint | str] = (),
    device: str = "auto",
    dtype: str = "auto",
    logits_processor: Sequence[Processor] = (),
    stopping_criteria: Sequence[Criterion] = (),
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    past_key_values: RunResult | Cache | None = None,
    inputs_embeds: object = None,
    attention_mask: object = None,
) -> RunResult:
    """Generate until every row has ended; blocks, and works in the calling thread.

    model: a name of `core.list_models()` or a local transformers folder; stays loaded (see `unload`).
    prompt, prompt_ids, messages, image: exactly one of them: text, token ids, or the turns of a chat (dictionaries with
        `role` and `content`), which the model's chat template renders. Several prompts, as a list of texts, of lists
        of ids or of chats, run as one batch.
    image: instead of a prompt, a picture for a model whose tokens are pixels: a file, an array (height, width, 3 or 4)
        of uint8, or a `Picture`; several as a list. It is resized and quantised, and the first `keep_rows` rows of
        the model's canvas, or its first `keep_pixels`, are given; the rest is painted.
    params: `GenerationConfig` keywords, such as `{"max_new_tokens": 40, "temperature": 0.8}`; the rest comes
        from the model's generation config, then from the defaults.
    mode: a `GenerationMode` such as `sample` or `beam_search`; None infers it from `params`, as `generate()` does.
    seed: of the draws; the same seed gives the same tokens.
    draw_source: `counter` (a function of seed, row and position) or `torch` (what `generate()` draws).
    top_logprobs: candidates in each snapshot, 0 for none.
    cache: how keys and values are kept: a `CacheSpec`, or words such as `sink,window=64,sinks=4`; None: all of them.
    trace: record what `attention` and `distribution` of the result are derived from.
    trace_budget_mb: MiB of records that are kept; beyond, the oldest are dropped.
    prefill_chunk: positions of the prompt fed at once.
    grammar: what each continuation must be: a regular expression, a JSON schema or one of several texts.
    assistant_model: a smaller model with the same vocabulary that drafts tokens (assisted generation).
    negative_prompt: text or token ids that classifier-free guidance (`guidance_scale`) steers away from; with a
        scale and no negative prompt, or an empty one, it is the last token of each prompt, as in `generate()`.
    interventions: changes to what the model computes, from the first position on: `ScaleHeads`, `SkipPart`, `Steer`,
        `MutePositions`, `DeletePositions` of `core.contract`, or texts such as `"heads 3.1"`, `"delete 3-5"` or
        `'steer 6 * 4 = "love" - "hate"'`.
    breakpoints: conditions that end the run after the token that meets one, with the finish reason `breakpoint`:
        `EntropyAbove` and the others of `core.contract`, or texts such as `"entropy>5"`.
    device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. dtype: `auto`, `bf16` or `fp32`.
    logits_processor: own stages, called with ids (B, T) of rows of equal length, without padding, and scores (B, V);
        they come after those that `params` ask for and before temperature. One of a class that `params` ask for takes
        its place. With a true attribute `replayable` views run it again for past steps.
    stopping_criteria: called after each token of each row with its ids (1, T) and a tuple that ends with its final
        scores (1, V), as `generate()` does; true ends the row.
    prefix_allowed_tokens_fn: number of the prompt and ids (T,) of a row → the ids that may follow.
    past_key_values: where the run starts: an earlier result on the same model, whose tokens the prompt begins with (or
        goes on with all of it, if there is no prompt), or a cache of transformers together with all ids, those in the
        cache included. Several rows go on each with its own, or all with the only one there is; `num_beams` rows a
        prompt will do as well, as `generate()` takes them. A cache of transformers is padded on the left as prompts
        are here. What an earlier result holds no more (rows that ended before the others, beams) is fed again:
        `started.reused_positions` says how many positions, padding included, were not. Not in contrastive search.
    inputs_embeds: a tensor or array (B, T, E) in the place of the prompts. As in `generate()`, `sequences` and what
        processors see begin after it, unless there is a prompt, too: then its tokens, one a position, are in there and
        the embeddings are fed. In all modes; a draft model reads tokens, so it needs such a prompt.
    attention_mask: (B, T) for inputs_embeds of unequal lengths: 0 for the padding, on the left, and else 1.

    Raises `ModelLoadError`, `PromptError`, `ParameterError`, or what ended the run, all of them `TokenglassError`
    with one sentence for the user.
    """
    prompts = to_beginning(
        past_key_values, inputs_embeds, prompt, prompt_ids, messages, image, keep_rows, keep_pixels
    )  # fmt: skip
    spec = RunSpec(
        prompts, dict(params or {}), mode, seed, draw_source, 0, None, top_logprobs, prefill_chunk, trace,
        trace_budget_bytes=to_budget(trace_budget_mb),
        cache=to_cache(cache), grammar=grammar, assistant=_assistant(assistant_model, device, dtype),
        negative_prompt=to_negative(negative_prompt),
        interventions=to_interventions(interventions), breakpoints=to_breakpoints(breakpoints),
    )  # fmt: skip
    extras = to_extras(
        logits_processor, stopping_criteria, prefix_allowed_tokens_fn, past_key_values, inputs_embeds, attention_mask
    )  # fmt: skip
    session = open_session(load_model(model, device, dtype), spec, extras=extras)
    seen = list(events(session))
    steps = [event for event in seen if isinstance(event, StepSnapshot)]
    return RunResult(session, steps, _lock, [event for event in seen if isinstance(event, BreakpointHit)])


def stream(
    model: ModelName,
    prompt: Text | None = None,
    *,
    prompt_ids: Ids | None = None,
    messages: Messages | None = None,
    image: Images | None = None,
    keep_rows: int | None = None,
    keep_pixels: int | None = None,
    params: Mapping[str, object] | None = None,
    mode: str | None = None,
    seed: int = 0,
    draw_source: DrawSource = "counter",
    top_logprobs: int = 50,
    trace: bool = False,
    trace_budget_mb: int = 1024,
    prefill_chunk: int = 256,
    cache: CacheSpec | str | None = None,
    grammar: Grammar | None = None,
    assistant_model: ModelName | None = None,
    negative_prompt: str | Sequence[int] | None = None,
    interventions: Sequence[Intervention | str] = (),
    breakpoints: Sequence[Breakpoint | str] = (),
    device: str = "auto",
    dtype: str = "auto",
    logits_processor: Sequence[Processor] = (),
    stopping_criteria: Sequence[Criterion] = (),
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    past_key_values: RunResult | Cache | None = None,
    inputs_embeds: object = None,
    attention_mask: object = None,
) -> Generator[StepSnapshot, None, None]:
    """Yield the snapshot of each token as it comes; the arguments and errors are those of `run`.

    The model is loaded and the prompt checked by the call itself, the rest happens while iterating. Leaving
    the loop early, or closing the generator, ends the run. Nothing is recorded for views unless `trace` is set.
    """
    prompts = to_beginning(
        past_key_values, inputs_embeds, prompt, prompt_ids, messages, image, keep_rows, keep_pixels
    )  # fmt: skip
    spec = RunSpec(
        prompts, dict(params or {}), mode, seed, draw_source, 0, None, top_logprobs, prefill_chunk, trace,
        trace_budget_bytes=to_budget(trace_budget_mb),
        cache=to_cache(cache), grammar=grammar, assistant=_assistant(assistant_model, device, dtype),
        negative_prompt=to_negative(negative_prompt),
        interventions=to_interventions(interventions), breakpoints=to_breakpoints(breakpoints),
    )  # fmt: skip
    extras = to_extras(
        logits_processor, stopping_criteria, prefix_allowed_tokens_fn, past_key_values, inputs_embeds, attention_mask
    )  # fmt: skip
    return _steps(open_session(load_model(model, device, dtype), spec, extras=extras))


def branch(
    result: RunResult,
    position: int,
    *,
    token_ids: Sequence[int] = (),
    text: str | None = None,
    reroll: int | None = None,
    params: Mapping[str, object] | None = None,
    interventions: Sequence[Intervention | str] | None = None,
    breakpoints: Sequence[Breakpoint | str] | None = None,
    row: int = 0,
) -> RunResult:
    """A second run that keeps the first `position` tokens of a row of `result`, prompt included, and goes on by itself.

    What is kept is neither fed nor recorded again. token_ids or text are said there first; inside the prompt they end
    it. Without them the mode chooses: the same again, or with another reroll other draws. params: changed from there.
    interventions, breakpoints: as in `run`, from there on; None for those of `result`.
    Raises `PromptError` or `ParameterError`; `result` stays as it is.
    """
    from core.decode.branch import begin_branch

    position, row, said = to_whole(position, "position"), to_whole(row, "row"), to_ids(token_ids, "token_ids")
    reroll = None if reroll is None else to_whole(reroll, "reroll")
    command = StartBranch(
        result.finished.run_id, next(_numbers), position, result.session.branch_id, row, said, text, reroll,
        dict(params or {}), None, None if interventions is None else to_interventions(interventions),
        None if breakpoints is None else to_breakpoints(breakpoints),
    )  # fmt: skip
    with _lock:
        session, started = begin_branch(result.session, command)
    kept = [step for step in result.steps if step.id.row == row and step.id.index < started.kept_tokens]
    seen = list(events(session))
    own = [event for event in seen if isinstance(event, StepSnapshot)]
    return RunResult(session, [*kept, *own], _lock, [event for event in seen if isinstance(event, BreakpointHit)])


def compare(
    first: RunResult,
    second: RunResult,
    *,
    final: bool = False,
    positions: tuple[int, int | None] = (1, None),
    row: int = 0,
    other_row: int = 0,
) -> CompareAnswer:
    """How two results differ in what their tokens were chosen from, from what both have recorded; nothing is run.

    The results may be branches, or runs of their own, also of two models with the same vocabulary. final: after the
    pipeline, with the parameters in force at the time (infinite where the second rules out what the first keeps); else
    the models' own distributions. positions: of tokens, prompt included, at which both are compared. Arrays: see
    `CompareAnswer`. Raises `ParameterError` or `ViewUnavailableError`.
    """
    answer = _compared(first, second, CompareQuery(0, 0, positions, final, other_row, row))
    assert isinstance(answer, CompareAnswer)
    return answer


def compare_attention(
    first: RunResult,
    second: RunResult,
    layer: int,
    *,
    heads: Sequence[int] | None = None,
    reduce: str | None = None,
    rows: tuple[int, int | None] = (0, None),
    row: int = 0,
    other_row: int = 0,
) -> CompareAttentionAnswer:
    """The attention of one result less that of another, for the query positions that both have.

    heads, reduce: as in `AttentionQuery`; several heads have to be joined. Raises as `compare`.
    """
    chosen = None if heads is None else tuple(heads)
    query = CompareAttentionQuery(0, 0, layer, chosen, reduce, rows, None, other_row, row)
    answer = _compared(first, second, query)
    assert isinstance(answer, CompareAttentionAnswer)
    return answer


def _compared(first: RunResult, second: RunResult, query: CompareQuery | CompareAttentionQuery) -> ViewAnswer:
    from core.models.vocabulary import check_same_vocabulary

    with _lock:
        check_same_vocabulary(first.session.loaded, second.session.loaded)
        return first.session.answer(query, second.session)


def plan(
    model: ModelName,
    prompt: Text | None = None,
    *,
    prompt_ids: Ids | None = None,
    messages: Messages | None = None,
    image: Images | None = None,
    keep_rows: int | None = None,
    keep_pixels: int | None = None,
    params: Mapping[str, object] | None = None,
    mode: str | None = None,
    seed: int = 0,
    draw_source: DrawSource = "counter",
    top_logprobs: int = 50,
    trace: bool = True,
    trace_budget_mb: int = 1024,
    prefill_chunk: int = 256,
    cache: CacheSpec | str | None = None,
    grammar: Grammar | None = None,
    assistant_model: ModelName | None = None,
    negative_prompt: str | Sequence[int] | None = None,
    interventions: Sequence[Intervention | str] = (),
    device: str = "auto",
    dtype: str = "auto",
    logits_processor: Sequence[Processor] = (),
    stopping_criteria: Sequence[Criterion] = (),
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    past_key_values: RunResult | Cache | None = None,
    inputs_embeds: object = None,
    attention_mask: object = None,
) -> GenerationPlan:
    """What `run` would do with these arguments, in ten steps, without generating; the errors are those of `run`."""
    prompts = to_beginning(
        past_key_values, inputs_embeds, prompt, prompt_ids, messages, image, keep_rows, keep_pixels
    )  # fmt: skip
    spec = RunSpec(
        prompts, dict(params or {}), mode, seed, draw_source, 0, None, top_logprobs, prefill_chunk, trace,
        cache=to_cache(cache), grammar=grammar, assistant=_assistant(assistant_model, device, dtype),
        negative_prompt=to_negative(negative_prompt),
        interventions=to_interventions(interventions),
    )  # fmt: skip
    extras = to_extras(
        logits_processor, stopping_criteria, prefix_allowed_tokens_fn, past_key_values, inputs_embeds, attention_mask
    )  # fmt: skip
    session = open_session(load_model(model, device, dtype), spec, extras=extras)
    try:
        return session.started.plan
    finally:
        session.close()


def _assistant(name: ModelName | None, device: str, dtype: str) -> ModelSpec | None:
    return None if name is None else ModelSpec(_resolved(name), device, dtype)


def _steps(session: Session) -> Generator[StepSnapshot, None, None]:
    try:
        yield from (event for event in events(session) if isinstance(event, StepSnapshot))
    finally:
        session.close()


def unload(model: ModelName | None = None) -> None:
    """Free a model that `run` or `stream` keep loaded, or all of them."""
    with _lock:
        name = None if model is None else _resolved(model)
        for key in [key for key in _loaded if name in (None, key[0])]:
            del _loaded[key]


def load_model(
    model: ModelName, device: str = "auto", dtype: str = "auto", control: LoadControl | None = None
) -> LoadedModel:
    """The model, loaded now or before. Raises `ModelLoadError`."""
    from core.decode.selftest import qualify
    from core.models.loader import load
    from core.models.placement import choose_device

    name, place = _resolved(model), str(choose_device(device))
    with _lock:
        loaded = _loaded.get((name, place, dtype))
        if loaded is None:
            loaded = qualify(load(ModelSpec(name, device, dtype), next(_numbers), control or _Quiet()))
            loaded = _loaded.setdefault((name, place, loaded.info.dtype), loaded)
            _loaded[name, place, dtype] = loaded
        return loaded


class _Quiet:
    """A load that nobody watches."""

    def progress(self, stage: str, fraction: float | None) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def _resolved(model: ModelName) -> str:
    """One spelling for one model, so that two spellings of one folder load once."""
    from core.models.sources import canonical_name

    return canonical_name(os.fspath(model))


def score_picture(model: ModelName, image: Image, *, device: str = "auto", dtype: str = "auto") -> PictureAnswer:
    """How surprising a picture is to an image model: `surprisal_bits` (H, W) and `bits_per_pixel`.

    The picture is resized and quantised as a prompt is. Raises `ModelLoadError`, `PromptError`, `ViewUnavailableError`.
    """
    from core.decode.score import derive_picture

    loaded, picture = load_model(model, device, dtype), to_picture(image)
    with _lock:
        slices = derive_picture(loaded, PictureQuery(loaded.info.model_id, picture))
        while True:
            try:
                next(slices)
            except StopIteration as done:
                answer: PictureAnswer = done.value
                return answer


def open_session(
    loaded: LoadedModel,
    spec: RunSpec,
    cancelled: Callable[[], bool] = lambda: False,
    *,
    extras: Extras | None = None,
) -> Session:
    """A run that has not begun yet; `cancelled` is asked before every layer. Raises as `run` does."""
    from core.decode.extras import NONE
    from core.decode.session import Session

    asked = spec.assistant
    assistant = None if asked is None else load_model(asked.name, asked.device, asked.dtype)
    with _lock:
        session = Session(
            loaded, spec, run_id=next(_numbers), cancelled=cancelled, assistant=assistant, extras=extras or NONE
        )
    for problem in session.breaks.take_problems():
        raise ParameterError(problem.reason)
    if spec.steers_from is not None and session.params.guidance_scale == 1:
        raise ParameterError("A negative prompt has no effect while guidance_scale is 1; set it, to 1.5 for example.")
    return session


def events(session: Session) -> Generator[RunEvent, None, None]:
    """Run a session to its end or a breakpoint, event by event; closing the generator ends the run as cancelled."""
    try:
        while not session.finished:
            with _lock, session.attached():
                done = session.advance()
            yield from done
            if any(isinstance(event, BreakpointHit) for event in done):
                session.cancel(FinishReason.BREAKPOINT)
    finally:
        session.cancel()
