"""Decisions and failures that all ranks share.

    dataset = together(runtime, lambda: prepare(...), "prepare_data")

If the action fails on any rank, every rank leaves: the one that failed with its error, the others
with `Bystander`, which says nothing and has the same exit code. Without this the others would wait
in the next collective for a rank that is gone.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ndtrain.core.errors import UserError
from ndtrain.runtime.runtime import Runtime

Result = TypeVar("Result")


class Bystander(UserError):
    """Another rank failed and has said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another rank failed")
        self.exit_code = exit_code


def together(runtime: Runtime, action: Callable[[], Result], name: str) -> Result:
    """Runs the action, then compares notes. Collective over the world."""
    result, error = None, None
    try:
        result = action()
    except Exception as failure:
        error = failure
    own = torch.tensor([getattr(error, "exit_code", 1) if error else 0])
    worst = int(runtime.collectives.all_reduce_max(own, runtime.mesh.world, name).item())
    if error is not None:
        raise error
    if worst:
        raise Bystander(worst)
    return result  # type: ignore[return-value]


def first_rank_decides(runtime: Runtime, action: Callable[[], Any], name: str) -> Any:
    """The first rank's result, which must be JSON, on every rank. Collective over the world."""
    is_first = runtime.mesh.world.rank == 0
    own = together(runtime, lambda: action() if is_first else None, name)
    return gather_json(runtime, own, f"{name}.result")[0]


def gather_json(runtime: Runtime, value: Any, name: str) -> list[Any]:
    """Each rank's value, by rank, on every rank. Collective over the world."""
    world = runtime.mesh.world
    encoded = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    own_size = torch.tensor([encoded.numel()])
    sizes = runtime.collectives.all_gather(own_size, world, f"{name}.sizes").tolist()
    padded = torch.zeros(1, max(sizes), dtype=torch.uint8)
    padded[0, : encoded.numel()] = encoded
    rows = runtime.collectives.all_gather(padded, world, name)
    return [json.loads(row[:size].numpy().tobytes()) for row, size in zip(rows, sizes, strict=True)]
