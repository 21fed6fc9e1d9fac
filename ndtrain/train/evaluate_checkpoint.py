"""Loss and perplexity of a checkpoint on the held-out rows of some data, on one device.

result = evaluate_checkpoint(Path("runs/small"), config, max_rows=None, log=print)
result.loss, result.perplexity
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ndtrain.checkpoint.source import open_source
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError
from ndtrain.data.loader import HeldOutRows
from ndtrain.data.prepare import prepare
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.ops.attention_choice import choose
from ndtrain.parallel.apply import materialize, parallelize
from ndtrain.runtime.dtypes import DTYPES
from ndtrain.runtime.runtime import start_cpu
from ndtrain.train.build import attention_problem
from ndtrain.train.evaluate import evaluate


@dataclass(frozen=True, slots=True)
class Evaluation:
    checkpoint: str
    step: int | None
    loss: float  # nats, mean over the counted tokens
    num_targets: int
    num_rows: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "perplexity": self.perplexity}


def evaluate_checkpoint(
    path: Path, config: Config, max_rows: int | None, log: Callable[[str], None]
) -> Evaluation:
    """The checkpoint's tokenizer encodes the data. Raises UserError if nothing is held out."""
    source = open_source(path)
    if source.tokenizer_folder is None:
        raise UserError("no tokenizer beside the weights", str(path), "copy tokenizer.json there")
    data = config.data.model_copy(update={"tokenizer": str(source.tokenizer_folder)})
    dataset = prepare(data, source.shape.vocab_size, log)
    rows = HeldOutRows(
        dataset, data.sequence_length, max_rows=max_rows, document_mask=data.document_mask
    )
    num_targets = rows.num_targets(slice(0, rows.num_rows))
    if num_targets == 0:
        raise UserError(
            "no token is held out, so there is nothing to evaluate on",
            f"data.held_out_fraction={data.held_out_fraction}",
            "raise it; 0.99 takes nearly all documents",
        )
    runtime = start_cpu(tp=1, dp=1, num_kv_heads=source.shape.num_kv_heads)
    problem = attention_problem(config, source.shape.head_dim)
    with torch.device("meta"):
        model = Qwen3(source.shape, choose(config.ops.attention, runtime.device, problem))
    shards = parallelize(model, runtime)
    materialize(model, shards, source, DTYPES[config.train.compute_dtype])
    loss = evaluate(model, rows, config.train.micro_batch_size, runtime)
    step = getattr(getattr(source, "manifest", None), "step", None)
    return Evaluation(str(path), step, loss, num_targets, rows.num_rows)
