"""The one line of a step, from a record of metrics: what is unknown is left out, never faked.

step 120/1000 | loss 3.2145 | grad 0.81 | lr 2.9e-04 | 41.2k tok/s (5.15k/dev) | mfu 38.4% |
812 ms | comm 96.0 ms (91% hidden, compute x1.04) | mem 61.3 GiB 64% | eta 00:11:54

compute x1.04: what ran beside communication took so much longer than it takes alone.
"""

from collections.abc import Callable

from ndtrain.observe.sinks import Record


def step_line(record: Record, num_steps: int, seconds_left: float | None = None) -> str:
    """Fields in the order above, of those that the record has (a value of None is unknown)."""
    fields = [f"step {record['step']}/{num_steps}"]
    fields += [text for field in _FIELDS if (text := field(record))]
    if seconds_left is not None:
        fields.append(f"eta {clock(seconds_left)}")
    return " | ".join(fields)


def thousands(value: float) -> str:
    """Three significant digits with k, M or G: 5150 -> 5.15k."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999.5 would round to 1000: it is 1.00k.
        if value >= factor * 0.9995:
            return _three_digits(value / factor) + suffix
    return _three_digits(value)


def clock(seconds: float) -> str:
    """hh:mm:ss, hours beyond a day counted on."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _simple(key: str, render: Callable[[float], str]) -> Callable[[Record], str | None]:
    def field(record: Record) -> str | None:
        value = record.get(key)
        return None if value is None else render(value)

    return field


def _throughput(record: Record) -> str | None:
    total, each = record.get("tokens_per_second"), record.get("tokens_per_second_per_device")
    if total is None:
        return None
    return f"{thousands(total)} tok/s" + (f" ({thousands(each)}/dev)" if each is not None else "")


def _communication(record: Record) -> str | None:
    comm_ms, overlap_pct = record.get("comm_ms"), record.get("overlap_pct")
    if comm_ms is None:
        return None
    slowdown = record.get("overlap", {}).get("step", {}).get("compute_slowdown")
    notes = [f"{overlap_pct:.0f}% hidden"] if overlap_pct is not None else []
    notes += [f"compute x{slowdown:.2f}"] if slowdown is not None else []
    return f"comm {_three_digits(comm_ms)} ms" + (f" ({', '.join(notes)})" if notes else "")


def _memory(record: Record) -> str | None:
    gib, pct = record.get("memory_gib"), record.get("memory_pct")
    if gib is None:
        return None
    return f"mem {_three_digits(gib)} GiB" + (f" {pct:.0f}%" if pct is not None else "")


_FIELDS = (
    _simple("loss", lambda loss: f"loss {loss:.4f}"),
    _simple("held_out_loss", lambda loss: f"held-out loss {loss:.4f}"),
    _simple("grad_norm", lambda norm: f"grad {norm:.2f}"),
    _simple("lr", lambda lr: f"lr {lr:.1e}"),
    _throughput,
    _simple("mfu", lambda mfu: f"mfu {100 * mfu:.1f}%"),
    _simple("step_ms", lambda step_ms: f"{_three_digits(step_ms)} ms"),
    _communication,
    _memory,
)
