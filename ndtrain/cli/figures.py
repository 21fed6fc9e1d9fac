"""The machine of a prediction: a row of the hardware table, or figures from the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ndtrain.core.errors import UserError
from ndtrain.core.suggest import advice

if TYPE_CHECKING:
    from ndtrain.hardware.tables import Device
    from ndtrain.overlap.node_cost import Figures

# Of a CPU whose figures are given: a TCP connection's, and a laptop's memory.
CPU_LATENCY_US, CPU_MEMORY_GBYTES = 50.0, 10.0


class Given(NamedTuple):
    """What the command line says of the machine; None where it says nothing."""

    hardware: str | None
    matmul_tflops: float | None
    link_gbps: float | None
    latency_us: float | None
    memory_gbytes: float | None


def figure_options(command: Callable[..., Any]) -> Callable[..., Any]:
    positive = click.FloatRange(min=0, min_open=True)
    options = [
        click.option("--hardware", help="A device of the table: trn1, trn2, trn3, h100, a100."),
        click.option("--matmul-tflops", type=positive, help="Matmul rate of a rank, TFLOP/s."),
        click.option("--link-gbps", type=positive, help="What a rank sends, in Gbit/s."),
        click.option("--latency-us", type=click.FloatRange(min=0), help="Of a message, us."),
        click.option("--memory-gbytes", type=positive, help="Memory bandwidth, in GB/s."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_figures(given: Given, dtype: str) -> Figures:
    """Raises UserError when neither a device nor enough figures are given."""
    from ndtrain.overlap.node_cost import Figures
    from ndtrain.overlap.table_figures import table_figures

    if given.hardware is None:
        if given.matmul_tflops is None or given.link_gbps is None:
            raise UserError(
                "a prediction needs a machine",
                "the command line",
                "give --hardware trn1, or --matmul-tflops and --link-gbps",
            )
        return Figures(
            matmul_flops=given.matmul_tflops * 1e12,
            memory_bytes_per_s=(given.memory_gbytes or CPU_MEMORY_GBYTES) * 1e9,
            link_bytes_per_s=given.link_gbps * 1e9 / 8,
            link_latency_s=_or(given.latency_us, CPU_LATENCY_US) * 1e-6,
        )
    known = table_figures(_device(given.hardware), dtype)
    return Figures(
        matmul_flops=_or(given.matmul_tflops, known.matmul_flops / 1e12) * 1e12,
        memory_bytes_per_s=_or(given.memory_gbytes, known.memory_bytes_per_s / 1e9) * 1e9,
        link_bytes_per_s=_or(given.link_gbps, known.link_bytes_per_s * 8 / 1e9) * 1e9 / 8,
        link_latency_s=_or(given.latency_us, known.link_latency_s * 1e6) * 1e-6,
        issues_ahead=known.issues_ahead,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _device(name: str) -> Device:
    from ndtrain.hardware.tables import DEVICES, find_device

    device = find_device(name)
    if device is None:
        known = ", ".join(DEVICES)
        raise UserError(
            f"there is no device `{name}`", "--hardware", advice(name, DEVICES, f"known: {known}")
        )
    return device


def describe(figures: Figures) -> str:
    return (
        f"{figures.matmul_flops / 1e12:.4g} TFLOP/s, memory "
        f"{figures.memory_bytes_per_s / 1e9:.4g} GB/s, link {figures.link_bytes_per_s * 8e-9:.4g} "
        f"Gbit/s one way, latency {figures.link_latency_s * 1e6:.4g} us"
    )
