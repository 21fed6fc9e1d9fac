"""The loop: evaluate, step, report, until the last step.

    run(training, report)

What happens in a step is in `step.py`, what is said about it in `report.py`.
"""

import time

from ndtrain.data.loader import rank_rows
from ndtrain.train.build import Training
from ndtrain.train.evaluate import evaluate
from ndtrain.train.learning_rate import learning_rate
from ndtrain.train.report import Report, StepTimes
from ndtrain.train.save import save
from ndtrain.train.step import train_step


def run(training: Training, report: Report) -> None:
    """Collective over the mesh. Raises Unhealthy when the numbers go wrong."""
    settings = training.config.train
    _evaluate(training, report, step=0)
    for step in range(1, settings.steps + 1):
        _step(training, report, step)
        if settings.eval_every and (step % settings.eval_every == 0 or step == settings.steps):
            _evaluate(training, report, step)
        every = training.config.checkpoint.every_steps
        if step == settings.steps or (every and step % every == 0):
            report.saved(save(training, report.run_directory, step))


def _step(training: Training, report: Report, step: int) -> None:
    runtime, loader, settings = training.runtime, training.loader, training.config.train
    data = runtime.mesh.data
    start_ns = time.perf_counter_ns()
    with runtime.spans.span("data", "host"):
        rows = rank_rows(
            settings.global_batch_size, data.size, data.rank, settings.micro_batch_size
        )
        batches = [loader.batch(part) for part in rows]
        num_targets = loader.num_targets()
    data_ns = time.perf_counter_ns() - start_ns
    lr = learning_rate(training.config.optim, step, settings.steps)
    result = train_step(training.model, training.optimizer, batches, num_targets, lr, runtime)
    loader.advance()
    step_ns = time.perf_counter_ns() - start_ns
    report.step(step, result, lr, batches, StepTimes(step_ns / 1e6, data_ns / 1e6))


def _evaluate(training: Training, report: Report, step: int) -> None:
    if training.held_out is None:
        return
    micro = training.config.train.micro_batch_size
    loss = evaluate(training.model, training.held_out, micro, training.runtime)
    report.evaluation(step, loss)
