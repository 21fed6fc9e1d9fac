"""Which form each operation takes in this run: decided once, by one rank, and stored.

    decision = overlap_plan(config, runtime, shape, machine, file, log)

A run that goes on reuses what stands in its `plan.json`, because another form may round
differently; `overlap.replan=true` decides again. Figures are measured between the ranks of the
tensor axis; where a host cannot measure its device they are those of the hardware table.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ndtrain.config import schema
from ndtrain.core.atomic import write_json
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.shape import Shape
from ndtrain.observe.environment import available_cpus
from ndtrain.overlap.candidates import Sizes
from ndtrain.overlap.gate import Decision, decide, needs_figures
from ndtrain.overlap.node_cost import Figures
from ndtrain.overlap.table_figures import table_figures
from ndtrain.runtime.dtypes import DTYPES
from ndtrain.runtime.link import measure_link
from ndtrain.runtime.peak import measure_matmul_peak, measure_memory_rate
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.agree import gather_json
from ndtrain.train.hardware import Hardware

# Of a node's call in Python. What a hop costs beyond its bytes is in the measured latency.
NODE_OVERHEAD_S = 1e-5
MEASURED = "measured"
_UNDISTURBED = 0.9  # of their CPU time: that ranks get on a machine that does nothing else


@dataclass(frozen=True)
class Machine:
    """Of one rank, all ranks measuring at once because they share the machine when they train.

    cpu_share: CPU time that the ranks got meanwhile, of what they would get alone; below 1 somebody
    else computed too.
    """

    matmul_flops: float
    memory_bytes_per_s: float
    cpu_share: float

    @property
    def source(self) -> str:
        """Of the rates, for a person."""
        source = "measured by matmuls on all ranks at once"
        if self.cpu_share < _UNDISTURBED:
            source += f", which got {self.cpu_share:.0%} of their CPU time: MFU reads too high"
        return source


def measure_machine(runtime: Runtime, dtype: str) -> Machine:
    """Means over the ranks. Collective over the world."""
    began_s, used_s = time.perf_counter(), time.process_time()
    matmul_flops = measure_matmul_peak(dtype)
    used_s, elapsed_s = time.process_time() - used_s, time.perf_counter() - began_s
    own = [matmul_flops, measure_memory_rate(), used_s / elapsed_s / _own_cpus()]
    all_ranks = runtime.collectives.all_gather(
        torch.tensor([own], dtype=torch.float64), runtime.mesh.world, "measure_machine"
    )
    return Machine(*all_ranks.mean(0).tolist())


def _own_cpus() -> float:
    """That this rank keeps busy beside the other ranks of its node."""
    among_ranks = available_cpus() / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(torch.get_num_threads(), among_ranks)


def overlap_plan(
    config: schema.Config,
    runtime: Runtime,
    shape: Shape,
    machine: Machine | Hardware,
    file: Path,
    log: Callable[[str], None],
) -> Decision:
    """Collective over the world."""
    settings, tensor = config.overlap, runtime.mesh.tensor
    layout = {
        "device": config.runtime.device,
        "tp": tensor.size,
        "sequence_length": config.data.sequence_length,
        "micro_batch_size": config.train.micro_batch_size,
        "settings": settings.model_dump(exclude={"replan"}),
    }
    stored = gather_json(runtime, _stored(file, layout, settings.replan), "stored_plan")[0]
    if stored is not None:
        log(f"overlap: as decided before ({file})")
        return Decision.from_json(stored)
    decision, figures = decide_on(
        settings,
        runtime,
        shape,
        config.data.sequence_length,
        config.train.micro_batch_size,
        config.train.compute_dtype,
        machine,
    )
    source = machine.source if isinstance(machine, Hardware) else MEASURED
    if figures is not None:
        log(
            f"overlap: link {figures.link_bytes_per_s * 8e-9:.2f} Gbit/s,"
            f" {1e6 * figures.link_latency_s:.0f} us a hop, compute stolen"
            f" {1e9 * figures.stolen_s_per_byte:.2f} ns a byte ({source})"
        )
    if tensor.size > 1:
        for line in decision.lines():
            log(line)
    if runtime.mesh.world.rank == 0:
        plan: dict[str, Any] = {"layout": layout, "figures": None, "decision": decision.to_json()}
        if figures is not None:
            plan |= {"figures": asdict(figures), "source": source}
        write_json(file, plan)
    return decision


def decide_on(
    settings: schema.Overlap,
    runtime: Runtime,
    shape: Shape,
    sequence_length: int,
    batch_size: int,
    dtype: str,
    machine: Machine | Hardware | None,
) -> tuple[Decision, Figures | None]:
    """Measures the link if that is needed, and decides. Collective over the world.

    machine: None where nothing has to be weighed.
    """
    size, figures = runtime.mesh.tensor.size, None
    if size > 1 and needs_figures(settings):
        assert machine is not None
        figures = _figures(runtime, machine, dtype)
    sizes = operation_sizes(shape, sequence_length, batch_size, size)
    places_are_data = runtime.place(runtime.mesh.tensor).is_data
    decision = decide(settings, sizes, figures, DTYPES[dtype], runtime.has_permute, places_are_data)
    # Ranks measure different figures: the first one's decision holds for all.
    return Decision.from_json(gather_json(runtime, decision.to_json(), "plan")[0]), figures


def operation_sizes(shape: Shape, sequence_length: int, batch_size: int, size: int) -> Sizes:
    """One rank's sizes of each operation on a tensor axis of `size` ranks."""
    kv_heads = max(1, shape.num_kv_heads // size)
    return Sizes(
        num_ranks=size,
        sequence_length=sequence_length,
        batch_size=batch_size,
        hidden=shape.hidden_size,
        widths={
            "qkv": (shape.num_heads // size + 2 * kv_heads) * shape.head_dim,
            "o": shape.query_dim // size,
            "gate_up": 2 * shape.intermediate_size // size,
            "down": shape.intermediate_size // size,
            "head": shape.vocab_size // size,
        },
    )


def _stored(file: Path, layout: dict[str, Any], replan: bool) -> dict[str, Any] | None:
    if replan or not file.is_file():
        return None
    try:
        plan = json.loads(file.read_bytes())
        known = {"device": "cpu"} | plan["layout"]  # of before there was another that weighs
        return plan["decision"] if known == layout else None
    except (ValueError, KeyError, TypeError):
        raise UserError("not a plan", str(file), "remove the file to decide again") from None


def _figures(runtime: Runtime, machine: Machine | Hardware, dtype: str) -> Figures:
    if isinstance(machine, Hardware):
        # In a graph a collective waits for its operands alone; a side stream also waits for the
        # compute that was issued before (`device_streams.py`).
        return table_figures(machine.device, dtype, issues_ahead=runtime.trace is not None)
    link = measure_link(runtime, runtime.mesh.tensor)
    return Figures(
        matmul_flops=machine.matmul_flops,
        memory_bytes_per_s=machine.memory_bytes_per_s,
        link_bytes_per_s=link.bytes_per_s,
        link_latency_s=link.latency_s,
        node_overhead_s=NODE_OVERHEAD_S,
        stolen_s_per_byte=link.stolen_s_per_byte,
    )
