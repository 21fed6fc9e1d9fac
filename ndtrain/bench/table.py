"""The table of a measurement: each contestant's median, and how many times another one's.

lines = table(rounds, "bare")
"""

from ndtrain.bench.rounds import Rounds, Spread, ratio_of_rounds


def table(rounds: Rounds, below: str) -> list[str]:
    """Medians of the rounds' ratios to the contestant `below`, with their quartiles."""
    lines = [f"{'':<22} {'median ms':>9}   {f'x {below}':>7} {'quartiles':>15}"]
    for name, step_ms in rounds.step_ms.items():
        ratio = ratio_of_rounds(rounds, (name,), below)
        quartiles = f"{ratio.low:.3f} - {ratio.high:.3f}"
        median_ms = Spread.of(step_ms).median
        lines.append(f"{name:<22} {median_ms:>9.1f}   {ratio.median:>7.3f} {quartiles:>15}")
    return lines


def link_name(megabits: int | None) -> str:
    return "the link as it is" if megabits is None else f"{megabits} Mbit/s"
