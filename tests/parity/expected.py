"""What transformers 4.51.3 returned, see `tests/data/reference/README.md`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from core.contract import Prompt, RunSpec
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, finish

FOLDER = Path(__file__).parents[1] / "data" / "reference"


def cases(mode: str, *files: str) -> list[dict[str, Any]]:
    """The cases of a mode."""
    names = files or ("expected.json", "batches.json")
    return [case for name in names for case in json.loads((FOLDER / name).read_text())["cases"] if case["mode"] == mode]


def label(case: dict[str, Any]) -> str:
    """Names a case in the list of tests."""
    params = " ".join(f"{name}={value}" for name, value in case["params"].items() if name != "do_sample")
    return f"{case['model']} {len(case.get('prompts', [0]))} {params}"


@cache
def model(name: str) -> LoadedModel:
    """One of the three models, in float32."""
    from core.api import load_model

    return load_model(FOLDER / name, device="cpu", dtype="fp32")


def run_case(case: dict[str, Any], **spec: Any) -> Ours:
    """Our engine on a case; the model's own EOS counts, as it did there."""
    prompts = tuple(Prompt(ids=tuple(ids)) for ids in case.get("prompts") or [case["prompt"]])
    negative = case.get("negative_prompt")
    chosen = {**case["params"], "max_new_tokens": case["max_new_tokens"]}
    session = Session(
        model(case["model"]),
        RunSpec(
            prompts,
            chosen,
            case["mode"],
            seed=case.get("seed", 0),
            draw_source="torch" if "seed" in case else "counter",
            negative_prompt=None if negative is None else Prompt(ids=tuple(negative)),
            **spec,
        ),
        run_id=1,
    )
    return finish(session)
