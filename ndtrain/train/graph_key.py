"""What of a configuration shapes the graphs of a run: the words in which a miss is explained.

graph_key(config)       # {"model.num_layers": "4", "parallel.tp": "8", ...}

Everything else is data of the graph (learning rate, weights, tokens) or not in it. A key that is
missing here makes a miss harder to explain, nothing worse: the compiler has a key of its own.
"""

from ndtrain.config.schema import Config

_SHAPING = {
    "model": None,
    "data": ("sequence_length", "document_mask"),
    "parallel": None,
    "optim": ("betas", "eps", "weight_decay", "clip_norm"),
    "train": (
        "global_batch_size",
        "micro_batch_size",
        "compute_dtype",
        "recompute",
        "offload_activations",
    ),
    "ops": None,
    "overlap": None,
    "runtime": ("compile",),
}
_WITHOUT_EFFECT = {
    "model.initial_std",
    "model.max_positions",
    "model.weights",
    "overlap.max_extra_megabytes",
    "overlap.replan",
}


def graph_key(config: Config) -> dict[str, str]:
    """Dotted key -> its value as text; of a resolved configuration."""
    sections = config.model_dump(mode="json", include=set(_SHAPING))
    return {
        f"{section}.{name}": str(value)
        for section, names in _SHAPING.items()
        for name, value in sections[section].items()
        if (names is None or name in names) and f"{section}.{name}" not in _WITHOUT_EFFECT
    }
