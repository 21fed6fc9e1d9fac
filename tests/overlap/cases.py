"""The operations on small tensors: each rank's inputs, and what has to come out, in fp64.

S, B: sequence and batch; in, out: the local widths of the layer. Everything is made from seeds, so
any process can make any rank's tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ndtrain.overlap.buckets import BucketWork, bucket_schedule
from ndtrain.overlap.collective_matmul import (
    MODES,
    Mode,
    column_backward,
    gather_matmul,
    matmul_scatter,
    row_backward,
)
from ndtrain.overlap.early import joined
from ndtrain.overlap.head import HeadTokens, head_schedule
from ndtrain.overlap.schedule import Schedule
from ndtrain.runtime.place import Place

SEQUENCE, BATCH, IN, OUT = 32, 2, 24, 40

Builder = Callable[[str, Place, Mode], Schedule]
BUILDERS: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (gather_matmul, matmul_scatter, column_backward, row_backward)
}
OPERATIONS = tuple(BUILDERS)
EVERY_SCHEDULE = [(operation, mode) for operation in OPERATIONS for mode in MODES]
# What is no linear: a column's backward begun in a row's, the head with its loss, and buckets over
# the data axis.
OTHERS: list[tuple[str, Mode]] = [
    *(("head_start", mode) for mode in MODES if mode != "off"),
    ("head", "off"),
    ("head", "chunk"),
    ("buckets", "off"),
    ("buckets", "bulk"),
]
ALL_SCHEDULES = [*EVERY_SCHEDULE, *OTHERS]
CHUNK_ROWS = 10  # tokens whose logits live at a time: the last chunk of a part is smaller
BUCKET_ORDER = (0, 1, 3, 2)
# Which output of an operation is a sum over the ranks.
SUMMED = {"matmul_scatter": 0, "column_backward": 0}


def build(operation: str, mode: Mode, size: int, rank: int) -> Schedule:
    if operation == "head_start":
        place = Place(rank, size)
        row, column = row_backward("row", place, mode), column_backward("column", place, mode)
        return replace(joined(row, column, Mixed(0.7)), name=operation)
    if operation == "head":
        num_parts = 2 if mode == "chunk" else 1
        tokens = HeadTokens(size, SEQUENCE * BATCH, num_parts, CHUNK_ROWS)
        return head_schedule(operation, tokens, Place(rank, size), want_gradients=True)
    if operation == "buckets":
        return bucket_schedule(BUCKET_ORDER, mode == "bulk", BUCKET_WORK)
    return BUILDERS[operation](operation, Place(rank, size), mode)


@dataclass(frozen=True)
class Mixed:
    """factor * the first input + the mean of the others: something that each input changes."""

    factor: float

    def __call__(self, *tensors: Tensor, out: Tensor | None = None) -> Tensor:
        first, *others = tensors
        return self.factor * first + sum(x.mean() for x in others)


BUCKET_WORK = BucketWork(
    gradients=lambda bucket: Mixed(1.0 + bucket),
    norm=Mixed(0.5),
    update=lambda bucket: Mixed(2.0 + bucket),
    forward=lambda bucket: Mixed(3.0 + bucket),
)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rows(full: Tensor, size: int, rank: int) -> Tensor:
    return full.chunk(size)[rank]


def inputs(operation: str, size: int, rank: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The inputs of this rank's schedule."""
    if operation == "head":
        return _head_inputs(size, rank, dtype)
    if operation == "head_start":
        wide, narrow = _random(400, SEQUENCE, BATCH, OUT), _random(500 + rank, IN, OUT)
        row = inputs("row_backward", size, rank, dtype)
        return (*row, _rows(wide, size, rank).to(dtype), narrow.to(dtype))
    if operation == "buckets":
        return (_random(200 + rank, SEQUENCE, BATCH, IN).to(dtype),)
    weight = _random(100 + rank, OUT, IN)
    x, dy = _random(0, SEQUENCE, BATCH, IN), _random(1, SEQUENCE, BATCH, OUT)
    own_x, own_dy = _random(200 + rank, *x.shape), _random(300 + rank, *dy.shape)
    tensors = {
        "gather_matmul": (_rows(x, size, rank), weight),
        "matmul_scatter": (own_x, weight),
        "column_backward": (own_dy, _rows(x, size, rank), weight),
        "row_backward": (_rows(dy, size, rank), own_x, weight),
    }[operation]
    return tuple(tensor.to(dtype) for tensor in tensors)


def _head_inputs(size: int, rank: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Targets are of the whole vocabulary, and some are ignored."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(size * OUT, (SEQUENCE, BATCH), generator=generator)
    targets[::7] = -100
    weights = torch.rand(SEQUENCE, BATCH, generator=generator)
    x, weight = _rows(_random(0, SEQUENCE, BATCH, IN), size, rank), _random(100 + rank, OUT, IN)
    return x.to(dtype), weight.to(dtype), targets, weights


def meta_inputs(operation: str, size: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(tensor.to("meta") for tensor in inputs(operation, size, 0, dtype))


def _parts(
    operation: str, size: int, rank: int, dtype: torch.dtype, absolute: bool
) -> list[list[Tensor]]:
    """Of each output the fp64 parts whose sum it is: one a rank where ranks are summed."""
    every = [inputs(operation, size, other, dtype) for other in range(size)]
    wide = [[tensor.double() for tensor in tensors] for tensors in every]
    if absolute:
        wide = [[tensor.abs() for tensor in tensors] for tensors in wide]
    own = wide[rank]
    if operation == "gather_matmul":
        return [[torch.cat([x for x, _ in wide]) @ own[1].t()]]
    if operation == "matmul_scatter":
        return [[_rows(x @ weight.t(), size, rank) for x, weight in wide]]
    if operation == "column_backward":
        dx = [_rows(dy @ weight, size, rank) for dy, _, weight in wide]
        dweight = own[0].flatten(0, 1).t() @ torch.cat([x for _, x, _ in wide]).flatten(0, 1)
        return [dx, [dweight]]
    dy = torch.cat([dy for dy, _, _ in wide])
    return [[dy @ own[2]], [dy.flatten(0, 1).t() @ own[1].flatten(0, 1)]]


def reference(operation: str, size: int, rank: int, dtype: torch.dtype) -> list[Tensor]:
    """The outputs in fp64, of inputs rounded to `dtype`."""
    return [sum(parts) for parts in _parts(operation, size, rank, dtype, False)]  # type: ignore[misc]


def sizes_of_products(operation: str, size: int, rank: int, dtype: torch.dtype) -> list[Tensor]:
    """Per element the sum of |a b| over all products that enter an output: errors scale with it."""
    return [sum(parts) for parts in _parts(operation, size, rank, dtype, True)]  # type: ignore[misc]


def sizes_of_parts(operation: str, size: int, rank: int, dtype: torch.dtype) -> list[Tensor]:
    """Per element the sum of the ranks' |part|: the error of adding them up scales with it."""
    return [
        sum(part.abs() for part in parts)  # type: ignore[misc]
        for parts in _parts(operation, size, rank, dtype, False)
    ]
