"""`ndtrain bench step|overlap|machine`: how fast a step is, what hiding is worth and could be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from ndtrain.bench.workload import DEFAULT, Workload
from ndtrain.cli import terminal
from ndtrain.config.schema import Overlap
from ndtrain.core.errors import UserError

POSITIVE = click.IntRange(min=1)


def shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is computed, on how many ranks and how often."""
    shape = DEFAULT.shape
    options = [
        click.option("--layers", "num_layers", type=POSITIVE, default=shape.num_layers),
        click.option("--hidden", "hidden_size", type=POSITIVE, default=shape.hidden_size),
        click.option(
            "--intermediate", "intermediate_size", type=POSITIVE, default=shape.intermediate_size
        ),
        click.option("--heads", "num_heads", type=POSITIVE, default=shape.num_heads),
        click.option("--kv-heads", "num_kv_heads", type=POSITIVE, default=shape.num_kv_heads),
        click.option("--head-dim", type=POSITIVE, default=shape.head_dim),
        click.option("--vocab", "vocab_size", type=POSITIVE, default=shape.vocab_size),
        click.option(
            "--sequence", "sequence_length", type=POSITIVE, default=DEFAULT.sequence_length
        ),
        click.option("--batch", "batch_size", type=POSITIVE, default=DEFAULT.batch_size),
        click.option("--dtype", type=click.Choice(["fp32", "bf16"]), default=DEFAULT.dtype),
        click.option(
            "--ranks",
            "--tp",
            "num_ranks",
            type=POSITIVE,
            default=DEFAULT.num_ranks,
            help="Tensor-parallel ranks.",
        ),
        click.option(
            "--rounds", type=POSITIVE, default=10, help="Rounds, after one that is not counted."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def bench() -> None:
    """Measure a step against its peers."""


@bench.command()
@shape_options
def step(rounds: int, as_json: bool, **shape: Any) -> None:
    """Forward and backward of one shape: ours, PyTorch's DTensor, bare compute, one rank.

    The contestants take turns in each round, in an order that rotates, in one process group; what
    counts are the ratios of a round. bare is ours without its collectives, exchange the bytes that
    they move, alone and in plain PyTorch. The CPUs are divided among the ranks. Started by
    torchrun, it measures the ranks of that job.
    """
    workload = _workload(**shape)
    from ndtrain.bench import report
    from ndtrain.bench.step import measure_step

    measurement = measure_step(workload, rounds)
    if measurement is None:  # not the rank that reports
        return
    if as_json:
        terminal.print_json(report.as_json(measurement))
    else:
        click.echo(report.as_text(measurement))
    report.check_losses(measurement)


def link_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say over what, and whether the optimizer takes part."""
    options = [
        click.option(
            "--link-mbits",
            type=POSITIVE,
            help="Join the ranks by a link of this speed, in network namespaces (root, Linux,"
            " iproute2).",
        ),
        click.option("--dp", type=POSITIVE, default=1, help="Replicas, with --zero."),
        click.option(
            "--zero",
            is_flag=True,
            help="Whole optimizer steps, with ZeRO's buckets over --dp replicas.",
        ),
        click.option(
            "--bucket-mb",
            type=POSITIVE,
            help="Gradients that travel together, with --zero; by default"
            " overlap.bucket_megabytes.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@bench.command()
@shape_options
@link_options
def overlap(
    rounds: int,
    as_json: bool,
    link_mbits: int | None,
    dp: int,
    zero: bool,
    bucket_mb: int | None,
    **shape: Any,
) -> None:
    """What hiding the communication is worth: ours in every form, bare compute, DTensor.

    All take turns in each round. plain, exchange, blocking and beside are those of `ndtrain bench
    machine`.
    Without --link-mbits the link is what joins the ranks: loopback on one machine, where bytes cost
    compute and hardly any time, or the network of a torchrun job.

    With --zero the steps are whole, and each axis of --tp x --dp ranks is hidden on its own.
    """
    _check_replicas(dp, zero, bucket_mb)
    workload = _workload(**shape)
    from ndtrain.bench import overlap_report, zero_report
    from ndtrain.bench.overlap import measure_overlap
    from ndtrain.bench.zero import measure_zero

    if zero:
        bucket_bytes = _bucket_bytes(bucket_mb)
        _print(measure_zero(workload, dp, rounds, link_mbits, bucket_bytes), zero_report, as_json)
    else:
        _print(measure_overlap(workload, rounds, link_mbits), overlap_report, as_json)


@bench.command()
@shape_options
@link_options
def machine(
    rounds: int,
    as_json: bool,
    link_mbits: int | None,
    dp: int,
    zero: bool,
    bucket_mb: int | None,
    **shape: Any,
) -> None:
    """What this machine and link allow to any implementation, in plain PyTorch.

    plain is a rank's share of the compute, exchange the bytes that a step sends, blocking both with
    compute waiting for every transfer, beside both at once while neither waits for the other:
    moving bytes takes cycles from compute. Of two axes, beside tensor (or data) waits for the other
    axis alone. None of ndtrain's schedules, streams and parallel layers is in it. Options are those
    of `bench overlap`.
    """
    _check_replicas(dp, zero, bucket_mb)
    workload = _workload(**shape)
    from ndtrain.bench import machine_report
    from ndtrain.bench.machine import measure_plain

    bucket_bytes = _bucket_bytes(bucket_mb) if zero else None
    measurement = measure_plain(workload, dp, rounds, link_mbits, bucket_bytes)
    _print(measurement, machine_report, as_json)


def _print(measurement: Any, report: Any, as_json: bool) -> None:
    """report: the module that writes such a measurement."""
    if measurement is None:  # not the rank that reports
        return
    if as_json:
        terminal.print_json(report.as_json(measurement))
    else:
        click.echo(report.as_text(measurement))


def _check_replicas(dp: int, zero: bool, bucket_mb: int | None) -> None:
    if zero and dp == 1:
        raise UserError("--zero shards over replicas", "--dp 1", "pass --dp 2 or more")
    if dp > 1 and not zero:
        raise UserError(
            "replicas exchange gradients and weights in whole steps", f"--dp {dp}", "add --zero"
        )
    if bucket_mb is not None and not zero:
        raise UserError(
            "only whole steps have buckets",
            f"--bucket-mb {bucket_mb}",
            "add --zero, or leave it out",
        )


def _bucket_bytes(megabytes: int | None) -> int:
    return round((megabytes or Overlap().bucket_megabytes) * 1e6)


def _workload(
    *, sequence_length: int, batch_size: int, dtype: str, num_ranks: int, **sizes: int
) -> Workload:
    workload = Workload(
        shape=replace(DEFAULT.shape, **sizes),  # type: ignore[arg-type]
        sequence_length=sequence_length,
        batch_size=batch_size,
        dtype=dtype,
        num_ranks=num_ranks,
    )
    # Before torch is loaded: a mistake in the command should not take seconds to be told.
    workload.check()
    return workload
