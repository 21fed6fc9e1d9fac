"""A layer's graph, as a compiler gets it, says what its schedules say; mutants are found.

The graph of one rank is traced in one process, with replica groups of all ranks.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.models.qwen3.model import Block
from ndtrain.models.qwen3.shape import Shape
from ndtrain.overlap import execute as execute_module
from ndtrain.overlap.collective_matmul import MODES, Mode
from ndtrain.overlap.hlo import HloGraph
from ndtrain.overlap.lowering import compare, is_product
from ndtrain.overlap.order import Order
from ndtrain.overlap.schedule import Compute, Node, Schedule
from ndtrain.parallel.layer_hlo import (
    block_hlo,
    head_lowering,
    layer_lowering,
    layer_parts,
    traced_block,
)
from ndtrain.parallel.layer_schedules import linears_of
from ndtrain.runtime.mesh import axis_lines
from ndtrain.runtime.runtime import Runtime
from ndtrain.runtime.xla import XlaTransport, trace_xla

SEQUENCE, BATCH = 64, 2
SHAPE = Shape(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=128,
    num_layers=1,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_embeddings=True,
    qk_norm=True,
    max_positions=4096,
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tp", [2, 8])
def test_the_graph_of_every_rank_says_what_the_schedules_say(tp: int, mode: Mode) -> None:
    for rank in range(tp):
        found = layer_lowering(SHAPE, SEQUENCE, BATCH, tp, rank, mode, torch.bfloat16)
        assert len(found) == 8
        for where, comparison in found.items():
            assert comparison.problems == [], (rank, where)
            assert comparison.num_pairs > 0
            if mode == "off":
                assert comparison.num_free == 0


@pytest.mark.parametrize("mode", ["off", "bulk", "chunk"])
@pytest.mark.parametrize("tp", [2, 8])
def test_the_graph_of_the_head_says_what_its_schedule_says(tp: int, mode: Mode) -> None:
    """The ranks' exchange of statistics waits for the second gather: they have one order."""
    for rank in range(tp):
        found = head_lowering(SHAPE, SEQUENCE, BATCH, tp, rank, mode, torch.bfloat16)
        assert found.problems == []
        assert found.num_pairs == (6 * 6 if mode == "chunk" else 3 * 3)
        given_up = {moved for moved, _ in found.given_up}
        assert given_up == ({"gather_1", "scatter_0"} if mode == "chunk" else set())
        assert (found.num_free > 0) == (mode == "chunk")


@pytest.mark.parametrize("mode", ["bulk", "chunk", "ring", "ring2"])
@pytest.mark.parametrize("tp", [2, 8])
def test_what_streams_would_run_side_by_side_is_free_in_the_graph(tp: int, mode: Mode) -> None:
    """At least as many pairs as the schedules have; other operations' are free besides."""
    runtime = trace_xla(0, tp, 1, SHAPE.num_kv_heads)
    parts = layer_parts(traced_block(SHAPE, mode, torch.bfloat16, runtime))
    found = layer_lowering(SHAPE, SEQUENCE, BATCH, tp, 0, mode, torch.bfloat16)
    for where, part in parts.items():
        products = {node.name for node in part.schedule.nodes if is_product(node)}
        planned = [pair for pair in Order(part.schedule).concurrent() if pair[1] in products]
        assert found[where].given_up == []
        assert found[where].num_free >= len(planned)
    # Of a ring, beside each hop the products of what is there: own part, and what came before.
    ring2 = sum(2 + hop for hop in range(2 * (tp - 1)))
    hidden = {"bulk": 0, "chunk": 1, "ring": sum(range(1, tp)), "ring2": ring2}[mode]
    assert found["qkv", "forward"].num_free == hidden


def problems(
    tp: int,
    mode: Mode,
    mutate: Callable[[Block], None] = lambda block: None,
    runtime: Runtime | None = None,
) -> dict[tuple[str, str], list[str]]:
    """Of a graph that was recorded with `mutate`d plans, against the plans as they were."""
    runtime = runtime or trace_xla(tp - 1, tp, 1, SHAPE.num_kv_heads)
    block = traced_block(SHAPE, mode, torch.bfloat16, runtime)
    parts = layer_parts(block)
    mutate(block)
    graph = HloGraph.read(block_hlo(block, SHAPE, SEQUENCE, BATCH, runtime))
    found = compare(list(parts.values()), graph, axis_lines(tp, 1)["tensor"])
    return {where: one.problems for where, one in zip(parts, found, strict=True) if one.problems}


def test_the_harness_of_the_mutants_finds_nothing_without_one() -> None:
    assert problems(8, "ring") == {}


