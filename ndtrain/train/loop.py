"""The loop: evaluate, step, report, save, until the last step or a request to stop.

    request = Loop(training, report, saver, requests, start).run()

What happens in a step is in `step.py`, what is said about it in `report.py`.
"""

import time

import torch

from ndtrain.data.loader import rank_rows
from ndtrain.train.build import Training
from ndtrain.train.evaluate import evaluate
from ndtrain.train.learning_rate import learning_rate
from ndtrain.train.optimizer_state import num_updates
from ndtrain.train.report import Agreed, Own, Report, StepTimes
from ndtrain.train.resume import Start
from ndtrain.train.save import Saver
from ndtrain.train.step import train_step
from ndtrain.train.stop import Request, StopRequests
from ndtrain.train.training_state import TrainingState


class Loop:
    def __init__(
        self,
        training: Training,
        report: Report,
        saver: Saver,
        requests: StopRequests,
        start: Start,
    ) -> None:
        self._training = training
        self._report = report
        self._saver = saver
        self._requests = requests
        self._settings = training.config.train
        self._start = start

    def run(self) -> Request:
        """The request that ended it early, else NONE. Collective over the mesh.

        Raises Unhealthy when the numbers go wrong, SaveFailed when the disk does.
        """
        if (request := self._agree_before_the_first_step()).stops:
            return request
        if self._start.step == 0:
            self._evaluate(0)
        last = self._settings.steps
        for step in range(self._start.step + 1, last + 1):
            agreed = self._step(step)
            if agreed.is_written:
                self._publish()
            every = self._settings.eval_every
            if every and (step % every == 0 or step == last):
                self._evaluate(step)
            self._save_if_due(step, agreed.request)
            self._requests.settle(agreed.request)
            if agreed.request.stops and step < last:
                return agreed.request
        return Request.NONE

    def _agree_before_the_first_step(self) -> Request:
        """Preparing data and weights may have taken minutes."""
        runtime = self._training.runtime
        own = torch.tensor([int(self._requests.pending())])
        agreed = runtime.collectives.all_reduce_max(own, runtime.mesh.world, "requests")
        request = Request(int(agreed.item()))
        if request.stops:
            self._requests.settle(request)
        return request

    def _save_if_due(self, step: int, request: Request) -> None:
        """A save that ends the run, or that somebody waits for, is published at once."""
        every = self._training.config.checkpoint.every_steps
        ends = request.stops or step == self._settings.steps
        if ends or request is Request.SAVE or (every and step % every == 0):
            self._publish()
            self._saver.start(self._state(step))
            if ends or request is Request.SAVE or not self._training.config.checkpoint.background:
                self._publish()

    def _publish(self) -> None:
        if self._saver.in_flight and (folder := self._saver.finish()):
            self._report.saved(folder)

    def _state(self, step: int) -> TrainingState:
        training = self._training
        return TrainingState(
            step=step,
            num_updates=num_updates(training.optimizer),
            data=training.loader.state(),
            data_fingerprint=training.loader.fingerprint,
            losses=[],
            config=training.config.model_dump(mode="json"),
        )

    def _step(self, step: int) -> Agreed:
        training, settings = self._training, self._settings
        runtime, loader = training.runtime, training.loader
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
        own = Own(self._requests.pending(), self._saver.is_written)
        times = StepTimes(step_ns / 1e6, data_ns / 1e6)
        return self._report.step(step, result, lr, batches, times, own)

    def _evaluate(self, step: int) -> None:
        training = self._training
        if training.held_out is None:
            return
        micro = training.config.train.micro_batch_size
        loss = evaluate(training.model, training.held_out, micro, training.runtime)
        self._report.evaluation(step, loss)
