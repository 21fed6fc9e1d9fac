"""Fixtures of the kernel tests."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> str:
    return request.param
