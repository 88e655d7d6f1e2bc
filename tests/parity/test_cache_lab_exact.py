"""The prefix experiment on a model in 16 bits."""

from __future__ import annotations

import pytest

from core.api import load_model
from core.cache_lab import prefix, run
from core.contract import Experiment, OutOfMemoryError, Prompt

ASKED = Experiment("prefix", Prompt(text="Once upon a time"), new_tokens=4)


def test_the_prefix_of_a_model_in_16_bits_is_compared_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("tiny-gpt2", "cpu", "bf16")
    result = run(loaded, ASKED)
    assert result.dtype == "fp32"
    assert "float32 copy" in result.findings[0].text
    checks = [finding.holds for finding in result.findings if finding.holds is not None]
    assert checks == [True, True, True]
    assert str(loaded.module.dtype) == "torch.bfloat16"  # the model in use is as it was
    copies, found = prefix._copies, []

    def bent(cache, count):  # type: ignore[no-untyped-def]
        found.append(copies(cache, count))
        return [(k + 1e-2 * (len(found) > 1), v) for k, v in found[-1]]

    monkeypatch.setattr(prefix, "_copies", bent)
    assert not any(finding.holds for finding in run(loaded, ASKED).findings)  # a hundredth is noticed
    monkeypatch.setattr("core.cache_lab.board.available_bytes", lambda device: 10)
    with pytest.raises(OutOfMemoryError, match="float32 copy"):
        run(loaded, ASKED)
