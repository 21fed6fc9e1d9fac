"""A measurement as a table for people and as JSON for programs, with the targets beside it."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ndtrain.bench.rounds import Spread, ratio_of_rounds
from ndtrain.bench.step import Measurement
from ndtrain.bench.workload import DEFAULT, Workload
from ndtrain.core.errors import Unhealthy

MIB = 2**20

# Relative to each other. fp32: sums in another order; bf16: logits are rounded to 8 bits.
LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}


_NO_LOSS = {
    "bare": "none: nothing is exchanged",
    "exchange": "none: nothing is computed",
}


@dataclass(frozen=True, slots=True)
class Target:
    text: str
    is_met: Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Times of the contestants above, added up, over the time of the one below."""

    above: tuple[str, ...]
    below: str
    target: Target | None = None

    def __str__(self) -> str:
        above = " + ".join(self.above)
        return f"({above}) / {self.below}" if len(self.above) > 1 else f"{above} / {self.below}"


# Held on the default workload: elsewhere overheads weigh differently, and no target is printed.
RATIOS = (
    Ratio(("ours",), "bare", Target("<= 1.20", lambda ratio: ratio <= 1.2)),
    # What blocking collectives can reach on this machine.
    Ratio(("bare", "exchange"), "bare"),
    Ratio(("ours",), "dtensor", Target("< 1.00", lambda ratio: ratio < 1.0)),
    Ratio(("dtensor",), "bare"),
    # Two ranks halve the matmuls; a slower baseline would flatter whoever is compared with it.
    Ratio(("bare",), "transformers", Target("<= 0.58", lambda ratio: ratio <= 0.58)),
)
MEMORY_TARGET = Target("<= 0.80", lambda ratio: ratio <= 0.8)


def as_text(measurement: Measurement) -> str:
    lines = [*_heading(measurement), "", *_times(measurement), "", *_ratios(measurement), ""]
    return "\n".join([*lines, *_memory(measurement)])


def as_json(measurement: Measurement) -> dict[str, Any]:
    workload, rounds = measurement.workload, measurement.rounds
    spreads = {ratio: ratio_of_rounds(rounds, ratio.above, ratio.below) for ratio in RATIOS}
    memory_ratio = _memory_ratio(measurement)
    return {
        "workload": asdict(workload),
        "num_threads": measurement.num_threads,
        "processor": measurement.processor,
        "torch": measurement.torch_version,
        "step_ms": rounds.step_ms,
        "losses": rounds.losses,
        "ratios": {
            str(ratio): asdict(spread) | _judged(workload, ratio.target, spread.median)
            for ratio, spread in spreads.items()
        },
        "memory_bytes": measurement.memory_bytes,
        "memory_ratio": None
        if memory_ratio is None
        else {"ours / dtensor": memory_ratio} | _judged(workload, MEMORY_TARGET, memory_ratio),
    }


def check_losses(measurement: Measurement) -> None:
    """Raises Unhealthy if contestants computed different losses: then no time means anything."""
    losses = {name: loss for name, loss in measurement.rounds.losses.items() if loss is not None}
    tolerance = LOSS_TOLERANCE[measurement.workload.dtype]
    first = next(iter(losses.values()))
    # isclose is false for NaN.
    if not all(math.isclose(loss, first, rel_tol=tolerance) for loss in losses.values()):
        raise Unhealthy(
            "the contestants do not compute the same loss: "
            + ", ".join(f"{name} {loss:.6f}" for name, loss in losses.items()),
            help="their times cannot be compared; one of them is wrong",
        )


def _heading(measurement: Measurement) -> list[str]:
    workload = measurement.workload
    shape = workload.shape
    return [
        f"forward and backward, {workload.dtype}: {shape.num_layers} layers, "
        f"hidden {shape.hidden_size}, intermediate {shape.intermediate_size}, "
        f"heads {shape.num_heads}/{shape.num_kv_heads} of {shape.head_dim}, "
        f"vocabulary {shape.vocab_size}, sequence {workload.sequence_length}, "
        f"batch {workload.batch_size}",
        f"{workload.num_ranks} ranks x {measurement.num_threads} threads, "
        f"{measurement.processor}, torch {measurement.torch_version}",
    ]


def _times(measurement: Measurement) -> list[str]:
    lines = [f"{'step':<23} {'median ms':>9} {'quartiles':>17}   loss"]
    for name, step_ms in measurement.rounds.step_ms.items():
        spread = Spread.of(step_ms)
        quartiles = f"{spread.low:.1f} - {spread.high:.1f}"
        loss = measurement.rounds.losses[name]
        loss_text = _NO_LOSS[name] if loss is None else f"{loss:.6f}"
        label = f"{name} (one rank)" if name == "transformers" else name
        lines.append(f"{label:<23} {spread.median:>9.1f} {quartiles:>17}   {loss_text}")
    return lines


def _ratios(measurement: Measurement) -> list[str]:
    num_rounds = len(next(iter(measurement.rounds.step_ms.values())))
    header = f"ratio in each of {num_rounds} rounds"
    lines = [f"{header:<26} {'median':>6} {'quartiles':>17}   target"]
    for ratio in RATIOS:
        spread = ratio_of_rounds(measurement.rounds, ratio.above, ratio.below)
        quartiles = f"{spread.low:.3f} - {spread.high:.3f}"
        verdict = _verdict(measurement.workload, ratio.target, spread.median)
        lines.append(f"{ratio!s:<26} {spread.median:>6.3f} {quartiles:>17}   {verdict}".rstrip())
    return lines


def _memory(measurement: Measurement) -> list[str]:
    ratio = _memory_ratio(measurement)
    if measurement.memory_bytes is None or ratio is None:
        return ["peak memory: not measured (needs Linux and ranks that this command starts)"]
    lines = ["peak resident memory of a rank in its steps, above the process before the model:"]
    lines += [
        f"{name:<23} {num_bytes / MIB:>9.1f} MiB"
        for name, num_bytes in measurement.memory_bytes.items()
    ]
    verdict = _verdict(measurement.workload, MEMORY_TARGET, ratio)
    return [*lines, f"{'ours / dtensor':<26} {ratio:>6.3f} {'':>17}   {verdict}".rstrip()]


def _memory_ratio(measurement: Measurement) -> float | None:
    if measurement.memory_bytes is None:
        return None
    return measurement.memory_bytes["ours"] / measurement.memory_bytes["dtensor"]


def _verdict(workload: Workload, target: Target | None, value: float) -> str:
    if target is None or workload != DEFAULT:
        return ""
    return f"{target.text}: {'met' if target.is_met(value) else 'missed'}"


def _judged(workload: Workload, target: Target | None, value: float) -> dict[str, Any]:
    if target is None or workload != DEFAULT:
        return {}
    return {"target": target.text, "met": target.is_met(value)}
