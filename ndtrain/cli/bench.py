"""`ndtrain bench step`: how fast one forward and backward is, and how fast it could be."""

from dataclasses import replace

import click

from ndtrain.bench.workload import DEFAULT, Workload
from ndtrain.cli import terminal

POSITIVE = click.IntRange(min=1)


@click.group()
def bench() -> None:
    """Measure a step against its peers."""


@bench.command()
@click.option("--layers", type=POSITIVE, default=DEFAULT.shape.num_layers)
@click.option("--hidden", type=POSITIVE, default=DEFAULT.shape.hidden_size)
@click.option("--intermediate", type=POSITIVE, default=DEFAULT.shape.intermediate_size)
@click.option("--heads", type=POSITIVE, default=DEFAULT.shape.num_heads)
@click.option("--kv-heads", type=POSITIVE, default=DEFAULT.shape.num_kv_heads)
@click.option("--head-dim", type=POSITIVE, default=DEFAULT.shape.head_dim)
@click.option("--vocab", type=POSITIVE, default=DEFAULT.shape.vocab_size)
@click.option("--sequence", type=POSITIVE, default=DEFAULT.sequence_length)
@click.option("--batch", type=POSITIVE, default=DEFAULT.batch_size)
@click.option("--dtype", type=click.Choice(["fp32", "bf16"]), default=DEFAULT.dtype)
@click.option("--ranks", type=POSITIVE, default=DEFAULT.num_ranks, help="Tensor-parallel ranks.")
@click.option("--rounds", type=POSITIVE, default=10, help="Rounds, after one that is not counted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def step(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    sequence: int,
    batch: int,
    dtype: str,
    ranks: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Forward and backward of one shape: ours, PyTorch's DTensor, bare compute, one rank.

    The contestants take turns in each round, in an order that rotates, in one process group; what
    counts are the ratios of a round. bare is ours without its collectives, exchange the
    collectives alone. The CPUs are divided among the ranks. Started by torchrun, it measures the
    ranks of that job.
    """
    workload = _workload(
        sequence_length=sequence,
        batch_size=batch,
        dtype=dtype,
        num_ranks=ranks,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
    )
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
