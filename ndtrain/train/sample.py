"""Continues a prompt with the weights of a checkpoint, on one device, with a key/value cache."""

from pathlib import Path

import torch

from ndtrain.checkpoint.source import open_source
from ndtrain.core.errors import UserError
from ndtrain.data.tokenizer import Tokenizer
from ndtrain.models.qwen3.generate import generate
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.apply import materialize, parallelize
from ndtrain.runtime.runtime import start_cpu


def sample(
    checkpoint: str, prompt: str, max_new_tokens: int, temperature: float, top_p: float, seed: int
) -> str:
    """Returns the continuation without the prompt.

    checkpoint: a checkpoint, a run directory (its newest) or a Hugging Face folder.
    Raises UserError if there are no weights, no tokenizer, or nothing to continue.
    """
    source = open_source(Path(checkpoint).expanduser())
    if source.tokenizer_folder is None:
        raise UserError("no tokenizer beside the weights", checkpoint, "copy tokenizer.json there")
    tokenizer = Tokenizer.open(source.tokenizer_folder)
    tokens = list(tokenizer.encode(prompt))
    if not tokens:
        raise UserError("the prompt has no token", "--prompt", "give at least one character")
    runtime = start_cpu(tp=1, dp=1, num_kv_heads=source.shape.num_kv_heads)
    with torch.device("meta"):
        model = Qwen3(source.shape)
    shards = parallelize(model, runtime)
    materialize(model, shards, source, torch.float32)
    stop = set(tokenizer.stop_ids)
    new = generate(model, tokens, max_new_tokens, temperature, top_p, seed, stop)
    return tokenizer.decode(list(new))
