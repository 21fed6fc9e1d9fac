"""Compiles the graphs of a run into the compile cache: initial state, training step, evaluation.

    python -m ndtrain.train.precompile CONFIG [a.b=v ...]      # what `launch` starts
    run_rank(loaded)                                            # the same, in this process

The ranks do what a run does until nothing new is compiled: they begin, evaluate, make two steps and
evaluate again, with the run's own objects on the run's own devices. What this computes is thrown
away: no run directory is made, and no run's position moves. On a device that traces a part is one
graph, elsewhere as many as it has operations.
"""

import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ndtrain.config.load import Loaded, load
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError
from ndtrain.data.loader import rank_rows
from ndtrain.runtime.cache_owner import cache_owner
from ndtrain.runtime.compilation import SETTLED, Compiled
from ndtrain.runtime.first_runs import PartRun
from ndtrain.runtime.graph_cache import Owner, cache_place
from ndtrain.runtime.heartbeat import Note
from ndtrain.runtime.native_cache import DISABLING
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.agree import Bystander
from ndtrain.train.build import Training, build
from ndtrain.train.launch import require_compiler
from ndtrain.train.learning_rate import learning_rate
from ndtrain.train.resume import Start
from ndtrain.train.run_parts import held_out_loss, training_step
from ndtrain.train.start_rank import (
    is_first_rank,
    local_rank,
    rank_config,
    rank_group,
    said_once,
    start_runtime,
    world_size_here,
)

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; getrusage(2)


def run_rank(loaded: Loaded) -> int:
    """Returns the exit code. Prints the notes of the first rank, and errors."""
    world_size = world_size_here()
    note = _say if is_first_rank() else _keep_silent
    try:
        with said_once():
            require_compiler(loaded)
            note(f"compile cache: {_require_cache(loaded.config.runtime.device)}")
        config = rank_config(loaded, world_size)
        with rank_group(config, world_size), _nowhere(config) as scratch_config:
            precompile(scratch_config, start_runtime(config), note)
    except Bystander as error:
        return error.exit_code
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    return 0


_HOW_TO_KEEP: dict[Owner, str] = {
    "neuronx-cc": "leave --no_cache out of NEURON_CC_FLAGS",
    "torch-xla": "on torch-xla's CPU device set XLA_PERSISTENT_CACHE_PATH to a folder",
    "torch-neuronx": f"unset {' and '.join(DISABLING)}",
}


def _require_cache(device: str) -> str:
    """Where it is. Raises UserError where what is compiled would end with this process."""
    owner = cache_owner(device)
    assert owner is not None, "`require_compiler` has refused it"
    place = cache_place(owner, os.environ)
    if place is None:
        what = "there is no compile cache to fill"
        raise UserError(what, "the environment", _HOW_TO_KEEP[owner])
    return place


@contextmanager
def _nowhere(config: Config) -> Iterator[Config]:
    """The same configuration, with a run directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ndtrain-") as scratch:
        run = config.run.model_copy(update={"directory": scratch})
        (Path(scratch) / run.name).mkdir()
        yield config.model_copy(update={"run": run})


def precompile(config: Config, runtime: Runtime, note: Note) -> None:
    """Collective over the world. The runtime is of a device that compiles."""
    note(runtime.about)
    training = build(config, runtime, local_rank() == 0, note, Start())
    _evaluate(training, note)
    for step in range(1, SETTLED + 1):
        _step(training, step, note)
    _evaluate(training, note)
    for line in _summary(runtime.compiled):
        note(line)


def _step(training: Training, step: int, note: Note) -> None:
    config, loader, data = training.config, training.loader, training.runtime.mesh.data
    train = config.train
    rows = rank_rows(train.global_batch_size, data.size, data.rank, train.micro_batch_size)
    batches = [loader.batch(part) for part in rows]
    lr = learning_rate(config.optim, step, train.steps)
    training_step(training, batches, loader.num_targets(), lr, note)


def _evaluate(training: Training, note: Note) -> None:
    if training.held_out is not None:
        held_out_loss(training, note)


def _summary(compiled: Sequence[Compiled | PartRun]) -> Iterator[str]:
    """A row for each graph, then what it took. A compiler that runs in a process counts apart."""
    width = max(len(one.name) for one in compiled)
    yield f"{'graph':<{width}}  seconds  compile cache"
    for one in compiled:
        yield f"{one.name:<{width}}  {one.seconds:7.1f}  {one.verdict or 'not known'}"
    own, compilers = (
        resource.getrusage(who).ru_maxrss * _RSS_UNIT / 2**30
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    yield f"largest memory: this rank {own:.1f} GiB, a process that it started {compilers:.1f} GiB"


def _say(text: str) -> None:
    print(text, flush=True)


def _keep_silent(text: str) -> None:
    """Of the other ranks: the first one says it."""


if __name__ == "__main__":
    sys.exit(run_rank(load(sys.argv[1], sys.argv[2:])))
