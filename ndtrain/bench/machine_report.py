"""A measurement of `bench machine` as a table for people and as JSON for programs."""

from dataclasses import asdict
from typing import Any

from ndtrain.bench.machine import MachineMeasurement, axes_of
from ndtrain.bench.rounds import Rounds, Spread, ratio_of_rounds
from ndtrain.bench.table import link_name, table


def as_text(measurement: MachineMeasurement) -> str:
    workload, rounds = measurement.workload, measurement.rounds
    link = link_name(measurement.megabits)
    what = "forward and backward" if measurement.bucket_bytes is None else "an optimizer step"
    lines = [
        f"{what} in plain PyTorch on {workload.num_ranks} tensor x {measurement.dp} data ranks"
        f" x {measurement.num_threads} threads, {workload.dtype}, {link},"
        f" {len(rounds.step_ms['plain'])} rounds",
        "",
        *table(rounds, "plain"),
    ]
    if measurement.bucket_bytes is not None:
        lines += ["", "saved by not waiting (blocking - beside), of what could be hidden:"]
        axes = axes_of(workload.num_ranks)
        lines += [f"{axis} axis: {axis_allows(rounds, axis):.2f}" for axis in axes]
    return "\n".join(lines)


def as_json(measurement: MachineMeasurement) -> dict[str, Any]:
    rounds = measurement.rounds
    return {
        "workload": asdict(measurement.workload),
        "tp": measurement.workload.num_ranks,
        "dp": measurement.dp,
        "link_mbits": measurement.megabits,
        "bucket_megabytes": measurement.bucket_bytes and measurement.bucket_bytes / 1e6,
        "num_threads": measurement.num_threads,
        "step_ms": rounds.step_ms,
        "over_plain": {
            name: asdict(ratio_of_rounds(rounds, (name,), "plain")) for name in rounds.step_ms
        },
    }


def axis_allows(rounds: Rounds, axis: str) -> float:
    """The efficiency that this machine allows on an axis of a whole step, in plain PyTorch."""
    of_two = f"beside {axis}"
    beside = of_two if of_two in rounds.step_ms else "beside"
    return saved_share(rounds, ("blocking", beside, "plain", f"exchange {axis}"))


def saved_share(rounds: Rounds, names: tuple[str, str, str, str]) -> float:
    """(blocking - hidden) / the smaller of compute and transfers; median over rounds.

    names: of the contestants, in this order. 1: all hides.
    """
    values = [
        (blocking - hidden) / min(compute, exchange)
        for blocking, hidden, compute, exchange in zip(
            *(rounds.step_ms[name] for name in names), strict=True
        )
    ]
    return Spread.of(values).median
