"""The table of commands: where each lives, and its line in `ndtrain --help`.

A row stands for a click command at `module:attribute`; the module is imported only when the command
is called or asked for help. The order of groups and rows is the order of the help.
"""

from typing import NamedTuple


class Row(NamedTuple):
    group: str
    target: str
    help: str


COMMANDS: dict[str, Row] = {
    "train": Row("Train", "ndtrain.cli.train:train", "Train a model on this machine's ranks."),
    "precompile": Row(
        "Train", "ndtrain.cli.precompile:precompile", "Compile a run's graphs before it."
    ),
    "slurm": Row("Train", "ndtrain.cli.slurm:slurm", "Write the script of a SLURM job."),
    "validate": Row("Train", "ndtrain.cli.validate:validate", "Check configs, without hardware."),
    "eval": Row("Train", "ndtrain.cli.eval:eval_", "Loss and perplexity on held-out data."),
    "checkpoint": Row(
        "Train", "ndtrain.cli.checkpoint:checkpoint", "List, verify and prune checkpoints."
    ),
    "generate": Row("Train", "ndtrain.cli.generate:generate", "Continue a prompt."),
    "config": Row("Config", "ndtrain.cli.config:config", "Show, list, copy and explain configs."),
    "import": Row("Models", "ndtrain.cli.import_:import_", "Hugging Face or NxD to checkpoint."),
    "export": Row("Models", "ndtrain.cli.export:export", "Checkpoint to Hugging Face or NxD."),
    "data": Row("Look", "ndtrain.cli.data:data", "Look at the data."),
    "report": Row("Look", "ndtrain.cli.report:report", "Write a run as one HTML file."),
    "trace": Row("Look", "ndtrain.cli.trace:trace", "Put Neuron profiles into a run's trace."),
    "doctor": Row("Look", "ndtrain.cli.doctor:doctor", "Examine this machine and installation."),
    "bench": Row("Look", "ndtrain.cli.bench:bench", "Measure a step against its peers."),
    "overlap": Row("Look", "ndtrain.cli.overlap:overlap", "Show and verify what runs beside what."),
    "kernels": Row("Look", "ndtrain.cli.kernels:kernels", "Run the NKI kernels without hardware."),
    "completion": Row("Shell", "ndtrain.cli.completion:completion", "Print completion code."),
}
