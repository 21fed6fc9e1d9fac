"""Data: sources, tokenizer, chat rendering, packing, and a loader whose state is two integers.

    dataset = prepare(config.data, config.model.vocab_size, log=print)   # one process a node
    dataset = open_prepared(config.data, config.model.vocab_size)        # the others, afterwards
    loader = Loader(dataset, sequence_length=512, global_batch_size=8, seed=0)
    batch = loader.batch(slice(0, 4))                                    # NumPy arrays

NumPy only: nothing here imports torch, and `tokenizers` is imported when text is first encoded.
"""

from ndtrain.data.batch import IGNORED_TARGET, Batch
from ndtrain.data.dataset import Dataset
from ndtrain.data.loader import HeldOutRows, Loader, rank_rows
from ndtrain.data.prepare import open_prepared, prepare
from ndtrain.data.tokenizer import Tokenizer

__all__ = [
    "IGNORED_TARGET",
    "Batch",
    "Dataset",
    "HeldOutRows",
    "Loader",
    "Tokenizer",
    "open_prepared",
    "prepare",
    "rank_rows",
]
