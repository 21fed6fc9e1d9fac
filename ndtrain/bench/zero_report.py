"""A measurement of `bench overlap --zero` as a table for people and as JSON for programs."""

from dataclasses import asdict
from typing import Any

from ndtrain.bench.rounds import Rounds, Spread, ratio_of_rounds
from ndtrain.bench.zero import ZeroMeasurement, axes_of


def as_text(measurement: ZeroMeasurement) -> str:
    workload, rounds, tp = measurement.workload, measurement.rounds, measurement.workload.num_ranks
    link = "the link as it is" if measurement.megabits is None else f"{measurement.megabits} Mbit/s"
    num_rounds = len(next(iter(rounds.step_ms.values())))
    lines = [
        f"an optimizer step on {tp} tensor x {measurement.dp} data ranks"
        f" x {measurement.num_threads} threads, {workload.dtype}, {link},"
        f" buckets of {measurement.bucket_bytes / 1e6:g} MB, {num_rounds} rounds",
        "",
        f"{'':<22} {'median ms':>9}   {'x bare':>7} {'quartiles':>15}",
    ]
    for name, step_ms in rounds.step_ms.items():
        over_bare = ratio_of_rounds(rounds, (name,), "bare")
        quartiles = f"{over_bare.low:.3f} - {over_bare.high:.3f}"
        median_ms = Spread.of(step_ms).median
        lines.append(f"{name:<22} {median_ms:>9.1f}   {over_bare.median:>7.3f} {quartiles:>15}")
    lines.append("")
    for axis in axes_of(tp):
        lines.append(f"overlap efficiency of the {axis} axis: {axis_efficiency(rounds, axis):.2f}")
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
        "decided": measurement.decided,
    }


def axis_efficiency(rounds: Rounds, axis: str) -> float:
    """(nothing hidden - the axis hidden) / what could hide at best; median over rounds.

    What could hide is the smaller of bare compute and the axis's transfers alone. 1: all hides.
    """
    names = ("hides nothing", f"hides {axis}", "bare", f"exchange {axis}")
    values = [
        (blocking - hidden) / min(bare, exchange)
        for blocking, hidden, bare, exchange in zip(
            *(rounds.step_ms[name] for name in names), strict=True
        )
    ]
    return Spread.of(values).median
