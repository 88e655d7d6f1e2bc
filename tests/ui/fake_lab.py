"""A lab that follows a script, for window tests without a model: same commands, same events, no thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from core.contract import (
    Answered,
    Ask,
    AttentionAnswer,
    AttentionQuery,
    CacheReport,
    CancelLoad,
    Candidates,
    Command,
    CommandRefused,
    DistributionQuery,
    ErrorReport,
    Event,
    GenerationParams,
    LoadFailed,
    LoadModel,
    LoadProgress,
    ModelInfo,
    ModelReady,
    ModelSpec,
    ParamsApplied,
    PauseRun,
    Planned,
    PrefillProgress,
    PreviewPlan,
    PromptRow,
    ResumeRun,
    RunFinished,
    RunStarted,
    SetParams,
    StartRun,
    StateChanged,
    StepId,
    StepSnapshot,
    StepTiming,
    StopRun,
    ThumbnailAnswer,
    ThumbnailQuery,
    Tokenize,
    Tokenized,
    ViewStatus,
    Vitals,
    WaterfallQuery,
    WorkerState,
)
from tests.ui import looking
from tests.ui.fake_plan import fake_plan

STORY = (
    "lived at the edge of a quiet village. Every evening she climbed the hundred and twelve steps, lit the great lamp, "
    "and listened to the sea. One night the lamp would not light. Mara looked out and saw a small boat turning in the "
    "dark, and she knew she had"
)
WORDS = STORY.split(" ")
LAYERS, HEADS = 6, 8


def model_info(model_id: int = 1, *, chat: bool = True, spec: ModelSpec | None = None, **changes: object) -> ModelInfo:
    """A model like tiny-gpt2, with a chat template if wanted."""
    values: dict[str, object] = {
        "model_id": model_id,
        "spec": spec or ModelSpec("tiny-gpt2"),
        "title": "tiny-gpt2",
        "family": "gpt2",
        "device": "cpu",
        "dtype": "bf16",
        "parameters": 5_900_000,
        "weight_bytes": 11_800_000,
        "layers": LAYERS,
        "heads": HEADS,
        "kv_heads": HEADS,
        "head_dim": 32,
        "hidden_size": 256,
        "vocab_size": 4096,
        "max_positions": 512,
        "sliding_window": None,
        "kv_bytes_per_token": 2 * LAYERS * 256 * 2,
        "bos_token_id": 0,
        "eos_token_ids": (0,),
        "has_chat_template": chat,
        "defaults": GenerationParams(do_sample=True, temperature=0.8, top_k=40, max_new_tokens=200, eos_token_id=(0,)),
        "from_generation_config": frozenset({"do_sample", "temperature", "top_k", "max_new_tokens", "eos_token_id"}),
        "views": (ViewStatus("attention", True), ViewStatus("distribution", True)),
        "load_ms": 120.0,
    }
    return ModelInfo(**{**values, **changes})  # type: ignore[arg-type]


def tokens_of(text: str) -> tuple[str, ...]:
    """Words with their leading space, as a byte-level BPE would often cut them."""
    return tuple((" " if n else "") + word for n, word in enumerate(text.split(" "))) if text else ()


def snapshot(
    run_id: int, index: int, prompt_tokens: int, piece: str, epoch: int = 0, **changes: object
) -> StepSnapshot:
    """A plausible step, the same one every time."""
    rng = np.random.default_rng(index)
    raw = np.sort(rng.exponential(1.0, 12))[::-1]
    raw = raw / raw.sum()
    final = np.where(np.arange(12) < 8, raw, 0.0)
    final = final / final.sum()
    length = prompt_tokens + index
    with np.errstate(divide="ignore"):
        log_final = np.log(final).astype(np.float32)
    used = np.full(LAYERS, length * 256 * 2, dtype=np.int64)
    held = np.full(LAYERS, max(64, 1 << (length - 1).bit_length()) * 256 * 2, dtype=np.int64)
    values: dict[str, object] = {
        "id": StepId(1, run_id, 0, 0, 0, index, prompt_tokens + index, epoch),
        "token_id": 100 + index,
        "piece": piece,
        "text": piece,
        "token_bytes": piece.encode(),
        "logprob": float(np.log(raw[index % 3])),
        "final_logprob": float(np.log(final[index % 3])),
        "entropy_bits": float(-(raw * np.log2(raw)).sum()),
        "final_entropy_bits": 2.0,
        "rank": index % 3,
        "top": Candidates(
            token_ids=np.arange(100, 112),
            pieces=(" would", " light", "\n", " glow", " shine", " start", " burn", " <b>x</b>", "é", " a", "b", "c"),
            logprob=np.log(raw).astype(np.float32),
            final_logprob=log_final,
            killed_by=np.where(np.arange(12) < 8, -1, 1).astype(np.int8),
            stages=("temperature", "top_k"),
        ),
        "u": float(rng.random()),
        "timing": StepTiming(18.0, 1.2, 0.4, 20.1),
        "cache": CacheReport(length, used, used, held, held),
        "trace_bytes": length * 3000,
    }
    return StepSnapshot(**{**values, **changes})  # type: ignore[arg-type]


class FakeLab:
    """Answers commands with scripted events; a run gives `steps_per_drain` tokens a `drain`."""

    def __init__(
        self, *, chat: bool = True, steps_per_drain: int = 1, words: tuple[str, ...] | list[str] = WORDS
    ) -> None:
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.chat = chat
        self.steps_per_drain = steps_per_drain
        self.words = tuple(words)
        self.info: ModelInfo | None = None
        self.refuse: Mapping[type, ErrorReport] = {}
        self.hold_loading = False
        self.closed = False
        self.run: RunStarted | None = None
        self.index = 0
        self.left: int | None = None
        self.paused = False
        self.epoch = 0
        self.state = WorkerState.STARTING
        self._set(WorkerState.NO_MODEL)

    def sent(self, kind: type) -> list[Command]:
        """The commands of one type, in order."""
        return [c for c in self.commands if isinstance(c, kind)]

    def submit(self, command: Command) -> None:
        """Record the command and queue its answer."""
        self.commands.append(command)
        if type(command) in self.refuse:
            error = self.refuse[type(command)]
            epoch = command.epoch if isinstance(command, SetParams) else None
            self.events.append(CommandRefused(type(command).__name__, error, epoch))
            return
        answers: dict[type, Callable[..., None]] = {
            LoadModel: self._load,
            CancelLoad: self._cancel,
            StartRun: self._start,
            PauseRun: self._pause,
            ResumeRun: self._resume,
            StopRun: lambda _: self._finish("cancelled"),
            SetParams: self._set_params,
            Tokenize: self._tokenize,
            Ask: self._ask,
            PreviewPlan: self._plan,
        }
        answer = answers.get(type(command))
        if answer is not None:
            answer(command)

    def drain(self) -> list[Event]:
        """The queued events, and the next tokens of a run in progress."""
        for _ in range(self.steps_per_drain):
            self._one_step()
        events, self.events = self.events, []
        return events

    def close(self, timeout_s: float) -> bool:
        """Always in time."""
        self.closed = True
        return True

    def _set(self, state: WorkerState) -> None:
        self.state = state
        self.events.append(StateChanged(state))

    def _load(self, command: LoadModel) -> None:
        self._set(WorkerState.LOADING)
        self.events.append(LoadProgress(command.model_id, "reading weights", 0.5))
        if not self.hold_loading:
            self.finish_loading(command)

    def finish_loading(self, command: LoadModel) -> None:
        """The load is done; with `hold_loading` a test calls it when it wants."""
        self.info = model_info(command.model_id, chat=self.chat, spec=command.spec, title=command.spec.name)
        self.events.append(ModelReady(self.info))
        self._set(WorkerState.READY)

    def _cancel(self, command: CancelLoad) -> None:
        if self.state is not WorkerState.LOADING:
            return
        loads = self.sent(LoadModel)
        error = ErrorReport("load_cancelled", "Loading was cancelled.")
        self.events.append(LoadFailed(loads[-1].model_id, error, self.info.title if self.info else None))  # type: ignore[union-attr]
        self._set(WorkerState.READY if self.info else WorkerState.NO_MODEL)

    def _start(self, command: StartRun) -> None:
        if self.run is not None:
            self._finish("cancelled")
        assert self.info is not None
        prompt = command.spec.prompts[0]
        pieces = tokens_of(prompt.text if prompt.text is not None else self._render(prompt.messages or ()))
        row = PromptRow(tuple(range(len(pieces))), pieces, "".join(pieces))
        params = self.info.defaults.replace({**command.spec.host_defaults, **command.spec.params})
        plan = fake_plan(self.info, command.spec, params, len(pieces))
        self.run = RunStarted(
            self.info.model_id,
            command.run_id,
            0,
            (row,),
            params,
            command.spec.seed,
            len(pieces) + params.max_new_tokens,
            plan,
        )
        self.index, self.left, self.paused = 0, command.spec.max_steps, False
        self.events.append(self.run)
        self._set(WorkerState.PREFILL)
        self.events.append(PrefillProgress(command.run_id, len(pieces), len(pieces), 42.0))
        self._set(WorkerState.DECODING)

    def _one_step(self) -> None:
        run = self.run
        if run is None or self.paused:
            return
        if self.left == 0:
            self._pause(PauseRun())
            return
        text = self.words[self.index % len(self.words)]
        n = len(run.rows[0].pieces)
        self.events.append(snapshot(run.run_id, self.index, n, " " + text, self.epoch))
        self.events.append(Vitals(run.run_id, 0.021, 120_000))
        self.index += 1
        self.left = None if self.left is None else self.left - 1
        if self.index >= run.params.max_new_tokens:
            self._finish("length")

    def _pause(self, command: PauseRun) -> None:
        if self.run is not None:
            self.paused = True
            self._set(WorkerState.PAUSED)

    def _resume(self, command: ResumeRun) -> None:
        if self.run is not None:
            self.paused, self.left = False, command.max_steps
            self._set(WorkerState.DECODING)

    def _set_params(self, command: SetParams) -> None:
        if self.run is not None:
            self.epoch = command.epoch
            params = self.run.params.replace(command.changes)
            changed = tuple(command.changes)
            self.events.append(ParamsApplied(self.run.run_id, command.epoch, self.index, params, changed))

    def _finish(self, reason: str) -> None:
        run, self.run = self.run, None
        if run is None:
            return
        text = "".join(" " + self.words[i % len(self.words)] for i in range(self.index))
        n = len(run.rows[0].pieces)
        self.events.append(
            RunFinished(run.run_id, reason, (reason,), (text,), ((),), (n,), self.index, 212.0, 41.3),
        )
        self._set(WorkerState.READY)

    def _tokenize(self, command: Tokenize) -> None:
        prompt = command.prompt
        text = prompt.text if prompt.text is not None else self._render(prompt.messages or ())
        pieces = tokens_of(text)
        if not pieces:
            error = ErrorReport("prompt", "The prompt is empty; write something first.")
            self.events.append(Tokenized(command.generation, None, error))
            return
        self.events.append(Tokenized(command.generation, PromptRow(tuple(range(len(pieces))), pieces, text)))

    def _plan(self, command: PreviewPlan) -> None:
        if self.info is None:
            return
        prompt = command.spec.prompts[0]
        pieces = tokens_of(prompt.text if prompt.text is not None else self._render(prompt.messages or ()))
        if not pieces:
            error = ErrorReport("prompt", "The prompt is empty; write something first.")
            self.events.append(Planned(command.generation, None, error))
            return
        params = self.info.defaults.replace({**command.spec.host_defaults, **command.spec.params})
        self.events.append(Planned(command.generation, fake_plan(self.info, command.spec, params, len(pieces))))

    @staticmethod
    def _render(messages: tuple) -> str:  # type: ignore[type-arg]
        return "".join(f"<|{m.role}|>{m.content}\n" for m in messages) + "<|assistant|>"

    def _ask(self, command: Ask) -> None:
        query = command.query
        length = (len(self.run.rows[0].pieces) if self.run else 10) + self.index
        if isinstance(query, AttentionQuery):
            start, stop = query.rows[0], query.rows[1] or length
            heads = 1 if query.reduce else len(query.heads or range(HEADS))
            weights = np.tril(np.random.default_rng(query.layer).random((heads, stop, stop))).astype(np.float32)
            weights = (weights / weights.sum(axis=-1, keepdims=True))[:, start:stop]
            answer = AttentionAnswer(query, weights, (start, stop), stop)
        elif isinstance(query, ThumbnailQuery):
            maps = np.random.default_rng(0).random((len(query.layers), HEADS, query.size, query.size))
            answer = ThumbnailAnswer(query, np.tril(maps).astype(np.float32), (0, length))  # type: ignore[assignment]
        elif isinstance(query, DistributionQuery | WaterfallQuery):
            self.events.append(
                Answered(command.slot, command.generation, None, ErrorReport("view", "Not in the script."))
            )
            return
        else:
            assert self.info is not None
            answer = looking.answer(query, self.info, length)  # type: ignore[assignment]
        self.events.append(Answered(command.slot, command.generation, answer))
