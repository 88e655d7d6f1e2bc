"""One fixture for tests that hold for every family."""

from __future__ import annotations

import pytest

from core.models.loaded import LoadedModel
from tests.parity.reference import FAMILIES


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """Each family in turn."""
    return request.getfixturevalue(request.param)
