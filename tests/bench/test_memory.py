"""Peak memory of steps, against contestants that take what they say."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from ndtrain.bench import memory
from ndtrain.bench.launch import run_on_ranks
from ndtrain.bench.workload import DEFAULT, Workload

MIB = 2**20

pytestmark = pytest.mark.skipif(not memory.can_measure_memory(), reason="needs Linux's /proc")


def touched(num_mib: float) -> torch.Tensor:
    return torch.ones(int(num_mib * MIB), dtype=torch.uint8)


class Greedy:
    """Keeps 40 MiB; needs 200 MiB more while it is set up and 80 MiB more in a step."""

    name = "greedy"
    uses_all_ranks = True
    has_loss = False

    def setup(self, workload: Workload) -> None:
        scale = 1.0 if workload == DEFAULT else 0.01
        self._scale = scale
        self._kept = touched(40 * scale)
        touched(200 * scale)

    def step(self) -> float:
        touched(80 * self._scale * (1 + dist.get_rank() / 2))
        return 0.0


def test_the_peak_of_the_steps_counts_and_that_of_the_setup_does_not() -> None:
    peaks = run_on_ranks(memory.peak_memory_bytes, (Greedy, DEFAULT), num_ranks=2)
    # The second rank needs 120 MiB in a step, and both report the neediest.
    assert peaks[0] == peaks[1]
    assert peaks[0] / MIB == pytest.approx(40 + 120, abs=12)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_rehearsal_is_legal_on_the_same_ranks(num_ranks: int) -> None:
    rehearsal = memory.tiny(replace(DEFAULT, num_ranks=num_ranks))
    rehearsal.check()
    assert rehearsal.num_ranks == num_ranks
    assert rehearsal.shape.num_parameters() < DEFAULT.shape.num_parameters() / 100
