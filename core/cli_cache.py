"""`tokenglass cache`: the experiments of the Cache lab, and what a cache will take, as text, JSON or CSV."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.contract import (
    EXPERIMENT_MEANINGS,
    EXPERIMENTS,
    KNOWN_SHAPES,
    CacheShape,
    Experiment,
    LabResult,
    LabTable,
    ModelSpec,
    ParameterError,
    Prompt,
    parse_cache,
    predict,
)
from core.contract.cache_formula import DTYPE_BYTES

EXIT_DIFFERS = 1
EXIT_INTERRUPTED = 130
Watched = Callable[[], AbstractContextManager[Any]]
DEFAULT_PROMPT = "Once upon a time there was a little dog who lived in a big house."


_SIZES = {
    "window": "last positions that a kind with a window keeps; default: half the text",
    "sinks": "first positions that are kept; default: 4",
    "heavy": "positions kept for the attention they got; default: a quarter of the text",
}


def add_commands(commands: Any, watched: Watched) -> None:
    """Add it to the parser of the command line."""
    cache = commands.add_parser("cache", help="what the KV cache is, costs and buys", allow_abbrev=False)
    actions = cache.add_subparsers(required=True, metavar="|".join((*EXPERIMENTS, "predict")))
    for name in EXPERIMENTS:
        action = actions.add_parser(name, help=EXPERIMENT_MEANINGS[name].lower(), allow_abbrev=False)
        action.set_defaults(command=_experiment, watched=watched, experiment=name)
        action.add_argument("--model", required=True, metavar="NAME|FOLDER", help="see “tokenglass models”")
        prompt = action.add_mutually_exclusive_group()
        prompt.add_argument("--prompt", metavar="TEXT", default=None)
        prompt.add_argument("--prompt-ids", metavar="1,2,3", help="the prompt as token ids")
        action.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
        action.add_argument("--dtype", default="auto", help="auto, bf16 or fp32")
        if name in ("why", "prefix", "kinds"):
            action.add_argument("--new-tokens", type=int, default=48, metavar="N")
        else:
            action.add_argument(
                "--positions", type=int, default=None, metavar="N", help="default: as many as there are"
            )
        if name == "kinds":
            action.add_argument(
                "--kind", action="append", default=[], metavar="KIND[,window=N…]", help="may be given several times"
            )
            for size, meaning in _SIZES.items():
                action.add_argument(f"--{size}", type=int, metavar="N", help=meaning)
        if name == "chunks":
            action.add_argument("--chunk-sizes", default="", metavar="N,N…", help="default: powers of two")
        action.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
        action.add_argument("--json", action="store_true", help="one object")
    _add_predict(actions)


def _add_predict(actions: Any) -> None:
    action = actions.add_parser("predict", help="bytes from a model's numbers alone", allow_abbrev=False)
    action.set_defaults(command=_predict)
    action.add_argument(
        "--model", required=True, metavar="TITLE|FAMILY|new:NAME|FOLDER|MODEL",
        help="one of those that “--model list” names, or what has a configuration",
    )  # fmt: skip
    action.add_argument("--positions", type=int, default=None, metavar="N", help="default: all that the model has")
    action.add_argument("--batch", type=int, default=1, metavar="N")
    action.add_argument("--dtype", default="bf16", choices=("fp32", "bf16", "fp16"))
    action.add_argument("--cache", default="growing", metavar="KIND[,window=N…]")
    action.add_argument("--json", action="store_true", help="one object")


def _experiment(options: argparse.Namespace) -> int:
    kinds = tuple(map(parse_cache, getattr(options, "kind", ())))
    experiment = Experiment(
        options.experiment,
        _prompt(options),
        getattr(options, "new_tokens", 1),
        getattr(options, "positions", None),
        kinds,
        _numbers(getattr(options, "chunk_sizes", ""), "chunk sizes such as 8,64,256"),
        getattr(options, "window", None),
        4 if getattr(options, "sinks", None) is None else options.sinks,
        getattr(options, "heavy", None),
    )
    if options.csv is not None:
        _write(options.csv)  # what cannot be written is said before the model is loaded
    from core.cache_lab import begin
    from core.decode.forward import ForwardCancelled
    from core.models.loader import load

    with options.watched() as control:
        loaded = load(ModelSpec(options.model, options.device, options.dtype), 0, control)
        bench, reports = begin(loaded, experiment, control.cancelled)
        stopped = False
        try:
            for report in reports:
                control.progress(report.stage, report.fraction)
        except ForwardCancelled:
            stopped = True
    result = bench.result(complete=not stopped)
    print(json.dumps(asdict(result)) if options.json else as_text(result))
    if options.csv is not None:
        _write(options.csv, "\n".join(table.as_csv() for table in result.tables))
    if stopped:
        return EXIT_INTERRUPTED
    return EXIT_DIFFERS if any(finding.holds is False for finding in result.findings) else 0


def _prompt(options: argparse.Namespace) -> Prompt:
    if options.prompt_ids is None:
        return Prompt(text=DEFAULT_PROMPT if options.prompt is None else options.prompt)
    return Prompt(ids=_numbers(options.prompt_ids, "token ids such as 1,2,3"))


def _numbers(text: str, what: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ParameterError(f"“{text}” is not a list of {what}.") from None


def _write(path: Path, text: str | None = None) -> None:
    """None: only see whether it can be done."""
    try:
        with path.expanduser().open("a" if text is None else "w", encoding="utf-8") as file:
            file.write(text or "")
    except OSError as problem:
        raise ParameterError(f"“{path}” cannot be written: {problem.strerror or problem}.") from problem


def as_text(result: LabResult) -> str:
    """Findings and tables for people."""
    lines = [f"{result.model}, {result.dtype}, {result.seconds:.3g} s"]
    lines += [
        f"{'' if finding.holds is None else '✓ ' if finding.holds else '✗ '}{finding.text}"
        for finding in result.findings
    ]
    for table in result.tables:
        lines += ["", *_grid(table)]
    return "\n".join(lines)


def _grid(table: LabTable) -> list[str]:
    cells = [list(table.columns), *([_cell(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(table.columns))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]


def _cell(cell: str | int | float | None) -> str:
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"


def _predict(options: argparse.Namespace) -> int:
    if options.model == "list":
        titles = [shape.title for shape in KNOWN_SHAPES]
        print(json.dumps(titles) if options.json else "\n".join(titles))
        return 0
    spec = parse_cache(options.cache)
    shape, windows = _shape(options.model)
    positions = shape.max_positions if options.positions is None else options.positions
    if positions < 1 or options.batch < 1:
        raise ParameterError("Positions and batch are whole numbers from 1 on.")
    if positions > shape.max_positions:
        raise ParameterError(
            f"{shape.title} has {shape.max_positions:,} positions, so {positions:,} never come about; take fewer."
        )
    spec.check_sizes(shape.title, shape.max_positions)
    if spec.kind == "hybrid" and not any(windows):
        raise ParameterError(
            f"Every layer of {shape.title} attends to all positions, so there is nothing to keep by layer type; choose "
            "another kind."
        )
    found = predict(shape, spec, options.dtype, options.batch, positions, windows)
    number = DTYPE_BYTES[options.dtype]
    factors = shape.factors(options.batch, positions, number)
    said = {
        "model": shape.title,
        "cache": spec.words(),
        "used_bytes": found.used_bytes,
        "scale_bytes": found.scale_bytes,
        "kept_positions": found.kept,
        "bytes_per_token": found.position_bytes,
        "growing_bytes": predict(shape, parse_cache("growing"), options.dtype, options.batch, positions).used_bytes,
        "formula": shape.formula,
        "factors": factors,
        "d_model": shape.plain_width,
    }
    if options.json:
        print(json.dumps(said))
        return 0
    print(f"{shape.title}: {' × '.join(f'{n:,}' for n in factors)} = {said['growing_bytes']:,} B")
    if shape.plain_width is not None:
        plain = (2, options.batch, positions, shape.layers, shape.plain_width, number)
        print(f"with d_model {shape.plain_width:,}: {' × '.join(f'{n:,}' for n in plain)}")
    if spec.kind != "growing":
        scales = f", {found.scale_bytes:,} B of it scales" if found.scale_bytes else ""
        print(f"{spec.words()}: {found.used_bytes:,} B{scales}")
    print(f"{found.position_bytes:,} B a token in each row")
    return 0


def _shape(name: str) -> tuple[CacheShape, tuple[int | None, ...]]:
    """A known title, or whatever has a configuration."""
    known = next((shape for shape in KNOWN_SHAPES if shape.title.lower() == name.lower()), None)
    if known is not None:
        return known, ()
    from core.configs.sources import find
    from core.models.facts import dimensions, layer_windows

    start = find(name)
    config = start.kind(**start.values)
    size = dimensions(config.get_text_config())
    shape = CacheShape(
        start.title, size.layers, size.heads, size.kv_heads, size.head_dim, size.max_positions, size.hidden_size,
        size.latent,
    )  # fmt: skip
    return shape, layer_windows(config.get_text_config(), size)
