"""The output head and its loss as a schedule; the vocabulary is sharded by rows over the ranks.

    schedule = head_schedule("head", tokens, place, want_gradients=True)
    loss, dx, dweight = execute(schedule, (x, weight, targets, weights), runtime, axis)

Sub-chunks of every rank's rows: while one multiplies the next is gathered, and the gradient of the
one before is reduced; that of the last one beside the last product of the weight gradient. There is
no ring: all ranks need the logits of the same tokens at a time, because they share three numbers a
token (`ops/loss.py`); that exchange blocks, on the compute stream. Logits live a chunk at a time,
and all gradients are made in forward.

S/t: own rows of the sequence, B: batch, H: hidden, V: vocabulary rows held here, T: tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ndtrain.ops.loss import (
    add_weight_gradient,
    combine_statistics,
    counted_weights,
    rows_in_chunk,
    vocabulary_gradient,
    vocabulary_statistics,
    weighted_loss,
)
from ndtrain.ops.norm import wide
from ndtrain.overlap.collective_matmul import HALVES, NUM_CHUNKS, Mode
from ndtrain.overlap.operations import (
    InputGradient,
    Join,
    Linear,
    Narrow,
    Operation,
    Rows,
    StridedRows,
    WeightGradient,
)
from ndtrain.overlap.schedule import Schedule, ScheduleBuilder
from ndtrain.runtime.place import Place


@dataclass(frozen=True)
class HeadTokens:
    """How the tokens of a step are divided: first over parts that travel, then over chunks.

    num_tokens: of all ranks. rows: tokens whose logits live at a time.
    """

    num_ranks: int
    num_tokens: int
    num_parts: int
    rows: int

    @classmethod
    def of(cls, x_SBH: Tensor, weight_VH: Tensor, num_ranks: int, mode: Mode) -> "HeadTokens":
        """x_SBH: own rows, [S/t, B, H]."""
        num_parts = NUM_CHUNKS if mode in ("chunk", *HALVES) else 1
        assert x_SBH.shape[0] % num_parts == 0, "the gate and its refusals see to it"
        num_tokens = x_SBH.shape[0] * x_SBH.shape[1] * num_ranks
        rows = rows_in_chunk(weight_VH.shape[0], wide(weight_VH.dtype))
        return cls(num_ranks, num_tokens, num_parts, rows)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """(first token, number of tokens) of each chunk of a part."""
        in_part = self.num_tokens // self.num_parts
        for start in range(0, in_part, self.rows):
            yield start, min(self.rows, in_part - start)


def head_schedule(name: str, tokens: HeadTokens, place: Place, want_gradients: bool) -> Schedule:
    """(x [S/t, B, H], weight [V, H], targets [S, B], weights [S, B]) -> loss[, dx, dweight].

    place: of the rank among those that hold equal parts of the vocabulary, in order.
    """
    return _Head(name, tokens, place, want_gradients).schedule()


Product = tuple[str, str, str]
"""(label of a chunk, its dlogits, its x): the weight gradient of the chunk."""


class _Head:
    def __init__(self, name: str, tokens: HeadTokens, place: Place, want_gradients: bool) -> None:
        self._graph = ScheduleBuilder(name, ("x", "weight", "targets", "weights"))
        self._tokens, self._place, self._want = tokens, place, want_gradients
        self._loss: str | None = None
        self._dweight: str | None = None
        # The last that is computed from the former chunk's logits: only then the next ones begin.
        self._done: tuple[str, ...] = ()

    def schedule(self) -> Schedule:
        graph, num_parts = self._graph, self._tokens.num_parts
        gathered = []
        for part in range(num_parts):
            local = graph.compute(f"local_{part}", Rows(part, num_parts), ("x",))
            gathered.append(graph.all_gather(f"gather_{part}", local))
        scattered = [self._part(part, x_full) for part, x_full in enumerate(gathered)]
        assert self._loss is not None
        if not self._want:
            return graph.finish((self._loss,))
        assert self._dweight is not None
        dweight = graph.compute("dweight", Narrow(), ("weight", self._dweight))
        dx = graph.compute("dx", Join(tuple(range(num_parts))), scattered)
        return graph.finish((self._loss, dx, dweight))

    def _part(self, part: int, x_full: str) -> str:
        graph, tokens = self._graph, self._tokens
        rows = StridedRows(tokens.num_ranks, part, tokens.num_parts)
        targets = graph.compute(f"targets_{part}", rows, ("targets",))
        weights = graph.compute(f"weights_{part}", rows, ("weights",))
        counted = graph.compute(f"counted_{part}", CountedWeights(), (targets, weights, "weight"))
        dx: list[str] = []
        product = None  # of the weight gradient, which waits until what travels is on its way
        for index, chunk in enumerate(tokens.chunks()):
            if product is not None and self._want:
                self._add_weight_gradient(product)
            label = f"{part}_{index}"
            product = self._chunk(label, Tokens(*chunk), x_full, targets, counted)
            if self._want:
                dx.append(graph.compute(f"dx_{label}", InputGradient(), (product[1], "weight")))
        if product is None or not self._want:
            return ""
        whole = graph.compute(f"dx_{part}", StackTokens(), (x_full, *dx))
        if tokens.num_parts == 1:  # blocking: nothing is left to compute when it travels
            self._add_weight_gradient(product)
            assert self._dweight is not None
            return graph.reduce_scatter(f"scatter_{part}", whole, (self._dweight,))
        scattered = graph.reduce_scatter(f"scatter_{part}", whole)
        self._add_weight_gradient(product)
        return scattered

    def _chunk(self, label: str, cut: "Tokens", x_full: str, targets: str, weights: str) -> Product:
        """One chunk's loss, and what its weight gradient is the product of."""
        graph = self._graph
        x = graph.compute(f"x_{label}", cut, (x_full,))
        target = graph.compute(f"target_{label}", cut, (targets,))
        weight = graph.compute(f"weight_{label}", cut, (weights,))
        logits = graph.compute(f"logits_{label}", Linear(), (x, "weight"), self._done)
        own = graph.compute(f"own_{label}", Statistics(self._place), (logits, target))
        shared = graph.exchange(f"statistics_{label}", own)
        combined = graph.compute(f"combined_{label}", Combine(), (shared,))
        before = () if self._loss is None else (self._loss,)
        self._loss = graph.compute(f"loss_{label}", AddLoss(), (combined, weight, *before))
        if not self._want:
            self._done = (self._loss,)
            return label, "", x
        gradient = LogitsGradient(self._place)
        dlogits = graph.compute(f"dlogits_{label}", gradient, (logits, target, weight, combined))
        return label, dlogits, x

    def _add_weight_gradient(self, product: Product) -> None:
        label, dlogits, x = product
        if self._dweight is None:
            added: Operation = WeightGradient()
            read: tuple[str, ...] = (dlogits, x)
        else:
            added, read = AddWeightGradient(), (self._dweight, dlogits, x)
        self._dweight = self._graph.compute(f"dweight_{label}", added, read)
        self._done = (f"dx_{label}", self._dweight)


