"""A measurement of `bench machine` as a table for people and as JSON for programs."""

from dataclasses import asdict
from typing import Any

from ndtrain.bench.machine import MachineMeasurement
from ndtrain.bench.rounds import ratio_of_rounds
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
