"""One layer, forward and backward, and the head as graphs that torch-xla hands to a compiler.

    layer_lowering(shape, 4096, 1, 8, 3, "ring", dtype)      # {("qkv", "forward"): Comparison, ...}
    head_lowering(shape, 4096, 1, 8, 3, "chunk", dtype)

Traced in one process for any number of ranks; nothing runs and nothing has memory.
"""

import torch
from torch import Tensor

from ndtrain.models.qwen3.model import Block
from ndtrain.models.qwen3.shape import Shape
from ndtrain.ops.rope import rope_tables
from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.hlo import HloGraph
from ndtrain.overlap.lowering import Comparison, Part, compare
from ndtrain.overlap.modes import Modes, Pass
from ndtrain.parallel.layer_schedules import linears_of, meta_model
from ndtrain.parallel.vocabulary import VocabularyParallelHead
from ndtrain.runtime.mesh import axis_lines
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.xla import hlo_text, trace_xla

# What the inputs of each schedule are computed from, in the order of recording: (operation, pass)
# of the schedules whose first output is read. The residual stream joins `o` to all that follows;
# backward reads what forward kept, or computes it again from it.
_SOURCES: dict[tuple[str, Pass], dict[str, tuple[tuple[str, Pass], ...]]] = {
    ("qkv", "forward"): {},
    ("o", "forward"): {"x": (("qkv", "forward"),)},
    ("gate_up", "forward"): {"x": (("o", "forward"),)},
    ("down", "forward"): {"x": (("gate_up", "forward"),)},
    ("down", "backward"): {"x": (("gate_up", "forward"),)},
    ("gate_up", "backward"): {
        "dy": (("down", "backward"), ("gate_up", "forward")),
        "x": (("o", "forward"),),
    },
    ("o", "backward"): {
        "dy": (("gate_up", "backward"), ("o", "forward")),
        "x": (("qkv", "forward"),),
    },
    ("qkv", "backward"): {"dy": (("o", "backward"), ("qkv", "forward"))},
}


def layer_lowering(
    shape: Shape,
    sequence_length: int,
    batch_size: int,
    tp: int,
    rank: int,
    mode: Mode,
    dtype: torch.dtype,
) -> dict[tuple[str, Pass], Comparison]:
    """By operation and pass: its products against every communication of the layer."""
    runtime = trace_xla(rank, tp, 1, shape.num_kv_heads)
    block = traced_block(shape, mode, dtype, runtime)
    parts = layer_parts(block)
    text = block_hlo(block, shape, sequence_length, batch_size, runtime)
    lines = axis_lines(tp, 1)["tensor"]
    found = compare(list(parts.values()), HloGraph.read(text), lines)
    return dict(zip(parts, found, strict=True))


def head_lowering(
    shape: Shape,
    sequence_length: int,
    batch_size: int,
    tp: int,
    rank: int,
    mode: Mode,
    dtype: torch.dtype,
) -> Comparison:
    """The output head with its loss and gradients, which are all made in forward."""
    runtime = trace_xla(rank, tp, 1, shape.num_kv_heads)
    part, recorded = record_head(shape, sequence_length, batch_size, mode, dtype, runtime)
    graph = HloGraph.read(hlo_text(recorded))
    (comparison,) = compare([part], graph, axis_lines(tp, 1)["tensor"])
    return comparison


def record_head(
    shape: Shape,
    sequence_length: int,
    batch_size: int,
    mode: Mode,
    dtype: torch.dtype,
    runtime: Runtime,
) -> tuple[Part, list[Tensor]]:
    """(its schedule, loss and gradients), recorded on the runtime's device."""
    head = meta_model(shape, runtime, Modes.all(mode), dtype).head
    assert isinstance(head, VocabularyParallelHead)
    head.to_empty(device=runtime.device)
    own_rows = sequence_length // runtime.mesh.tensor.size
    x_SBH = torch.empty(own_rows, batch_size, shape.hidden_size, dtype=dtype, device=runtime.device)
    x_SBH.requires_grad_()
    tokens_BS = torch.zeros(batch_size, sequence_length, dtype=torch.int64, device=runtime.device)
    loss = head.loss(x_SBH, tokens_BS, tokens_BS.to(torch.float32))
    gradients = torch.autograd.grad(loss, [x_SBH, head.weight])
    return Part(head.schedule(x_SBH, want_gradients=True)), [loss, *gradients]


def layer_parts(block: Block) -> dict[tuple[str, Pass], Part]:
    """The schedules of a parallel block and how they hang together."""
    plans = {name: linear.plan for name, linear in linears_of(block).items()}
    parts: dict[tuple[str, Pass], Part] = {}
    for (name, when), inputs in _SOURCES.items():
        schedule = plans[name].forward if when == "forward" else plans[name].backward
        sources = {
            value: tuple(parts[source].output for source in some) for value, some in inputs.items()
        }
        parts[name, when] = Part(schedule, sources)
    return parts


def traced_block(shape: Shape, mode: Mode, dtype: torch.dtype, runtime: Runtime) -> Block:
    """A parallel block on meta tensors, whose schedules will be recorded."""
    block = meta_model(shape, runtime, Modes.all(mode), dtype).layers[0]
    assert isinstance(block, Block)
    block.attention.core.implementation = "reference"  # the kernels have no collective inside
    return block


def block_hlo(
    block: Block, shape: Shape, sequence_length: int, batch_size: int, runtime: Runtime
) -> str:
    """Forward and backward of the block, as a compiler gets it."""
    return hlo_text(record_block(block, shape, sequence_length, batch_size, runtime))


def record_block(
    block: Block, shape: Shape, sequence_length: int, batch_size: int, runtime: Runtime
) -> list[Tensor]:
    """Forward and backward of the block on the runtime's device, batch_size rows at a time."""
    block.to_empty(device=runtime.device)
    dtype = block.mlp.down.weight.dtype
    own_rows = sequence_length // runtime.mesh.tensor.size
    x_SBH = torch.empty(own_rows, batch_size, shape.hidden_size, dtype=dtype, device=runtime.device)
    positions_BS = torch.arange(sequence_length).expand(batch_size, -1)
    tables = rope_tables(positions_BS, shape.head_dim, shape.rope_theta, dtype)
    cos, sin = (table.to(runtime.device) for table in tables)
    y = block(x_SBH.requires_grad_(), (cos, sin), None)
    gradients = torch.autograd.grad(y, [x_SBH, *block.parameters()], torch.empty_like(y))
    return [y, *gradients]
