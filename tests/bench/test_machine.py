"""What a machine allows is measured on the same work: the bytes and FLOPs of ours, counted."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ndtrain.bench.contestants_ours import Bare, Ours
from ndtrain.bench.machine import MachineMeasurement, axes_of, plain_contestants
from ndtrain.bench.machine_report import as_json, as_text
from ndtrain.bench.plain_compute import PlainStep
from ndtrain.bench.plain_exchange import PlainExchange
from ndtrain.bench.rounds import Rounds
from ndtrain.bench.transfers import Layout, transfers_of
from ndtrain.bench.workload import DEFAULT, Workload
from ndtrain.bench.zero import ZeroSteps
from ndtrain.runtime.runtime import start_cpu
from tests.rank_pool import ranks

SMALL = replace(
    DEFAULT,
    shape=replace(
        DEFAULT.shape,
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_heads=4,
        num_kv_heads=4,
        head_dim=16,
    ),
    sequence_length=64,
)
BUCKET_BYTES = 50_000


def bytes_sent(step: Callable[[], Any]) -> int:
    """Bytes that this rank hands to gloo in one step, from whichever thread."""
    sizes: list[int] = []
    isend = dist.isend

    def counting(x: Tensor, *arguments: Any, **options: Any) -> Any:
        sizes.append(x.nbytes)
        return isend(x, *arguments, **options)

    with mock.patch.object(dist, "isend", counting):
        step()
    return sum(sizes)


def of_a_step(rank: int, workload: Workload) -> tuple[int, int, int]:
    """Bytes of ours, of the plain exchange, and as they were counted beforehand."""
    layout = Layout(workload.num_ranks, 1, rank)
    ours, exchange = Ours(), PlainExchange(layout, ("tensor",))
    ours.setup(workload)
    exchange.setup(workload)
    counted = sum(one.num_bytes for one in transfers_of(workload, layout, "tensor"))
    return bytes_sent(ours.step), bytes_sent(exchange.step), counted


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_exchange_moves_the_bytes_of_a_step_of_ours(size: int, dtype: str) -> None:
    workload = replace(SMALL, num_ranks=size, dtype=dtype)
    for ours, exchanged, counted in ranks(size).run(of_a_step, workload):
        assert exchanged == counted
        assert counted == pytest.approx(ours, rel=0.005)  # a row of nothing stands for none


def of_an_update(rank: int, workload: Workload, dp: int) -> tuple[int, int]:
    tp = workload.num_ranks
    layout = Layout(tp, dp, rank)
    runtime = start_cpu(tp, dp, workload.shape.num_kv_heads)
    ours = ZeroSteps("data", dp, BUCKET_BYTES, runtime)
    ours.setup(workload)

    def steps(count: int) -> None:
        for _ in range(count):
            ours.step()
        ours.optimizer.traffic.finish()

    exchange = PlainExchange(layout, axes_of(tp), BUCKET_BYTES)
    exchange.setup(workload)
    # The first step after a pause finds its weights there; the second fetches rows ahead of them.
    once = bytes_sent(lambda: steps(1))
    return bytes_sent(lambda: steps(2)) - once, bytes_sent(exchange.step)


@pytest.mark.parametrize(("tp", "dp"), [(1, 2), (2, 2)])
@pytest.mark.parametrize("is_tied", [False, True])
def test_and_those_of_an_optimizer_step(tp: int, dp: int, is_tied: bool) -> None:
    """Ours besides shares the gradient's norm and which rows were touched."""
    shape = replace(SMALL.shape, tie_embeddings=is_tied)
    workload = replace(SMALL, shape=shape, num_ranks=tp)
    for ours, exchanged in ranks(tp * dp).run(of_an_update, workload, dp):
        assert exchanged == pytest.approx(ours, rel=0.01)


def of_blocking(rank: int, workload: Workload, dp: int, has_buckets: bool) -> dict[str, int]:
    """Bytes that each contestant with compute sends in a step."""
    layout = Layout(workload.num_ranks, dp, rank)
    found = {}
    for contestant in plain_contestants(layout, BUCKET_BYTES if has_buckets else None):
        contestant.setup(workload)
        found[contestant.name] = bytes_sent(contestant.step)
    return found


