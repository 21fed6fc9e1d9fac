"""A measurement of `bench overlap --zero` as a table for people and as JSON for programs."""

from dataclasses import asdict
from typing import Any

from ndtrain.bench.machine import axes_of
from ndtrain.bench.machine_report import axis_allows, saved_share
from ndtrain.bench.overlap_report import machine_lines, met
from ndtrain.bench.rounds import Rounds, ratio_of_rounds
from ndtrain.bench.table import link_name, table
from ndtrain.bench.workload import DEFAULT
from ndtrain.bench.zero import ZeroMeasurement

# On the default shape, two replicas and a link of 1 Gbit/s.
EFFICIENCY = 0.8  # at least, of each axis, on 2 x 2 ranks
OVER_BARE = 1.12  # at most, on one tensor rank, where compute takes longer than the transfers


def as_text(measurement: ZeroMeasurement) -> str:
    workload, rounds, tp = measurement.workload, measurement.rounds, measurement.workload.num_ranks
    link = link_name(measurement.megabits)
    num_rounds = len(next(iter(rounds.step_ms.values())))
    lines = [
        f"an optimizer step on {tp} tensor x {measurement.dp} data ranks"
        f" x {measurement.num_threads} threads, {workload.dtype}, {link},"
        f" buckets of {measurement.bucket_bytes / 1e6:g} MB, {num_rounds} rounds",
        "",
        *table(rounds, "bare"),
    ]
    lines += ["", *machine_lines(rounds, f"exchange {' + '.join(axes_of(tp))}")]
    lines += _verdicts(measurement)
    if measurement.decided:
        lines += ["", "auto decided:", *measurement.decided]
    return "\n".join(lines)


def as_json(measurement: ZeroMeasurement) -> dict[str, Any]:
    rounds, tp = measurement.rounds, measurement.workload.num_ranks
    return {
        "workload": asdict(measurement.workload),
        "tp": tp,
        "dp": measurement.dp,
        "link_mbits": measurement.megabits,
        "bucket_megabytes": measurement.bucket_bytes / 1e6,
        "num_threads": measurement.num_threads,
        "step_ms": rounds.step_ms,
        "losses": rounds.losses,
        "over_bare": {
            name: asdict(ratio_of_rounds(rounds, (name,), "bare")) for name in rounds.step_ms
        },
        "overlap_efficiency": {axis: axis_efficiency(rounds, axis) for axis in axes_of(tp)},
        "machine_allows": {axis: axis_allows(rounds, axis) for axis in axes_of(tp)},
        "decided": measurement.decided,
    }


def _verdicts(measurement: ZeroMeasurement) -> list[str]:
    rounds, tp = measurement.rounds, measurement.workload.num_ranks
    has_targets = _has_targets(measurement)
    lines = []
    for axis in axes_of(tp):
        hidden = axis_efficiency(rounds, axis)
        line = f"overlap efficiency of the {axis} axis"
        if has_targets and tp > 1:
            line += f" >= {EFFICIENCY}: {met(hidden >= EFFICIENCY)} ({hidden:.2f})"
        else:
            line += f": {hidden:.2f}"
        lines.append(f"{line}; this machine allows {axis_allows(rounds, axis):.2f}")
    if has_targets and tp == 1 and ratio_of_rounds(rounds, ("exchange data",), "bare").median < 1:
        ratio = ratio_of_rounds(rounds, ("hides data",), "bare").median
        lines.append(f"hides data / bare <= {OVER_BARE}: {met(ratio <= OVER_BARE)} ({ratio:.3f})")
    return lines


def _has_targets(measurement: ZeroMeasurement) -> bool:
    """Elsewhere overheads weigh differently."""
    workload = measurement.workload
    shape_and_length = (workload.shape, workload.sequence_length, workload.dtype)
    is_default = shape_and_length == (DEFAULT.shape, DEFAULT.sequence_length, DEFAULT.dtype)
    return is_default and measurement.megabits == 1000 and measurement.dp == 2


def axis_efficiency(rounds: Rounds, axis: str) -> float:
    """Of ours: what hiding the axis saves, of the smaller of bare compute and its transfers."""
    return saved_share(rounds, ("hides nothing", f"hides {axis}", "bare", f"exchange {axis}"))
