"""`tokenglass compare`: two runs with the same draws that differ in what is said, and how far they are apart."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from core.cli_run import UsageError, add_run_arguments, parse_settings, run_spec
from core.contract import CompareAnswer

if TYPE_CHECKING:
    from core.models.loaded import LoadedModel
    from core.result import RunResult

EXIT_INTERRUPTED = 130
Watched = Callable[[], AbstractContextManager[Any]]
LONGEST_PIECE = 16
OTHERS = ("set", "intervene", "cache", "model", "dtype", "mode", "seed")


def add_command(commands: Any, watched: Watched) -> None:
    """Add it to the parser of the command line."""
    compare = commands.add_parser(
        "compare", help="two runs with the same draws, and how far they are apart at each token", allow_abbrev=False
    )
    compare.set_defaults(command=_compare, watched=watched)
    add_run_arguments(compare)
    other = compare.add_argument_group("the second run, which is the first one but for these")
    other.add_argument("--other-set", action="extend", nargs="+", metavar="KEY=VALUE", help="generation parameters")
    other.add_argument("--other-intervene", action="append", metavar="WHAT", help="in the place of --intervene")
    other.add_argument("--other-cache", metavar="KIND[,window=N…]", help="another kind of cache")
    other.add_argument("--other-model", metavar="NAME|FOLDER", help="another model with the same vocabulary")
    other.add_argument("--other-dtype", metavar="DTYPE", help="auto, bf16 or fp32")
    other.add_argument("--other-mode", metavar="MODE", help="another GenerationMode")
    other.add_argument("--other-seed", type=int, metavar="N", help="other draws")
    compare.add_argument(
        "--after-pipeline", action="store_true",
        help="compare what tokens were drawn from; default: the models' own distributions",
    )  # fmt: skip
    compare.add_argument("--json", action="store_true", help="one object a line: each token, then the whole")


def _compare(options: argparse.Namespace) -> int:
    second = _second(options)
    from core import api  # the parameters are checked before torch is imported
    from core.models.vocabulary import check_same_vocabulary

    with options.watched() as control:
        both = options, second
        models = [api.load_model(one.model, one.device, one.dtype, control) for one in both]
        check_same_vocabulary(*models)
        results: list[RunResult] = []
        for one, loaded in zip(both, models, strict=True):
            results.append(_run(one, loaded, control))
            if control.cancelled():
                return EXIT_INTERRUPTED
        start = results[0].finished.prompt_tokens[0]
        answer = api.compare(*results, final=options.after_pipeline, positions=(start, None))
        lines = [_token(results, answer, at) for at in range(len(answer.kl_bits))]
        whole = _whole(results, answer, options.after_pipeline)
    if options.json:
        for line in (*lines, whole):
            print(json.dumps(line))
    else:
        print("\n".join(_as_text(lines, whole)))
    return 0


def _second(options: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the second run. Raises `UsageError` or `ParameterError`, for those of the first one, too."""
    other = {name: getattr(options, f"other_{name}") for name in OTHERS}
    if all(value is None for value in other.values()):
        names = ", ".join(f"--other-{name}" for name in OTHERS)
        raise UsageError(f"The second run has to differ in something; give one of {names}.")
    changed = {name: value for name, value in other.items() if name != "set" and value is not None}
    second = argparse.Namespace(**{**vars(options), **changed, "params": [*options.params, *(other["set"] or ())]})
    for one in (options, second):
        parse_settings(one.params)
        run_spec(one)
    return second


def _run(options: argparse.Namespace, loaded: LoadedModel, control: Any) -> RunResult:
    """One side, to its end."""
    from core import api
    from core.contract import StepSnapshot
    from core.result import RunResult

    session = api.open_session(loaded, run_spec(options), control.cancelled)
    return RunResult(session, [event for event in api.events(session) if isinstance(event, StepSnapshot)])


def _token(results: list[RunResult], answer: CompareAnswer, at: int) -> dict[str, Any]:
    """How the two sides are apart at one token."""
    kl_bits = float(answer.kl_bits[at])
    pieces = [one.steps[at].piece for one in results]
    return {
        "index": at,
        "position": answer.positions[0] + at,
        "first": {"token_id": int(answer.token_ids[at, 0]), "token": pieces[0]},
        "second": {"token_id": int(answer.token_ids[at, 1]), "token": pieces[1]},
        "kl_bits": kl_bits if math.isfinite(kl_bits) else None,
        "probability_of_first": answer.probability[at, 0].tolist(),
        "probability_of_second": answer.probability[at, 1].tolist(),
    }


def _whole(results: list[RunResult], answer: CompareAnswer, final: bool) -> dict[str, Any]:
    parted = answer.parted
    return {
        "first_difference": None if parted is None else parted - answer.positions[0],
        "compared": len(answer.kl_bits),
        "distributions": "after the pipeline" if final else "of the models' own",
        "texts": [one.text for one in results],
        "finish_reasons": [one.finish_reason for one in results],
        "new_tokens": [one.finished.new_tokens for one in results],
    }


def _as_text(lines: list[dict[str, Any]], whole: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    wide = LONGEST_PIECE + 2
    heads = (f"{'first':<{wide}}{'second':<{wide}}", f"{'KL bits':>9}", f"{'p in first':>12}", f"{'in second':>11}")
    said = [f"{'step':>5}  " + "".join(heads)]
    parted = whole["first_difference"]
    for line in lines:
        names = "".join(f"{_shown(line[side]['token']):<{wide}}" for side in ("first", "second"))
        kl = "infinite" if line["kl_bits"] is None else f"{line['kl_bits']:.3g}"
        first, second = line["probability_of_first"]
        mark = "  ← first difference" if line["index"] == parted else ""
        said.append(f"{line['index']:>5}  {names}{kl:>9}{first:>12.3g}{second:>11.3g}{mark}")
    end = "the same tokens" if parted is None else f"first difference at step {parted}, different texts from there on"
    counts = " and ".join(f"{count:,} tokens ({why})" for count, why in _ends(whole))
    return [*said, "", f"{counts}; {end}; distributions {whole['distributions']}"]


def _ends(whole: Mapping[str, Any]) -> list[tuple[int, str]]:
    return list(zip(whole["new_tokens"], whole["finish_reasons"], strict=True))


def _shown(piece: str) -> str:
    """A token in a column: what would break the line is written out."""
    text = repr(piece)[1:-1]
    return text if len(text) <= LONGEST_PIECE else text[: LONGEST_PIECE - 1] + "…"
