"""A transport that moves nothing: results have the right shape and arbitrary finite values.

For one rank's share of the compute without its communication (`ndtrain bench`), and for meta
tensors (`ndtrain train --dry-run`).
"""

import torch
from torch import Tensor

from ndtrain.runtime.mesh import Axis


class StillTransport:
    def __init__(self) -> None:
        # Results are kept and handed out again: not even the copy of a gather is charged.
        self._results: dict[tuple, Tensor] = {}

    def all_gather(self, x: Tensor, axis: Axis, out: Tensor | None) -> Tensor:
        if out is not None:
            return out
        return self._result((x.shape[0] * axis.size, *x.shape[1:]), x)

    def reduce_scatter(self, x: Tensor, axis: Axis) -> Tensor:
        return self._result((x.shape[0] // axis.size, *x.shape[1:]), x)

    def permute(self, x: Tensor, axis: Axis, shift: int, out: Tensor) -> None:
        if not out.is_meta:
            out.fill_(0.01)

    def broadcast(self, x: Tensor, axis: Axis) -> None:
        pass

    def _result(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        key = (shape, like.dtype, like.device)
        if like.is_meta or key not in self._results:
            # Ordinary numbers: denormals or NaN in uninitialised memory would change the timing.
            self._results[key] = torch.full(shape, 0.01, dtype=like.dtype, device=like.device)
        return self._results[key]
