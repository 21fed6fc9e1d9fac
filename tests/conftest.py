"""One thread a process, and pools of ranks that end with the session."""

from collections.abc import Iterator

import pytest

from tests.rank_pool import close_pools


@pytest.fixture(scope="session", autouse=True)
def end_rank_pools() -> Iterator[None]:
    yield
    close_pools()