@dataclass(frozen=True)
class Tokens:
    """Tokens [start, start + count) of x [S, B, ...]: a view, or of sub-chunks' rows a copy."""

    start: int
    count: int

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (x,) = tensors
        assert out is None, "a view has no buffer of its own"
        return x.flatten(0, 1).narrow(0, self.start, self.count)


@dataclass(frozen=True)
class StackTokens:
    """(like, dx of each chunk) -> all of them in the shape of the first input."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        like, *chunks = tensors
        assert out is None, "it is sent, not joined"
        return (chunks[0] if len(chunks) == 1 else torch.cat(chunks)).view_as(like)


@dataclass(frozen=True)
class CountedWeights:
    """(targets, weights, head's weight) -> weights in its wide dtype, 0 for ignored targets."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        targets, weights, weight = tensors
        return counted_weights(targets, weights, wide(weight.dtype))


@dataclass(frozen=True)
class Statistics:
    """(logits [T, V], targets [T]) -> [1, 3, T]: what the ranks share."""

    place: Place

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        logits, targets = tensors
        rows = self.place.from_first(targets, logits.shape[-1])
        return vocabulary_statistics(logits, rows)[None]


@dataclass(frozen=True)
class Combine:
    """[R, 3, T] of all ranks -> [3, T] over the whole vocabulary."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        (shared,) = tensors
        return torch.stack(combine_statistics(shared))


@dataclass(frozen=True)
class AddLoss:
    """(combined, weights[, loss so far]) -> the loss with this chunk's."""

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        combined, weights, *before = tensors
        loss = weighted_loss(combined.unbind(0), weights)
        return before[0] + loss if before else loss


@dataclass(frozen=True)
class LogitsGradient:
    """(logits, targets, weights, combined) -> dlogits, in the memory of the logits."""

    place: Place
    overwrites: int = 0

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        logits, targets, weights, combined = tensors
        largest, sum_exp, _ = combined.unbind(0)
        rows = self.place.from_first(targets, logits.shape[-1])
        return vocabulary_gradient(logits, rows, weights, largest, sum_exp)


@dataclass(frozen=True)
class AddWeightGradient:
    """(dweight so far, dlogits, x) -> dweight, in the memory of the one so far if it is wide."""

    overwrites: int = 0

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        total, dlogits, x = tensors
        return add_weight_gradient(total, dlogits, x)
