"""What waits still waits when XLA has taken barriers away; the memory that it plans says the same.

The mutant is a barrier alone, which is in the graph that a compiler gets, and not in what it makes.
"""

from pathlib import Path

import pytest
import torch

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.overlap.collective_matmul import Mode
from ndtrain.overlap.lowering import Comparison, compare
from ndtrain.parallel.layer_hlo import layer_lowering, layer_parts, record_head, traced_block
from ndtrain.runtime.mesh import axis_lines
from ndtrain.runtime.xla import hlo_text, trace_xla
from tests.xla.compiled import (
    BATCH,
    CHUNK_TOKENS,
    CHUNKED,
    NUM_RANKS,
    SEQUENCE,
    Compiled,
    compiled,
)
from tests.xla.small_run import SHAPE


def compared(found: Compiled, mode: Mode) -> list[Comparison]:
    runtime = trace_xla(0, NUM_RANKS, 1, SHAPE.num_kv_heads)
    parts = layer_parts(traced_block(SHAPE, mode, torch.float32, runtime))
    return compare(list(parts.values()), found.graph, axis_lines(NUM_RANKS, 1)["tensor"])


def test_compiled_off_leaves_nothing_free(tmp_path: Path) -> None:
    for one in compared(compiled(tmp_path, "layer", "off"), "off"):
        assert one.problems == []
        assert one.num_pairs > 0
        assert one.num_free == 0


def test_compiled_with_a_barrier_alone_off_is_none(tmp_path: Path) -> None:
    found = compared(compiled(tmp_path, "layer", "off", barrier_alone=True), "off")
    problems = [problem for one in found for problem in one.problems]
    label = "layers.0.mlp.gate_up.backward"
    assert (
        f"in the graph `{label}.gather` does not wait for `{label}.product`, in the schedule it"
        in problems
    )
    assert any(one.num_free for one in found)


@pytest.mark.parametrize("mode", ["chunk", "ring"])
def test_compiled_an_overlapped_form_is_as_free_as_before(mode: Mode, tmp_path: Path) -> None:
    before = layer_lowering(SHAPE, SEQUENCE, BATCH, NUM_RANKS, 0, mode, torch.float32)
    after = compared(compiled(tmp_path, "layer", mode), mode)
    for one, other in zip(after, before.values(), strict=True):
        assert one.problems == []
        assert one.num_free == other.num_free


def num_beside_first_bucket(found: Compiled) -> int:
    """Products that the reduction of the first bucket does not wait for."""
    (scatter,) = (
        one.name
        for one in found.graph.labelled("buckets.scatter_0")
        if one.opcode == "reduce-scatter"
    )
    products = [one.name for one in found.graph.instructions.values() if one.opcode == "dot"]
    return sum(not found.graph.before(name, scatter) for name in products)


def test_compiled_blocking_buckets_come_behind_all_of_backward(tmp_path: Path) -> None:
    assert num_beside_first_bucket(compiled(tmp_path, "buckets", "blocking")) == 0


def planned(folder: Path, *what: str, barrier_alone: bool = False) -> int:
    return compiled(folder, *what, barrier_alone=barrier_alone).planned_bytes


def test_the_head_holds_the_logits_of_one_chunk(tmp_path: Path) -> None:
    """Beside them only tensors as wide as the model, which is narrow here."""
    found = compiled(tmp_path / "8", "head", "8")
    assert found.planned_bytes < 1.25 * planned(tmp_path / "1", "head", "1")
    runtime = trace_xla(0, NUM_RANKS, 1, SHAPE.num_kv_heads)
    part, recorded = record_head(CHUNKED, 8 * CHUNK_TOKENS, 1, "off", torch.float32, runtime)
    hlo_text(recorded)  # else the next trace begins behind these collectives
    (comparison,) = compare([part], found.graph, axis_lines(NUM_RANKS, 1)["tensor"])
    assert comparison.problems == []
    assert comparison.num_free == 0


def test_a_step_holds_the_activations_of_one_micro_batch(tmp_path: Path) -> None:
    """Nearly all of what is planned is activations: four at once would be four times as much."""
    one, many = (planned(tmp_path / number, "step", number, "2", "none") for number in ("1", "4"))
    assert many < 1.1 * one


@pytest.mark.slow
def test_compiled_with_a_barrier_alone_all_is_held_and_nothing_blocks(tmp_path: Path) -> None:
    """The mutant of the three tests above."""
    found = compiled(tmp_path / "buckets", "buckets", "blocking", barrier_alone=True)
    assert num_beside_first_bucket(found) > 0
    for name, *what in (("head",), ("step", "2", "none")):
        one = planned(tmp_path / f"{name}_1", name, "1", *what, barrier_alone=True)
        assert planned(tmp_path / f"{name}_4", name, "4", *what, barrier_alone=True) > 3 * one


@pytest.mark.slow
def test_recomputation_saves_memory(tmp_path: Path) -> None:
    modes = ("none", "selective", "full")
    none, selective, full = (planned(tmp_path / mode, "step", "1", "4", mode) for mode in modes)
    assert full < selective < none
    assert full < 0.6 * none
