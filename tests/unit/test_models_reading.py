"""Weights are read while somebody else may change their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from core.contract import ModelLoadError, ModelSpec
from core.models import loader
from core.models.load_control import Unwatched
from tests.models import build_gpt2


def test_a_file_that_is_cut_while_it_is_read_costs_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plain, maps = build_gpt2(tmp_path / "model"), loader.safe_open, Path("/proc/self/maps")

    def opened(path: str, *args: Any, **more: Any) -> Any:
        file = plain(path, *args, **more)
        # Touching the map of a file that is cut ends the process: look first.
        assert not maps.exists() or path not in maps.read_text()
        os.truncate(path, 5000)
        return file

    monkeypatch.setattr(loader, "safe_open", opened)
    with pytest.raises(ModelLoadError) as caught:
        loader.load(ModelSpec(str(folder), "cpu", "fp32"), 1, Unwatched())
    assert "could not be loaded: SafetensorError" in caught.value.message
