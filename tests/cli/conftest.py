"""Commands run in this process, as `main` runs them."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from ndtrain.cli.main import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `ndtrain ARGUMENTS...` and returns its exit code and output."""
    for name in ("RANK", "WORLD_SIZE", "NDTRAIN_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Result:
        code = main(arguments)
        return Result(code, *capfd.readouterr())

    return run