@pytest.mark.parametrize("mode", ["bulk", "chunk", "ring", "ring2"])
def test_compute_that_waits_for_the_token_is_found(mode: Mode, monkeypatch) -> None:
    """Each compute node made to wait for the communication before it, as a naive lowering would."""

    def naive(schedule: Schedule, inputs, runtime, axis):  # type: ignore[no-untyped-def]
        nodes: list[Node] = []
        latest: tuple[str, ...] = ()
        for node in schedule.nodes:
            if isinstance(node, Compute):
                nodes.append(replace(node, after=(*node.after, *latest)))
            else:
                nodes.append(node)
                latest = (node.name,)
        return recorded(replace(schedule, nodes=tuple(nodes)), inputs, runtime, axis)

    recorded = execute_module.execute_traced
    monkeypatch.setattr(execute_module, "execute_traced", naive)
    found = problems(8, mode)
    assert ("qkv", "backward") in found
    assert any("in the graph" in one and "` waits for `" in one for one in found["qkv", "backward"])


def change(operation: str, name: str, **fields: object) -> Callable[[Block], None]:
    """One node of an operation's backward, changed."""

    def mutate(block: Block) -> None:
        linear = linears_of(block)[operation]
        schedule = linear.plan.backward
        assert name in {node.name for node in schedule.nodes}
        nodes = tuple(
            replace(node, **fields) if node.name == name else node  # type: ignore[arg-type]
            for node in schedule.nodes
        )
        linear.plan = replace(linear.plan, backward=replace(schedule, nodes=nodes))

    return mutate


def test_one_needless_dependency_is_found_where_it_is() -> None:
    found = problems(2, "bulk", change("gate_up", "product", after=("gather",)))
    assert ("gate_up", "backward") in found
    label = "layers.0.mlp.gate_up.backward"
    assert (
        f"in the graph `{label}.product` waits for `{label}.gather`, in the schedule not"
        in found["gate_up", "backward"]
    )


def test_a_lost_dependency_is_found() -> None:
    """The blocking form's order, dropped: a gather that no longer waits for the product."""
    found = problems(2, "off", change("qkv", "gather", after=()))
    label = "layers.0.attention.qkv.backward"
    assert found["qkv", "backward"] == [
        f"in the graph `{label}.gather` does not wait for `{label}.product`, in the schedule it"
    ]


def test_another_order_of_communication_is_found() -> None:
    def swap(block: Block) -> None:
        linear = linears_of(block)["qkv"]
        schedule = linear.plan.forward
        nodes = list(schedule.nodes)
        places = [place for place, node in enumerate(nodes) if node.name in ("hop_1", "hop_2")]
        first, second = places
        nodes[first], nodes[second] = nodes[second], nodes[first]
        linear.plan = replace(linear.plan, forward=replace(schedule, nodes=tuple(nodes)))

    label = "layers.0.attention.qkv"
    found = problems(8, "ring", swap)
    assert (
        f"the graph does not keep `{label}.hop_1` before `{label}.hop_2`"
        in (found["qkv", "forward"])
    )


class Backwards(XlaTransport):
    """Sends to the wrong neighbour."""

    def permute(self, x, axis, shift, out) -> None:  # type: ignore[no-untyped-def]
        super().permute(x, axis, -shift, out)


class Doubled(XlaTransport):
    """Gathers once more than asked for."""

    def all_gather(self, x, axis, out):  # type: ignore[no-untyped-def]
        return super().all_gather(super().all_gather(x, axis, None)[: x.shape[0]], axis, out)


@pytest.mark.parametrize(
    ("mode", "transport", "message"),
    [("ring", Backwards, "`hop_1` is between"), ("bulk", Doubled, "is 2 all-gather in the graph")],
)
def test_wrong_partners_and_needless_communication_are_found(mode, transport, message) -> None:
    runtime = trace_xla(0, 8, 1, SHAPE.num_kv_heads)
    runtime.collectives.transport = transport(axis_lines(8, 1, 2))
    found = problems(8, mode, runtime=runtime)
    assert any(message in one for listed in found.values() for one in listed)


def test_communication_that_no_schedule_has_is_found() -> None:
    runtime = trace_xla(0, 2, 1, SHAPE.num_kv_heads)

    def stray(block: Block) -> None:
        axis = runtime.mesh.tensor
        block.mlp_norm.register_forward_hook(
            lambda module, inputs, y: (
                y + runtime.collectives.reduce_scatter(torch.cat([y, y]), axis, "stray")
            )
        )

    found = problems(2, "bulk", stray, runtime)
    assert any("no schedule has the reduce-scatter" in one for one in found["qkv", "forward"])


@pytest.mark.parametrize("dp", [1, 2])
def test_groups_are_every_line_of_the_axis(dp: int) -> None:
    """A collective's groups divide the world evenly; a permute goes once around each line."""
    runtime = trace_xla(0, 4, dp, SHAPE.num_kv_heads)
    block = traced_block(SHAPE, "ring", torch.bfloat16, runtime)
    parts = list(layer_parts(block).values())
    graph = HloGraph.read(block_hlo(block, SHAPE, SEQUENCE, BATCH, runtime))
    assert [
        one
        for found in compare(parts, graph, axis_lines(4, dp)["tensor"])
        for one in found.problems
    ] == []
    pairs = {
        one.groups for one in graph.instructions.values() if one.opcode == "collective-permute"
    }
    lines = [tuple(range(4 * row, 4 * row + 4)) for row in range(dp)]
    around = tuple((line[i], line[(i + 1) % 4]) for line in lines for i in range(4))
    assert around in pairs
