"""A measurement of `bench overlap` as a table for people and as JSON for programs."""

from dataclasses import asdict
from typing import Any

from ndtrain.bench.overlap import FORMS, OverlapMeasurement
from ndtrain.bench.rounds import Rounds, Spread, ratio_of_rounds
from ndtrain.bench.table import link_name
from ndtrain.bench.workload import DEFAULT

# On the default workload, of auto: at most so many times bare compute, and at least so many times
# faster than DTensor, by the link's Mbit/s (None: the link as it is, loopback on one machine).
TARGETS: dict[int | None, tuple[float | None, float | None]] = {
    1000: (1.10, 1.5),
    2000: (1.08, None),
    None: (None, 1.1),
}
OVER_EXCHANGE = 1.08  # at most, of auto, where the transfers alone take longer than compute
OVER_BEST = 1.02  # at most, of auto, over the best fixed form, on any link


def as_text(measurement: OverlapMeasurement) -> str:
    workload, rounds = measurement.workload, measurement.rounds
    link = link_name(measurement.megabits)
    num_rounds = len(next(iter(rounds.step_ms.values())))
    lines = [
        f"forward and backward on {workload.num_ranks} ranks x {measurement.num_threads} threads,"
        f" {workload.dtype}, {link}, {num_rounds} rounds",
        "",
        f"{'':<10} {'median ms':>9}   {'x bare':>7} {'quartiles':>15}   {'dtensor / it':>12}",
    ]
    for name, step_ms in rounds.step_ms.items():
        over_bare = ratio_of_rounds(rounds, (name,), "bare")
        faster = ratio_of_rounds(rounds, ("dtensor",), name).median
        quartiles = f"{over_bare.low:.3f} - {over_bare.high:.3f}"
        lines.append(
            f"{name:<10} {Spread.of(step_ms).median:>9.1f}   {over_bare.median:>7.3f}"
            f" {quartiles:>15}   " + (f"{faster:>12.3f}" if name in (*FORMS, "bare") else "")
        )
    lines += ["", *_verdicts(measurement), "", "auto decided:", *measurement.decided]
    return "\n".join(line.rstrip() for line in lines)


def as_json(measurement: OverlapMeasurement) -> dict[str, Any]:
    rounds = measurement.rounds
    return {
        "workload": asdict(measurement.workload),
        "link_mbits": measurement.megabits,
        "num_threads": measurement.num_threads,
        "step_ms": rounds.step_ms,
        "losses": rounds.losses,
        "over_bare": {
            name: asdict(ratio_of_rounds(rounds, (name,), "bare")) for name in rounds.step_ms
        },
        "overlap_efficiency": overlap_efficiency(rounds),
        "decided": measurement.decided,
    }


def overlap_efficiency(rounds: Rounds) -> float:
    return efficiency_of(rounds, "bare", "exchange", "auto")


def efficiency_of(rounds: Rounds, compute: str, exchange: str, both: str) -> float:
    """(one after the other - both) / what could hide at best; median of each round's ratio.

    What could hide is the smaller of compute and the transfers alone. 1: all of it hides.
    """
    triples = zip(*(rounds.step_ms[name] for name in (compute, exchange, both)), strict=True)
    values = [(alone + moving - done) / min(alone, moving) for alone, moving, done in triples]
    return Spread.of(values).median


def _verdicts(measurement: OverlapMeasurement) -> list[str]:
    rounds = measurement.rounds
    over_bare = ratio_of_rounds(rounds, ("auto",), "bare").median
    faster = ratio_of_rounds(rounds, ("dtensor",), "auto").median
    over_exchange = ratio_of_rounds(rounds, ("auto",), "exchange").median
    best = min(FORMS[:-1], key=lambda form: ratio_of_rounds(rounds, (form,), "bare").median)
    over_best = ratio_of_rounds(rounds, ("auto",), best).median
    is_link_bound = ratio_of_rounds(rounds, ("exchange",), "bare").median > 1
    lines = [
        *machine_lines(rounds, "exchange"),
        f"overlap efficiency of auto: {overlap_efficiency(rounds):.2f}",
        _judged(f"auto / best fixed form ({best})", over_best, OVER_BEST),
    ]
    if is_link_bound:
        lines.append(_judged("auto / exchange", over_exchange, OVER_EXCHANGE))
    most, least = TARGETS.get(measurement.megabits, (None, None))
    if measurement.workload != DEFAULT:
        return lines
    if most is not None:
        lines.append(_judged("auto / bare", over_bare, most))
    if least is not None:
        lines.append(f"dtensor / auto >= {least:.1f}: {met(faster >= least)} ({faster:.3f})")
    return lines


def machine_lines(rounds: Rounds, exchange: str) -> list[str]:
    """The measure of every bound: plain PyTorch, none of our schedules in it.

    exchange: the contestant with all transfers.
    """
    allowed = ratio_of_rounds(rounds, ("beside",), "plain").median
    blocking = ratio_of_rounds(rounds, ("blocking",), "plain").median
    efficiency = efficiency_of(rounds, "plain", exchange, "beside")
    return [
        f"this machine allows (beside / plain; `ndtrain bench machine`): {allowed:.3f},"
        f" efficiency {efficiency:.2f}; blocking {blocking:.3f}"
    ]


def _judged(what: str, ratio: float, most: float) -> str:
    return f"{what} <= {most:.2f}: {met(ratio <= most)} ({ratio:.3f})"


def met(is_met: bool) -> str:
    return "met" if is_met else "missed"
