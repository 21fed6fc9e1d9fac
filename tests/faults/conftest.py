"""Cases, and runs that were never disturbed to compare with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Case


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.end()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Six steps on one rank, in one go."""
    case = Case(tmp_path_factory.mktemp("undisturbed"))
    case.start().finish()
    return case
