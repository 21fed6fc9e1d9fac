"""What is wrong with the schedules that a step has besides its layers: the head's, the buckets'.

head_problems(shape, 4096, 1, tp=8, mode="chunk", dtype)    # [] if right on all ranks
bucket_problems(BucketLayout.of(shape, 8, 4, 16 * 10**6, True))
"""

from typing import Literal

import torch

from ndtrain.models.qwen3.shape import Shape
from ndtrain.overlap.collective_matmul import NUM_CHUNKS
from ndtrain.overlap.execute import execute
from ndtrain.overlap.modes import Modes
from ndtrain.overlap.verify import verify
from ndtrain.parallel.layer_schedules import meta_model
from ndtrain.parallel.step_timeline import BucketLayout
from ndtrain.parallel.vocabulary import VocabularyParallelHead
from ndtrain.runtime.runtime import still

HeadMode = Literal["off", "chunk"]
HEAD_MODES: tuple[HeadMode, ...] = ("off", "chunk")


def head_problems(
    shape: Shape,
    sequence_length: int,
    batch_size: int,
    tp: int,
    mode: HeadMode,
    dtype: torch.dtype,
) -> list[str]:
    """Of the graphs, on all ranks, and of the shapes. batch_size: rows of a micro-batch.

    With and without gradients: evaluation runs the second.
    """
    own_rows = sequence_length // tp
    if mode == "chunk" and own_rows % NUM_CHUNKS:
        return [f"every rank: {own_rows} rows cannot be divided into {NUM_CHUNKS} sub-chunks"]
    x = torch.empty(own_rows, batch_size, shape.hidden_size, dtype=dtype, device="meta")
    heads = [_head(shape, tp, rank, mode, dtype) for rank in range(tp)]
    problems = []
    for want in (True, False):
        schedules = [head.schedule(x, want_gradients=want) for head in heads]
        problems += verify(schedules.__getitem__, tp)
    return problems or _wrong_shapes(heads[0], x, sequence_length)


def bucket_problems(layout: BucketLayout) -> list[str]:
    return verify(lambda rank: layout.schedule, layout.dp)


def _head(
    shape: Shape, tp: int, rank: int, mode: HeadMode, dtype: torch.dtype
) -> VocabularyParallelHead:
    runtime = still(rank, tp, 1, shape.num_kv_heads, "meta")
    head = meta_model(shape, runtime, Modes.all(mode), dtype).head
    assert isinstance(head, VocabularyParallelHead)
    return head


def _wrong_shapes(head: VocabularyParallelHead, x: torch.Tensor, length: int) -> list[str]:
    """Runs the head on meta tensors: loss, dx and dweight come out as they should."""
    targets = torch.empty(length, x.shape[1], dtype=torch.int64, device="meta")
    inputs = (x, head.weight.detach(), targets, targets.float())
    schedule = head.schedule(x, want_gradients=True)
    outputs = execute(schedule, inputs, head.runtime, head.runtime.mesh.tensor)
    expected = ((), x.shape, head.weight.shape)
    return [
        f"every rank: `{name}` has the shape {list(y.shape)} instead of {list(shape)}"
        for name, y, shape in zip(schedule.outputs, outputs, expected, strict=True)
        if y.shape != shape
    ]
