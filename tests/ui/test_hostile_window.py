"""Hostile folders chosen in the window: one error each, the model in use stays, the next run works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.state import intents as i
from tests.hostile import build_base, prepare_outside
from tests.hostile_cases import CASES
from tests.ui.real import finished, live, opened

pytestmark = pytest.mark.usefixtures("qapp")

CHOSEN = (
    "a regular expression that explodes",
    "added tokens of one id",
)


def test_the_window_outlives_hostile_folders(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base")
    with opened(tmp_path / "settings.json") as one:
        kept = one.state.model
        for number, name in enumerate(CHOSEN):
            folder = Path(shutil.copytree(base, tmp_path / f"model{number}"))
            CASES[name].change(folder, prepare_outside(tmp_path / f"outside{number}"))
            before = len(one.state.errors)
            one.do(i.ChooseModel(str(folder), dtype="fp32"))
            assert one.state.loading is not None
            live(one, lambda: one.state.loading is None)
            (error,) = one.state.errors[before:]
            assert error.text.endswith("."), name
            assert one.state.model is kept
        assert one.window.isVisible()
        one.do(i.SetParameter("max_new_tokens", 3))
        one.do(i.Run())
        live(one, lambda: one.state.run is not None and finished(one) and one.state.run.finish is not None)
        assert one.state.run is not None
        assert one.state.run.count == 3
