"""Embedding rows between tensor ranks, where what travels may depend on the data: on a CPU.

    y = look_up(tokens_SB, weight, runtime, "embedding")      # [S/t, B, H]

All ranks know all tokens, so each knows which of its rows another needs: only those travel, a t-th
of what a reduce-scatter of mostly zeros moves. No sum is made: a row comes from the one rank that
holds it. A traced graph has one size for all data, and keeps the reduce-scatter.

V: vocabulary rows held here, N: tokens of one rank's block of the sequence, S/t * B.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ndtrain.parallel.touched_rows import exchange_rows
from ndtrain.runtime.runtime import Runtime


def look_up(tokens_SB: Tensor, weight: Tensor, runtime: Runtime, name: str) -> Tensor:
    """weight [V, H]: this rank's rows. Returns own rows of the sequence, [S/t, B, H]."""
    return _LookUp.apply(tokens_SB, weight, runtime, name)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens_SB: Tensor, weight: Tensor, runtime, name):  # type: ignore[no-untyped-def]
        blocks = tokens_SB.flatten().chunk(runtime.mesh.tensor.size)
        held = _Held(blocks, weight.shape[0], runtime, name)
        ctx.held = held
        y_NH = weight.new_zeros(len(blocks[0]), weight.shape[1])
        for shift, target, source in held.turns():
            places = held.places(held.rank, source)
            sent = weight[held.rows(target)]
            y_NH[places] = held.exchange(sent, len(places), shift, name)
        return y_NH.view(-1, tokens_SB.shape[1], weight.shape[1])

    @staticmethod
    def backward(ctx, dy_SBH: Tensor):  # type: ignore[no-untyped-def]
        held, dy_NH = ctx.held, dy_SBH.flatten(0, 1)
        came: dict[int, Tensor] = {}
        for shift, target, source in held.turns():
            sent = dy_NH[held.places(held.rank, target)]
            num_rows = len(held.places(source, held.rank))
            came[source] = held.exchange(sent, num_rows, shift, f"{held.name}.backward")
        # In the order of the tokens, whoever sent them: gradients of one row add up in it.
        blocks = range(len(held.blocks))
        dy = torch.cat([came[block] for block in blocks])
        rows = torch.cat([held.rows(block) for block in blocks])
        dweight = torch.ops.aten.embedding_dense_backward(dy, rows, held.num_rows, -1, False)
        return None, dweight, None, None


@dataclass(frozen=True)
class _Held:
    """Which tokens' rows are held where. blocks: the tokens of each rank's part, [N] each."""

    blocks: tuple[Tensor, ...]
    num_rows: int
    runtime: Runtime
    name: str

    @property
    def rank(self) -> int:
        return self.runtime.mesh.tensor.rank

    def turns(self) -> list[tuple[int, int, int]]:
        """(shift, to whom, from whom) of each exchange; the first is with itself."""
        size = self.runtime.mesh.tensor.size
        return [(s, (self.rank + s) % size, (self.rank - s) % size) for s in range(size)]

    def places(self, block: int, owner: int) -> Tensor:
        """Of the tokens in the block whose rows the owner holds."""
        return (self.blocks[block] // self.num_rows == owner).nonzero().squeeze(1)

    def rows(self, block: int) -> Tensor:
        """Of the own weight that the block needs, a token each."""
        return self.blocks[block][self.places(block, self.rank)] - self.rank * self.num_rows

    def exchange(self, sent: Tensor, num_received: int, shift: int, name: str) -> Tensor:
        """[.., H] to rank + shift; returns [num_received, H] from rank - shift."""
        if shift == 0:
            return sent
        runtime, axis = self.runtime, self.runtime.mesh.tensor
        return exchange_rows(sent, num_received, runtime.collectives, axis, shift, name, "scatter")
