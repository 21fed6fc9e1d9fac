"""The parts of a run that a device compiles, one way to run each: a training step, an evaluation.

    result = training_step(training, micro_batches, num_targets, lr, note)
    loss = held_out_loss(training, note)

Whether the step is traced or runs operation by operation, and what is said while it compiles, is
decided here, for the loop and for `precompile` alike.
"""

from collections.abc import Sequence

from ndtrain.data.batch import Batch
from ndtrain.parallel.zero_traced import TracedAdamW
from ndtrain.runtime.heartbeat import Note
from ndtrain.train.build import Training
from ndtrain.train.evaluate import evaluate
from ndtrain.train.step import StepResult, train_step
from ndtrain.train.traced_step import NAME, traced_step


def training_step(
    training: Training, micro_batches: Sequence[Batch], num_targets: int, lr: float, note: Note
) -> StepResult:
    """Collective over the mesh; as `train_step`. note: is told what is compiled."""
    model, optimizer, runtime = training.model, training.optimizer, training.runtime
    if isinstance(optimizer, TracedAdamW):
        return traced_step(model, optimizer, micro_batches, num_targets, lr, runtime, note)
    with runtime.compiling(NAME, note):
        return train_step(model, optimizer, micro_batches, num_targets, lr, runtime)


def held_out_loss(training: Training, note: Note) -> float:
    """Nats per counted token of the held-out rows, which there are. Collective over the mesh."""
    assert training.held_out is not None
    optimizer, micro = training.optimizer, training.config.train.micro_batch_size
    model, runtime = training.model, training.runtime
    if isinstance(optimizer, TracedAdamW):
        return evaluate(model, training.held_out, micro, runtime, note, optimizer.begin)
    return evaluate(model, training.held_out, micro, runtime, note)
