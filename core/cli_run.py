"""The command-line arguments that describe a run, shared by `generate` and `plan`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.cli_picture import add_image_arguments, picture_prompt
from core.contract import (
    CACHE_KINDS,
    ChatMessage,
    Grammar,
    ModelSpec,
    Prompt,
    RunSpec,
    TokenglassError,
    parse_breakpoint,
    parse_cache,
    parse_intervention,
    validate,
)


class UsageError(TokenglassError):
    """A wrong command line."""

    code = "usage"


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, prompt, parameters, constraint."""
    parser.add_argument("--model", required=True, metavar="NAME|FOLDER", help="see “tokenglass models”")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT")
    prompt.add_argument("--prompt-ids", type=_ids, metavar="1,2,3", help="the prompt as token ids")
    add_image_arguments(parser, prompt)
    parser.add_argument("--chat", action="store_true", help="send the prompt through the model's chat template")
    parser.add_argument("--mode", metavar="MODE", help="a GenerationMode; default: as generate() infers it")
    parser.add_argument(
        "--set", dest="params", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
        help="generation parameters by their GenerationConfig names, such as temperature=0.8",
    )  # fmt: skip
    parser.add_argument("--assistant-model", metavar="NAME|FOLDER", help="a smaller model that drafts tokens")
    parser.add_argument(
        "--negative-prompt", metavar="TEXT",
        help="what guidance steers away from (default, or empty: the last token of the prompt alone); goes with --set "
        "guidance_scale=1.5",
    )  # fmt: skip
    parser.add_argument(
        "--force-words", action="append", default=[], metavar="A|B",
        help="a phrase that beams must say, or one of several; goes with --set num_beams=5; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--intervene", action="append", default=[], metavar="WHAT",
        help="change what the model computes: “heads 3.1,4” (muted; “* 0.5” scales them), “skip 5.mlp”, "
        "“steer 6 * 4 = \"love\" - \"hate\"”, “mute 3-5” (positions), “delete 3-5” (from the "
        "cache, too); may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--break-when", action="append", default=[], metavar="CONDITION",
        help="end at the first token that meets it: “entropy>5”, “probability<0.01”, “rank>10”, “text~REGEX”, "
        "“token=13,198”, “attention 3.1@0>0.5”, “cache>1MB”, “every=16”; may be given several times",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cache", default="growing", metavar="KIND[,window=N…]",
        help=f"how keys and values are kept: {', '.join(CACHE_KINDS)}; such as sink,window=128,sinks=4",
    )  # fmt: skip
    grammar = parser.add_mutually_exclusive_group()
    grammar.add_argument("--regex", metavar="PATTERN", help="the continuation matches this regular expression")
    grammar.add_argument("--json-schema", metavar="FILE", help="the continuation is JSON of this schema")
    grammar.add_argument(
        "--choice", action="append", metavar="TEXT", help="the continuation is one of these; give it several times"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--dtype", default="auto", help="auto, bf16 or fp32")


def run_spec(options: argparse.Namespace) -> RunSpec:
    """What the arguments ask for. Raises `UsageError` or `ParameterError`."""
    params = parse_settings(options.params)
    if options.num_return_sequences is not None:
        params |= validate({"num_return_sequences": options.num_return_sequences})
    if options.chat and options.prompt is None:
        raise UsageError("--chat needs a text; give it with --prompt.")
    picture = picture_prompt(options)
    if picture is not None:
        prompt = picture
    elif options.chat:
        prompt = Prompt(messages=(ChatMessage("user", options.prompt),))
    elif options.prompt is not None:
        prompt = Prompt(text=options.prompt)
    else:
        prompt = Prompt(ids=tuple(options.prompt_ids))
    helper = options.assistant_model
    assistant = None if helper is None else ModelSpec(helper, options.device, options.dtype)
    return RunSpec(
        (prompt,),
        params,
        options.mode,
        options.seed,
        grammar=_grammar(options),
        assistant=assistant,
        cache=parse_cache(options.cache),
        negative_prompt=None if options.negative_prompt is None else Prompt(text=options.negative_prompt),
        interventions=tuple(map(parse_intervention, options.intervene)),
        breakpoints=tuple(map(parse_breakpoint, options.break_when)),
        force_words=tuple(map(_alternatives, options.force_words)),
    )


def _alternatives(text: str) -> tuple[str, ...]:
    """The phrases of `--force-words`, one of which has to be said. Raises `UsageError`."""
    found = tuple(part for part in text.split("|") if part)
    if not found:
        raise UsageError(f"--force-words “{text}” has no phrase; write one, such as “ moon”, or several, “ moon| sun”.")
    return found


def _grammar(options: argparse.Namespace) -> Grammar | None:
    if options.regex is not None:
        return Grammar("regex", options.regex)
    if options.choice:
        return Grammar("choice", json.dumps(options.choice))
    if options.json_schema is None:
        return None
    try:
        return Grammar("json_schema", Path(options.json_schema).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"“{options.json_schema}” cannot be read: {reason}.") from problem


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"“{text}” is not a list of token ids such as 1,2,3") from None


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts as parameters; a value is JSON where it can be, else text. Raises `ParameterError`."""
    params: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"“{setting}” is not a parameter; write key=value, such as temperature=0.8.")
        try:
            params[key.strip()] = json.loads(value)
        except (ValueError, RecursionError):  # no JSON, or a number of thousands of digits
            params[key.strip()] = value
    return validate(params)
