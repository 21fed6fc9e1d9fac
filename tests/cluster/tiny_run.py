"""A model of a few thousand parameters and text for it: a run on four ranks, with TP=2 and DP=2.

config = write_run(folder, steps=30)      # run directories go to the folder
"""

from pathlib import Path

_CONFIG = """
run: {{directory: {folder}}}
model: {{vocab_size: 300, hidden_size: 16, intermediate_size: 16, num_layers: 1, num_heads: 2,
        num_kv_heads: 2, head_dim: 8}}
data: {{source: text, paths: ["{folder}/text/*.txt"], sequence_length: 16,
       cache_directory: "{folder}/cache", held_out_fraction: 0.2}}
parallel: {{tp: 2, dp: 2}}
train: {{steps: {steps}, global_batch_size: 4, micro_batch_size: 1, eval_every: 0}}
optim: {{lr: 0.01, schedule: constant}}
overlap: {{mode: "off", data_parallel: "off"}}
checkpoint: {{keep_last: 9}}
"""


def write_run(folder: Path, steps: int) -> Path:
    """Writes the text and the configuration; returns the latter's path."""
    config = folder / "config.yaml"
    config.write_text(_CONFIG.format(folder=folder, steps=steps))
    (folder / "text").mkdir()
    for number in range(12):
        words = [f"w{(number * 7 + k * k) % 23}" for k in range(40)]
        (folder / "text" / f"{number}.txt").write_text(" ".join(words))
    return config
