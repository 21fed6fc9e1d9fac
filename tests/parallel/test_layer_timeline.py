"""A layer on the virtual clock agrees with what the model computes and sends."""

from dataclasses import replace

import pytest
import torch

from ndtrain.overlap.collective_matmul import MODES
from ndtrain.overlap.modes import Modes
from ndtrain.overlap.timeline import Figures
from ndtrain.parallel.layer_schedules import layer_problems
from ndtrain.parallel.layer_timeline import layer_timeline, panel
from tests.parallel.small import BATCH, SEQUENCE, SHAPE

FIGURES = Figures(matmul_flops=1e9, memory_bytes_per_s=1e9, link_bytes_per_s=1e8)
TP = 2
COMMUNICATION = {"qkv", "o", "gate_up", "down"}
FORWARD = [
    "attention_norm",
    "qkv",
    "core",
    "o",
    "residual",
    "mlp_norm",
    "gate_up",
    "activation",
    "down",
    "residual",
]


def parts(mode: str, recompute: str = "none", tp: int = TP) -> dict:
    modes, dtype = Modes.all(mode), torch.float32
    return layer_timeline(SHAPE, SEQUENCE, BATCH, tp, modes, dtype, FIGURES, recompute)


def test_parts_come_in_the_order_in_which_they_run():
    found = parts("ring")
    assert [part.name for part in found["forward"]] == FORWARD
    assert [part.name for part in found["backward"]] == FORWARD[::-1]
    assert {part.name for part in found["forward"] if part.mode == "ring"} == COMMUNICATION


def test_selective_recompute_runs_core_and_activation_again():
    """In front of the product whose kept input they are."""
    names = [part.name for part in parts("off", "selective")["backward"]]
    assert [name for name in names if name.endswith(" again")] == [
        "activation again",
        "core again",
    ]
    assert names.index("core again") == names.index("o") - 1
    assert names.index("activation again") == names.index("down") - 1


def test_full_recompute_runs_all_but_the_last_product_again():
    names = [part.name for part in parts("off", "full")["backward"]]
    assert names == [f"{name} again" for name in FORWARD[:-2]] + FORWARD[::-1]


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_sends_its_shards_and_nothing_else(mode):
    """t - 1 shards of the residual stream per gather and scatter: 4 forward, 6 backward."""
    shard = SEQUENCE // TP * BATCH * SHAPE.hidden_size * 4
    for when, count in (("forward", 4), ("backward", 6)):
        timeline = panel(when, parts(mode)[when]).timeline
        assert sum(span.num_bytes for span in timeline.spans) == count * (TP - 1) * shard


def test_products_of_a_layer_are_all_counted():
    """2 FLOPs a weight and token forward, 4 backward, at 1 GFLOP/s; halved by two ranks."""
    flops = 2 * SHAPE.num_block_matmul_parameters() * SEQUENCE * BATCH / TP
    found = parts("off")
    for when, times in (("forward", 1), ("backward", 2)):
        products_s = sum(
            span.work_s
            for part in found[when]
            if part.mode
            for span in part.timeline.spans
            if span.stream == "compute"
        )
        assert products_s == pytest.approx(times * flops / FIGURES.matmul_flops, rel=1e-9)


def test_one_rank_communicates_nothing():
    for when, some in parts("ring", tp=1).items():
        timeline = panel(when, some).timeline
        assert timeline.communication_s == 0
        assert timeline.makespan_s == pytest.approx(timeline.compute_s)


@pytest.mark.parametrize("mode", ["bulk", "ring"])
def test_a_head_start_is_drawn_where_it_runs_and_shortens_the_layer(mode):
    modes = Modes.all(mode)
    shape = (SHAPE, SEQUENCE, BATCH, TP)
    slow = replace(FIGURES, link_bytes_per_s=1e6)  # the link is the bottleneck
    early, late = (
        layer_timeline(*shape, some, torch.float32, slow, "selective")["backward"]
        for some in (modes, replace(modes, early=frozenset()))
    )
    assert [part.name for part in early] == [part.name for part in late]
    drawn, without = panel("backward", early).timeline, panel("backward", late).timeline
    assert drawn.communication_s == pytest.approx(without.communication_s)
    assert drawn.compute_s == pytest.approx(without.compute_s)
    assert drawn.exposed_s < without.exposed_s
    assert drawn.makespan_s < without.makespan_s
    spans = {span.name: span for span in drawn.spans}
    gather = "gather" if mode == "bulk" else "hop_1"
    for column, between in (("qkv", "core"), ("gate_up", "activation")):
        assert spans[f"{column}.{gather}"].start_s <= spans[between].start_s


def test_the_panel_names_its_parts_where_they_are():
    drawn = panel("forward", parts("ring")["forward"])
    assert [name for name, _, _ in drawn.parts] == FORWARD
    assert drawn.parts[0][1] == 0
    assert drawn.parts[-1][2] == drawn.timeline.makespan_s
    assert {span.name for span in drawn.timeline.spans} >= {"core", "qkv.hop_1", "down.pass_1"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_all_schedules_of_a_layer_are_right(tp, mode):
    problems = layer_problems(SHAPE, SEQUENCE, BATCH, tp, mode, torch.bfloat16)
    assert problems.keys() == {(n, w) for n in COMMUNICATION for w in ("forward", "backward")}
    assert not any(problems.values())


def test_rows_that_chunks_leave_out_are_found():
    problems = layer_problems(SHAPE, 2 * 7, BATCH, 2, "chunk", torch.float32)
    assert all(problems.values())
    (found,) = problems["qkv", "forward"]
    assert found.startswith("every rank: `joined_product` has the shape [12, 4, ")
