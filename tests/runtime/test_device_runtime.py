"""Training on a device's streams: no race, the bits of the cpu runtime, and something to hide.

Two gloo ranks and the stand-in of the device. What is left out by a mutant, the watch must see.
"""

import pytest
import torch

from tests.rank_pool import ranks
from tests.runtime.streamed_run import Case, Outcome, run

TENSOR, DATA = Case(2, 1, "chunk"), Case(1, 2, "bulk", offloads=True)
CASES = [
    TENSOR,
    DATA,
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            Case(2, 1, "chunk", torch.bfloat16, recompute="full"),
            Case(2, 1, "bulk", offloads=True),
            Case(1, 2, "chunk", torch.bfloat16, recompute="selective"),
        )
    ),
]


def same_bits(one: Outcome, other: Outcome) -> bool:
    return (
        one.losses == other.losses
        and all(torch.equal(one.parameters[name], x) for name, x in other.parameters.items())
        and all(map(torch.equal, one.snapshots, other.snapshots))
    )


@pytest.mark.parametrize("case", CASES)
def test_events_order_everything_and_no_bit_changes(case: Case) -> None:
    pool = ranks(2)
    plain, streamed = pool.run(run, case, False), pool.run(run, case, True)
    for one, other in zip(plain, streamed, strict=True):
        assert other.races == []
        assert same_bits(one, other)
        assert set(other.hidden) == {"_allgather_base_", "_reduce_scatter_base_"}


@pytest.mark.slow
@pytest.mark.parametrize("case", [Case(2, 1, "off"), Case(2, 1, "chunk", serial=True)])
def test_blocking_and_serial_forms_hide_nothing_and_have_the_same_bits(case: Case) -> None:
    pool = ranks(2)
    plain, streamed = pool.run(run, case, False), pool.run(run, case, True)
    for one, other in zip(plain, streamed, strict=True):
        assert other.races == []
        assert same_bits(one, other)
        assert not other.hidden


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "race"),
    [
        ("wait_event", "does not come behind"),
        ("wait_stream", "does not come behind"),
        ("references", "may be given memory that"),
    ],
)
def test_what_a_mutant_leaves_out_is_a_race(broken: str, race: str) -> None:
    for case in (TENSOR, DATA):
        for outcome in ranks(2).run(run, case, True, (broken,)):
            assert any(race in seen for seen in outcome.races), case
