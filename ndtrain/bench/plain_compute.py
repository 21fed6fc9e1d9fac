"""A rank's share of the compute of a step, in plain PyTorch: the model of `models/`, narrower.

    compute = PlainStep(layout)            # forward and backward
    compute = PlainUpdate(layout)          # and AdamW on 1/d of the weights

Nothing of `overlap/` and `parallel/` is in it, which a linter holds. The widths are those that a
rank holds; where the tokens of other ranks would come, numbers stand. `waiting_for` has compute
wait there for what moves them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ndtrain.bench.batch import make_batch
from ndtrain.bench.contestant import Contestant
from ndtrain.bench.transfers import Layout
from ndtrain.bench.workload import Workload, of_replica
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.ops.norm import wide
from ndtrain.runtime.dtypes import DTYPES

NUMBER = 0.01  # of what nobody sends: denormals or NaN would change the time of a product


class Turns(Protocol):
    """The transfers of the tensor axis in their order, moved as they are taken."""

    def take(self, count: int) -> None: ...

    def take_gathers(self) -> None:
        """All up to the next sum."""


class PlainStep(Contestant):
    name = "plain"
    uses_all_ranks = True
    has_loss = False

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def setup(self, workload: Workload) -> None:
        shape, tp = workload.shape, self._layout.tp
        held = replace(
            shape,
            vocab_size=shape.vocab_size // tp,
            intermediate_size=shape.intermediate_size // tp,
            num_heads=shape.num_heads // tp,
            num_kv_heads=shape.num_kv_heads // tp,
        )
        torch.manual_seed(workload.seed)
        self.model = Qwen3(held).to(DTYPES[workload.dtype])
        for parameter in self.model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=shape.initial_std)
        self._others = _OtherTokens(tp)
        if tp > 1:
            self._others.join(self.model)
        batch = make_batch(of_replica(workload, self._layout.data_rank))
        self._tokens_BS, self._targets_BS = (tokens % held.vocab_size for tokens in batch)
        self._weights_BS = torch.full(self._tokens_BS.shape, 1 / self._tokens_BS.numel())

    @contextmanager
    def waiting_for(self, turns: Turns) -> Iterator[None]:
        """Within it a step takes each transfer of the tensor axis where it needs it."""
        self._others.turns = turns
        yield
        self._others.turns = None

    def step(self) -> float:
        self.model.zero_grad(set_to_none=True)
        self.model.loss(self._tokens_BS, self._targets_BS, self._weights_BS).backward()
        return math.nan


class PlainUpdate(PlainStep):
    """Gradients add up in the wide dtype; AdamW updates the weights that this replica owns."""

    def setup(self, workload: Workload) -> None:
        super().setup(workload)
        parameters = list(self.model.parameters())
        width, size = wide(parameters[0].dtype), sum(p.numel() for p in parameters)
        self._gradients = torch.zeros(size, dtype=width)
        totals = self._gradients.split([p.numel() for p in parameters])
        for parameter, total in zip(parameters, totals, strict=True):
            hook = _adding_to(total.view_as(parameter))
            parameter.register_post_accumulate_grad_hook(hook)
        start = self._layout.data_rank * (size // self._layout.dp)
        own = slice(start, start + size // self._layout.dp)
        self._values = torch.cat([p.detach().flatten() for p in parameters])[own]
        self._master = nn.Parameter(self._values.to(width, copy=True))
        self._master.grad = self._gradients[own]
        self._adamw = torch.optim.AdamW([self._master], lr=1e-4)

    def step(self) -> float:
        super().step()
        assert self._master.grad is not None
        assert math.isfinite(self._master.grad.norm().item())
        self._adamw.step()
        self._values.copy_(self._master.detach())
        self._gradients.zero_()
        return math.nan


def _adding_to(total: Tensor) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        total.add_(parameter.grad)
        parameter.grad = None

    return hook


class _OtherTokens:
    """Norms and residual stream see own tokens, 1/t of all; the products in between see all."""

    def __init__(self, tp: int) -> None:
        self.tp = tp
        self.turns: Turns | None = None
        self._made: dict[tuple, Tensor] = {}

    def join(self, model: Qwen3) -> None:
        model.embedding.register_forward_pre_hook(lambda _, inputs: self._own_rows(inputs[0]))
        # Behind the last norm comes the head, which keeps what it gathered.
        model.norm.register_forward_hook(lambda _, inputs, x: _AllTokens.apply(x, self, 1))
        for name, module in model.layers.named_modules():
            if name.endswith((".qkv", ".gate_up")):
                module.register_forward_pre_hook(lambda _, x: _AllTokens.apply(x[0], self, 2))
            elif name.endswith((".o", ".down")):
                module.register_forward_hook(lambda _, inputs, y: _OwnTokens.apply(y, self))

    def take(self, count: int) -> None:
        if self.turns is not None:
            self.turns.take(count)

    def take_gathers(self) -> None:
        if self.turns is not None:
            self.turns.take_gathers()

    def _own_rows(self, tokens_BS: Tensor) -> Tensor:
        self.take(1)
        return tokens_BS.chunk(self.tp, 1)[0]

    def numbers(self, x: Tensor) -> Tensor:
        """Of t times the rows of x. Made once: not even the copy of a gather is charged."""
        shape = (self.tp * x.shape[0], *x.shape[1:])
        if shape not in self._made:
            self._made[shape] = torch.full(shape, NUMBER, dtype=x.dtype)
        return self._made[shape]


class _AllTokens(torch.autograd.Function):
    """[S/t, B, H] -> numbers for [S, B, H]; back comes the gradient of 1/t of them.

    num_back: transfers that backward needs: a sum, and before it the tokens once more.
    """

    @staticmethod
    def forward(ctx, x: Tensor, others: _OtherTokens, num_back: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.num_own, ctx.others, ctx.num_back = x.shape[0], others, num_back
        others.take_gathers()
        return others.numbers(x).view_as(others.numbers(x))

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        ctx.others.take(ctx.num_back)
        return dy[: ctx.num_own], None, None


class _OwnTokens(torch.autograd.Function):
    """[S, B, H] -> 1/t of it, [S/t, B, H]; back come numbers for the gradient of all."""

    @staticmethod
    def forward(ctx, y: Tensor, others: _OtherTokens) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.others = others
        others.take(1)
        return y[: y.shape[0] // others.tp]

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        ctx.others.take(1)
        return ctx.others.numbers(dy), None
