"""What XLA makes of one graph on its CPU device, in a process that ends when it has compiled it.

    found = compiled(folder, "layer", "off")
    found.graph                                       # after all passes over instructions
    found.planned_bytes                               # between arguments and results
    compiled(folder, "layer", "off", barrier_alone=True)            # the mutant

The process runs `python -m tests.xla.compiled layer off`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch_xla
from torch import Tensor

from ndtrain.data.batch import Batch
from ndtrain.overlap.hlo import HloGraph
from ndtrain.parallel.layer_hlo import record_block, record_head, traced_block
from ndtrain.parallel.zero_hlo import TracedStep, narrow
from ndtrain.runtime.xla import XlaTrace, trace_xla
from ndtrain.train.traced_step import traced_step
from tests.xla.small_run import SHAPE

ROOT = Path(__file__).parents[2]
SEQUENCE, BATCH = 64, 2  # of a layer
NUM_RANKS = 2  # of all but a step; their collectives are compiled and never run
CHUNK_TOKENS = 512  # of the head, of whose logits 8 MiB live at a time
CHUNKED = replace(SHAPE, vocab_size=NUM_RANKS * 4096)


@dataclass(frozen=True)
class Compiled:
    graph: HloGraph
    planned_bytes: int


def compiled(folder: Path, *what: str, barrier_alone: bool = False) -> Compiled:
    """The largest graph of the process. folder: a new one."""
    dump = f" --xla_dump_to={folder} --xla_dump_hlo_as_text"
    environment = {**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"] + dump}
    command = [sys.executable, "-m", "tests.xla.compiled", *what]
    command += ["barrier-alone"] if barrier_alone else []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    graphs = folder.glob("*after_optimizations.txt")
    largest = max(graphs, key=lambda path: path.stat().st_size)
    plan = largest.with_name(f"{largest.stem}-buffer-assignment.txt").read_text()
    (size,) = re.findall(r"size (\d+), preallocated-temp", plan)
    return Compiled(HloGraph.read(largest.read_text()), int(size))


def compile_only(tensors: Sequence[Tensor]) -> None:
    torch_xla._XLAC._xla_warm_up_cache(list(tensors), [])


def layer(mode: str) -> None:
    runtime = trace_xla(0, NUM_RANKS, 1, SHAPE.num_kv_heads)
    block = traced_block(SHAPE, mode, torch.float32, runtime)  # type: ignore[arg-type]
    compile_only(record_block(block, SHAPE, SEQUENCE, BATCH, runtime))


def head(num_chunks: str) -> None:
    runtime = trace_xla(0, NUM_RANKS, 1, SHAPE.num_kv_heads)
    length = int(num_chunks) * CHUNK_TOKENS
    compile_only(record_head(CHUNKED, length, 1, "off", torch.float32, runtime)[1])


def step(num_micro_batches: str, num_layers: str, recomputed: str) -> None:
    """Activations are large, weights small."""
    runtime = trace_xla(0, 1, 1, SHAPE.num_kv_heads)
    widths = {"hidden_size": 32, "intermediate_size": 96}
    shape = replace(narrow(SHAPE, 1), num_layers=int(num_layers), **widths)
    small = TracedStep.of(shape, runtime, False, recomputed=recomputed)  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    batches = []
    for _ in range(int(num_micro_batches)):
        tokens_BS = random.integers(0, shape.vocab_size, (8, 128))
        positions_BS = np.arange(128) + np.zeros((8, 1), dtype=np.int64)
        batches.append(Batch(tokens_BS, tokens_BS, positions_BS, None))
    assert runtime.trace is not None
    runtime.trace.run("the initial state", print)
    traced_step(small.model, small.optimizer, batches, 1024, 1e-3, runtime, print)


def buckets(form: str) -> None:
    """A step on two data-parallel ranks; form: blocking or background."""
    runtime = trace_xla(0, 1, NUM_RANKS, SHAPE.num_kv_heads)
    compile_only(TracedStep.of(narrow(SHAPE, 1), runtime, form == "background").record())


def barrier_alone(self: XlaTrace, x: Tensor, after: Sequence[Tensor]) -> Tensor:
    tied = [x.clone(), *(one.clone() for one in after)]
    self._xla.optimization_barrier_(tied)
    return tied[0]


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    if arguments[-1] == "barrier-alone":
        del arguments[-1]
        XlaTrace.tie = barrier_alone  # type: ignore[method-assign]
    {"layer": layer, "head": head, "step": step, "buckets": buckets}[name](*arguments)
