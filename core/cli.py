"""`tokenglass generate`, `compare`, `plan`, `models`, `bench`, `config`, `onnx`, `cache`: as the window does it.

Results go to standard output, everything else to standard error. Exit status: 0, or 2 with one line that says what
was wrong, or 130 after Ctrl+C (what was generated is printed). torch is imported only when a model is needed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from core import cli_cache, cli_compare, cli_desk
from core.cli_picture import add_out_arguments, check_out, write_pictures
from core.cli_plan import as_text, plan_object
from core.cli_run import UsageError, add_run_arguments, run_spec
from core.contract import (
    AttentionAbove,
    BreakpointHit,
    BreakpointProblem,
    Intervention,
    LoadCancelledError,
    RunFinished,
    StepSnapshot,
    TokenglassError,
    break_notation,
    hit_words,
    notation,
)

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # as a process that SIGPIPE ended


class OneLineParser(argparse.ArgumentParser):
    """Raises `UsageError` with one sentence instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """One sentence instead of argparse's usage text."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}; see “{self.prog} --help”.")


def main(argv: Sequence[str], window_bench: Callable[[], dict[str, Any]] | None = None) -> int:
    """Run one command; returns the exit status and never raises for what a user can do wrong.

    window_bench: adds to `bench` what only a window can measure; core has none.
    """
    try:
        options = _parser().parse_args(argv, argparse.Namespace(window_bench=window_bench))
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except TokenglassError as problem:
        _complain(problem.message)
        return EXIT_INTERRUPTED if isinstance(problem, LoadCancelledError) else EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has left; nothing more may be written, not even by the interpreter at its end.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except SystemExit as leaving:  # --help
        return int(leaving.code or 0)
    except Exception as problem:
        _complain(f"Something unforeseen failed: {type(problem).__name__}: {problem}.")
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="tokenglass", description="Watch a language model generate.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="generate text without the window", allow_abbrev=False)
    generate.set_defaults(command=_generate)
    add_run_arguments(generate)
    add_out_arguments(generate)
    generate.add_argument("--json", action="store_true", help="one object a line: each token, then the whole run")

    plan = commands.add_parser("plan", help="say what a run would do and why, without running it", allow_abbrev=False)
    plan.set_defaults(command=_plan)
    add_run_arguments(plan)
    plan.add_argument("--json", action="store_true", help="one object")

    models = commands.add_parser("models", help="list what can be loaded by name", allow_abbrev=False)
    models.set_defaults(command=_models)
    models.add_argument("--json", action="store_true", help="one object a line")

    bench = commands.add_parser("bench", help="measure the engine against generate()", allow_abbrev=False)
    bench.set_defaults(command=_bench)
    bench.add_argument("--model", action="append", metavar="NAME", help="default: tiny-gpt2 and smollm2")
    bench.add_argument("--quick", action="store_true", help="fewer tokens and rounds; the ratios are rough")
    bench.add_argument("--json", action="store_true", help="one object")

    cli_compare.add_command(commands, _watched)
    cli_desk.add_commands(commands, _watched)
    cli_cache.add_commands(commands, _watched)
    return parser


def _models(options: argparse.Namespace) -> int:
    from core.models.sources import list_models

    for source in list_models():
        if options.json:
            fields = {"name": source.name, "title": source.title, "description": source.description}
            print(json.dumps({**fields, "available": source.available, "reason": source.reason}))
        else:
            note = source.description if source.available else f"not available: {source.reason}"
            print(f"{source.name:<16} {source.title:<24} {note}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from core import bench

    report = bench.measure(
        options.model or ["tiny-gpt2", "smollm2"], quick=options.quick, say=_status, window=options.window_bench
    )
    _status(None)
    print(json.dumps(_finite(report)) if options.json else bench.as_table(report))
    return 0


def _generate(options: argparse.Namespace) -> int:
    spec = run_spec(options)
    looks = any(isinstance(one, AttentionAbove) for one in spec.breakpoints)  # attention is derived from the record
    spec = replace(spec, trace=looks, top_logprobs=50 if options.json else 0)
    from core import api  # the parameters are checked before torch is imported

    with _interruptible() as interrupted:
        loaded = api.load_model(options.model, options.device, options.dtype, _Control(interrupted))
        check_out(options, loaded.info)
        session = api.open_session(loaded, spec, interrupted)
        events = api.events(session)
        try:
            _status(None)
            files = partial(write_pictures, options, loaded.info)
            if options.json:
                _print_json(events, session.result, files, spec.interventions)
            elif options.out is not None:
                _print_files(events, session.result, files)
            else:
                # Beams change places while they grow: only the end says which text it is.
                several = session.params.num_beams > 1 or len(session.rows) > 1
                _print_text(events, session.result, several)
        finally:
            events.close()
            session.close()
        return EXIT_INTERRUPTED if interrupted() else 0


def _plan(options: argparse.Namespace) -> int:
    spec = run_spec(options)
    from core import api

    with _interruptible() as interrupted:
        loaded = api.load_model(options.model, options.device, options.dtype, _Control(interrupted))
        session = api.open_session(loaded, spec, interrupted)
        _status(None)
        try:
            print(
                json.dumps(_finite(plan_object(session.started.plan)))
                if options.json
                else as_text(session.started.plan)
            )
        finally:
            session.close()
    return 0


Files = Callable[[RunFinished], list[Path]]  # writes what `--out` asks for


def _print_files(events: Iterator[object], result: Callable[[], RunFinished], files: Files) -> None:
    """Run to the end, then the names of the files; also of what a run that fails half way has painted."""
    try:
        for _ in events:
            pass
    finally:
        for path in files(result()):
            _write(f"{path}\n")


def _print_json(
    events: Iterator[object], result: Callable[[], RunFinished], files: Files, acts: Sequence[Intervention]
) -> None:
    hits = []
    for event in events:
        if isinstance(event, StepSnapshot):
            print(json.dumps(_finite(event.to_json())), flush=True)
        elif isinstance(event, BreakpointHit):
            hits.append(event)
        elif isinstance(event, BreakpointProblem):
            _complain(event.reason)
    finished = result()
    last = {
        "finish_reason": finished.finish_reason,
        "text": finished.texts[0],
        "sequences": finished.sequences,
        "prompt_tokens": finished.prompt_tokens[0],
        "ttft_ms": finished.ttft_ms,
        "tokens_per_s": finished.tokens_per_s,
    }
    if len(finished.texts) > 1:
        last |= {"texts": finished.texts, "finish_reasons": finished.finish_reasons}
    if finished.scores is not None:
        last |= {"sequences_scores": finished.scores}
    if acts:
        last["interventions"] = list(map(notation, acts))
    if hits:
        last["breakpoints"] = [
            {"row": hit.row, "index": hit.index, "condition": break_notation(hit.breakpoint), "value": hit.value}
            for hit in hits
        ]
    written = files(finished)
    if written:
        last["files"] = list(map(str, written))
    print(json.dumps(_finite(last)), flush=True)


def _print_text(events: Iterator[object], result: Callable[[], RunFinished], several: bool) -> None:
    """One row streams as it comes; `several` are printed one after the other at the end."""
    why = said = ""
    try:
        for event in events:
            if isinstance(event, StepSnapshot) and not several:
                said += event.text
                _write(event.text)
            elif isinstance(event, BreakpointHit):
                why = f" · {hit_words(event.breakpoint, event.value)}"
            elif isinstance(event, BreakpointProblem):
                _complain(event.reason)
    finally:  # also what a run that fails half way has said
        # Who is stopped inside a character tells only now what was held back of it.
        texts = result().texts
        rest = texts[0][len(said) :] if texts[0].startswith(said) else ""
        _write(("\n\n".join(texts) if several else rest) + "\n")
    finished = result()
    rate = "" if finished.tokens_per_s is None else f" · {finished.tokens_per_s:.3g} tokens/s"
    if sys.stderr.isatty():
        print(f"{finished.finish_reason}{why} · {finished.new_tokens} tokens{rate}", file=sys.stderr)


def _write(text: str) -> None:
    """To standard output at once, whatever its encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    """JSON knows no infinity and no NaN: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl+C sets a flag, which ends the run within a layer's time; the second one ends everything."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def on_interrupt(_number: int, _frame: object) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _watched() -> Iterator[_Control]:
    """A control that Ctrl+C cancels; its line on the terminal is gone afterwards."""
    with _interruptible() as interrupted:
        try:
            yield _Control(interrupted)
        finally:
            _status(None)


class _Control:
    """What the loader reports to and asks."""

    def __init__(self, interrupted: Callable[[], bool]) -> None:
        self.cancelled = interrupted

    def progress(self, stage: str, fraction: float | None) -> None:
        """Shown on a terminal only."""
        _status(stage if fraction is None else f"{stage} {fraction:4.0%}")


def _complain(sentence: str) -> None:
    _status(None)
    print(" ".join(sentence.split()), file=sys.stderr)


def _status(text: str | None) -> None:
    """A line on the terminal that the next one replaces; None clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text or ''}", end="", file=sys.stderr, flush=True)
