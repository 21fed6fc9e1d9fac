"""What `ndtrain overlap verify --hlo` adds: the schedules against the graphs of torch-xla.

compare_graphs(config, dp, rows)    # counts and problems into the row of each schedule
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndtrain.config.schema import Config
    from ndtrain.models.qwen3.shape import Shape
    from ndtrain.overlap.lowering import Comparison


def compare_graphs(config: Config, dp: int, rows: list[dict[str, Any]]) -> None:
    """Adds to each row what torch-xla's graphs say: counts of one rank, problems of all.

    Of the buckets only the form behind compute: a traced step does not keep the blocking one's
    waits. All ranks of one line of the data axis; the other lines hold other rows of the same.
    """
    from ndtrain.parallel.zero_hlo import bucket_lowering
    from ndtrain.train.build import shape_of

    shape, tp = shape_of(config.model), config.parallel.tp
    for row in rows:
        if row["operation"] == "buckets" and row["mode"] == "bulk":
            for rank in range(0, tp * dp, tp):
                _add(row, rank, bucket_lowering(shape, tp, dp, rank, in_background=True))
    if tp > 1:
        _compare_layers(config, shape, rows)


def _compare_layers(config: Config, shape: Shape, rows: list[dict[str, Any]]) -> None:
    from ndtrain.parallel.layer_hlo import head_lowering, layer_lowering
    from ndtrain.runtime.dtypes import DTYPES

    dtype, tp = DTYPES[config.train.compute_dtype], config.parallel.tp
    length, batch = config.data.sequence_length, config.train.micro_batch_size
    for mode in dict.fromkeys(row["mode"] for row in rows):
        for rank in range(tp):
            step = (shape, length, batch, tp, rank, mode, dtype)
            found = {**layer_lowering(*step), ("head", "forward"): head_lowering(*step)}
            for row in rows:
                comparison = found.get((row["operation"], row["pass"]))
                if row["mode"] == mode and comparison is not None:
                    _add(row, rank, comparison)


def _add(row: dict[str, Any], rank: int, comparison: Comparison) -> None:
    row |= {
        "pairs": comparison.num_pairs,
        "free": comparison.num_free,
        "given_up": len(comparison.given_up),
    }
    row["problems"] += [f"rank {rank}: {problem}" for problem in comparison.problems]
