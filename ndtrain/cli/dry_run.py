"""What `ndtrain train --dry-run` prints: what would run, and the numbers that decide its cost."""

from ndtrain.config.checks import data_parallel, resolve
from ndtrain.config.checks import world_size as asked_for
from ndtrain.config.explain import show
from ndtrain.config.load import Loaded


def describe(loaded: Loaded, world_size: int | None) -> str:
    """The resolved configuration with origins, then ranks, rows and tokens of a step.

    world_size: None means what the configuration asks for, one replica where dp is auto.
    """
    config = loaded.config
    ranks = world_size or asked_for(config)
    resolved = Loaded(resolve(config, ranks), loaded.origins, loaded.source, loaded.overrides)
    dp, train = data_parallel(config, ranks), config.train
    assert dp is not None
    tokens = train.global_batch_size * config.data.sequence_length
    accumulated = train.global_batch_size // (train.micro_batch_size * dp)
    lines = [
        f"ranks            {ranks} = {config.parallel.tp} tensor parallel x {dp} data parallel",
        f"rows in a step   {train.global_batch_size} = {dp} ranks x {accumulated} micro-batches"
        f" x {train.micro_batch_size} rows",
        f"tokens in a step {tokens:,}",
        f"tokens in all    {tokens * train.steps:,} in {train.steps:,} steps",
        f"run directory    {config.run.directory}/{config.run.name}",
        "nothing was started (--dry-run)",
    ]
    return show(resolved, with_origins=True) + "\n" + "\n".join(lines)