@pytest.mark.parametrize(("tp", "dp", "has_buckets"), [(2, 1, False), (1, 2, True), (2, 2, True)])
def test_whoever_waits_and_whoever_does_not_sends_the_same(
    tp: int, dp: int, has_buckets: bool
) -> None:
    """Compute that waits takes every transfer, each where it needs it."""
    for found in ranks(tp * dp).run(of_blocking, replace(SMALL, num_ranks=tp), dp, has_buckets):
        everything = found["exchange tensor + data"] if dp * tp == 4 else found["beside"]
        assert found.pop("plain") == 0
        with_compute = {name: n for name, n in found.items() if not name.startswith("exchange")}
        assert with_compute.keys() >= {"blocking", "beside"}
        assert set(with_compute.values()) == {everything}
        assert everything > 0


class Noted:
    """Turns that note what compute takes."""

    def __init__(self) -> None:
        self.taken: list[int | str] = []

    def take(self, count: int) -> None:
        self.taken.append(count)

    def take_gathers(self) -> None:
        self.taken.append("gathers")


def test_compute_takes_transfers_where_it_needs_them() -> None:
    """Embedding; qkv, o, gate_up, down of each layer; the head; and backward the mirror image."""
    plain, turns = PlainStep(Layout(2, 1, 0)), Noted()
    plain.setup(SMALL)
    with plain.waiting_for(turns):
        plain.step()
    layers = SMALL.shape.num_layers
    expected = [1, *["gathers", 1] * 2 * layers, "gathers", 1, *[1, 2] * 2 * layers]
    assert turns.taken == expected
    plain.step()
    assert turns.taken == expected


def flops(rank: int, workload: Workload) -> tuple[int, int]:
    counted = []
    layout = Layout(workload.num_ranks, 1, rank)
    for contestant in (Bare(), PlainStep(layout)):
        contestant.setup(workload)
        with FlopCounterMode(display=False) as counter:
            contestant.step()
        counted.append(counter.get_total_flops())
    return counted[0], counted[1]


def test_plain_compute_has_the_flops_of_bare_compute() -> None:
    for bare, plain in ranks(2).run(flops, SMALL):
        assert plain == bare > 0


def gradients(rank: int, tp: int) -> dict[str, torch.Size]:
    plain = PlainStep(Layout(tp, 1, rank))
    plain.setup(replace(SMALL, num_ranks=tp))
    plain.step()
    return {
        name: parameter.shape
        for name, parameter in plain.model.named_parameters()
        if parameter.grad is not None and parameter.grad.isfinite().all()
    }


@pytest.mark.parametrize("tp", [1, 2])
def test_plain_compute_fills_every_gradient_of_a_rank_s_share(tp: int) -> None:
    found = gradients(0, tp)
    assert len(found) == 19
    assert found["layers.0.mlp.down.weight"] == (64, 96 // tp)
    assert found["embedding.weight"] == (512 // tp, 64)


MEASUREMENT = MachineMeasurement(
    workload=DEFAULT,
    dp=2,
    megabits=1000,
    bucket_bytes=16 * 10**6,
    num_threads=1,
    rounds=Rounds(
        {
            "plain": [100.0, 100.0],
            "exchange tensor": [20.0, 20.0],
            "exchange data": [10.0, 10.0],
            "blocking": [130.0, 130.0],
            "beside tensor": [126.0, 126.0],
            "beside data": [121.0, 121.0],
            "beside": [105.0, 107.0],
        },
        {},
    ),
)


def test_the_table_and_json_have_every_contestant() -> None:
    text = as_text(MEASUREMENT)
    assert text.startswith("an optimizer step in plain PyTorch on 2 tensor x 2 data ranks")
    assert "1.060" in text
    assert text.endswith("tensor axis: 0.20\ndata axis: 0.90")
    assert "forward and backward" in as_text(replace(MEASUREMENT, bucket_bytes=None))
    found = as_json(MEASUREMENT)
    assert found["over_plain"]["beside"]["median"] == pytest.approx(1.06)
    assert found["bucket_megabytes"] == 16


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--dp 2 --zero --tp 1 --bucket-mb 1"])
def test_the_command_on_a_tiny_shape(options: str) -> None:
    sizes = "--layers 1 --hidden 64 --intermediate 128 --heads 4 --kv-heads 2 --head-dim 16"
    more = f"--vocab 256 --sequence 64 --rounds 1 --json {options}"
    done = subprocess.run(
        [sys.executable, "-m", "ndtrain", "bench", "machine", *sizes.split(), *more.split()],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    exchange = "exchange data" if options else "exchange"
    assert json.loads(done.stdout)["step_ms"].keys() == {"plain", exchange, "blocking", "beside"}
