"""State leaves torch-xla and comes back: the run goes on as if nothing had happened."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.checkpoint.format import FIRST_MOMENT, MASTER, SECOND_MOMENT
from ndtrain.runtime.runtime import start_cpu
from ndtrain.runtime.start_xla import start_xla
from ndtrain.train.optimizer_state import load_moments, num_updates, state_pieces
from tests.xla.small_run import LEARNING_RATE, SHAPE, Small, start, step_of


class Kept:
    """Weights and moments of a run on one rank, in the host's memory."""

    def __init__(self, small: Small) -> None:
        optimizer = small.optimizer
        self.num_updates = num_updates(optimizer)
        self._pieces: dict[tuple, Tensor] = {}
        for piece, tensor in state_pieces(optimizer, dict(optimizer.shards)):
            assert tensor.device.type == "cpu"
            self._pieces[piece.kind, piece.name, piece.slices[0]] = tensor.clone()
        self._weights = {
            member.name: bucket.view(bucket.values.cpu().clone(), member)
            for bucket in optimizer.buckets
            for member in bucket.members
        }

    def has(self, kind: str) -> bool:
        return any(key[0] == kind for key in self._pieces)

    def read(self, name: str, dim: int, slices: Sequence[tuple[int, int]]) -> Tensor:
        masters = [self._pieces.get((MASTER, name, bounds)) for bounds in slices]
        if all(master is not None for master in masters):
            return torch.cat(masters).view(self._weights[name].shape)  # type: ignore[arg-type]
        return self._weights[name]

    def read_flat(
        self, kind: str, name: str, dim: int, bounds: tuple[int, int], start: int, stop: int
    ) -> Tensor:
        return self._pieces[kind, name, bounds][start:stop]


def going_on(kept: Kept, small: Small) -> Small:
    load_moments(small.optimizer, dict(small.optimizer.shards), kept, kept.num_updates)  # type: ignore[arg-type]
    return small


def steps(small: Small, first: int, last: int) -> list[float]:
    return [
        step_of(small, step, LEARNING_RATE, lambda text: None).loss
        for step in range(first, last + 1)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_goes_on_has_the_same_bits(dtype: torch.dtype) -> None:
    straight = start(start_xla(1, 1, SHAPE.num_kv_heads), dtype=dtype)
    before = steps(straight, 0, 1)
    kept = Kept(straight)
    assert kept.num_updates == 2
    assert kept.has(FIRST_MOMENT)
    assert kept.has(SECOND_MOMENT)
    assert kept.has(MASTER) == (dtype != torch.float32)
    resumed = going_on(kept, start(start_xla(1, 1, SHAPE.num_kv_heads), dtype=dtype, source=kept))
    expected = steps(straight, 2, 3)
    assert expected != before
    assert steps(resumed, 2, 3) == expected


def test_the_cpu_runtime_goes_on_with_what_torch_xla_has_saved() -> None:
    traced = start(start_xla(1, 1, SHAPE.num_kv_heads))
    steps(traced, 0, 1)
    kept = Kept(traced)
    on_cpu = going_on(kept, start(start_cpu(1, 1, SHAPE.num_kv_heads), source=kept))
    # Two steps later rounding has moved neither by more than a few ulp of a loss of 4.
    assert steps(on_cpu, 2, 3) == pytest.approx(steps(traced, 2, 3), abs=4e-6)
    assert num_updates(on_cpu.optimizer) == 4
