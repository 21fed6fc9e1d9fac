"""The loop: evaluate, step, report, save, until the last step or a request to stop.

    request = Loop(training, report, saver, requests, watchdog, start).run()

What happens in a step is in `step.py`, what is said about it in `report.py`, what is wrong with it
in `guards.py`.
"""

import time

import torch

from ndtrain.core.errors import Unhealthy
from ndtrain.data.loader import rank_rows
from ndtrain.train.agree import Bystander, gather_json
from ndtrain.train.build import Training
from ndtrain.train.guards import LossWatch, NonFinitePolicy, dump_nonfinite
from ndtrain.train.learning_rate import learning_rate
from ndtrain.train.optimizer_state import num_updates
from ndtrain.train.prefetch import Prefetch
from ndtrain.train.report import Agreed, Own, Report, StepTimes
from ndtrain.train.resume import Start
from ndtrain.train.run_parts import held_out_loss, training_step
from ndtrain.train.save import Saver
from ndtrain.train.step import StepResult
from ndtrain.train.stop import Request, StopRequests
from ndtrain.train.stragglers import StragglerWatch
from ndtrain.train.training_state import TrainingState, read_plan
from ndtrain.train.watchdog import Watchdog

LATE_SAVE_S = 1.0  # waits that are shorter are not worth a warning


class Loop:
    def __init__(
        self,
        training: Training,
        report: Report,
        saver: Saver,
        requests: StopRequests,
        watchdog: Watchdog,
        start: Start,
    ) -> None:
        self._training = training
        self._report = report
        self._saver = saver
        self._requests = requests
        self._watchdog = watchdog
        self._settings = training.config.train
        self._guards = training.config.guards
        self._start_step = start.step
        data = training.runtime.mesh.data
        self._rows = rank_rows(
            self._settings.global_batch_size, data.size, data.rank, self._settings.micro_batch_size
        )
        self._input = Prefetch(training.loader, self._rows, training.runtime)
        self._losses = LossWatch(self._guards, start.state.losses if start.state else ())
        self._nonfinite = NonFinitePolicy(self._guards.nonfinite)
        self._stragglers = StragglerWatch()
        self._save_began = 0.0
        self._is_first_evaluation = True

    def run(self) -> Request:
        """The request that ended it early, else NONE. Collective over the mesh.

        Raises Unhealthy when the numbers go wrong, SaveFailed when the disk does.
        """
        if (request := self._agree_before_the_first_step()).stops:
            return request
        if self._start_step == 0:
            self._evaluate(0)
        last = self._settings.steps
        for step in range(self._start_step + 1, last + 1):
            agreed = self._step(step)
            self._watchdog.enter(f"step {step + 1}", self._guards.step_seconds)
            if agreed.is_written:
                self._publish()
            self._judge(step, agreed)
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

    def _step(self, step: int) -> Agreed:
        training, settings = self._training, self._settings
        runtime, loader = training.runtime, training.loader
        start_ns = time.perf_counter_ns()
        with runtime.spans.span("data", "host"):
            batches, num_targets = self._input.take(wants_next=step < settings.steps)
        data_ns = time.perf_counter_ns() - start_ns
        lr = learning_rate(training.config.optim, step, settings.steps)
        result = training_step(training, batches, num_targets, lr, self._report.note)
        if result.refusal is None:
            self._nonfinite.good()
        else:
            self._refused(step, result, self._rows)
        loader.advance()
        step_ns = time.perf_counter_ns() - start_ns
        own = Own(self._requests.pending(), self._saver.is_written)
        times = StepTimes(step_ns / 1e6, data_ns / 1e6)
        return self._report.step(step, result, lr, batches, times, own)

    def _refused(self, step: int, result: StepResult, rows: list[slice]) -> None:
        """The step is left out, or the run ends; which layers of which rank it was is written."""
        training = self._training
        runtime = training.runtime
        log = self._report.run_directory.log_file(runtime.mesh.world.rank).parent
        losses, optimizer = list(result.losses), training.optimizer
        rank = runtime.mesh.world.rank
        bad = dump_nonfinite(log, step, rank, losses, optimizer, training.loader, rows)
        culprits = [who for who in gather_json(runtime, bad, "nonfinite") if who]
        what = f"step {step}: loss or gradient is not finite: {'; '.join(culprits)}"
        if self._nonfinite.skips():
            training.optimizer.discard()
            self._report.note(f"warning: {what}; the step is left out")
            return
        self._publish()  # what was good is kept
        if rank:
            raise Bystander(Unhealthy.exit_code)
        help_text = "look at the rows in these files, lower optim.lr, or set guards.nonfinite"
        raise Unhealthy(what, f"{log}/nonfinite_step_{step:08d}_rank_*.json", help_text)

    def _judge(self, step: int, agreed: Agreed) -> None:
        if not agreed.same_calls:
            raise RuntimeError(
                f"the ranks do not make the same collectives by step {step}: "
                + self._watchdog.diagnosis()
            )
        warnings = self._stragglers.add(agreed.compute_ms)
        try:
            warnings += self._losses.add(step, agreed.loss)
        except Unhealthy as error:
            self._publish()
            raise error if self._report.is_first else Bystander(error.exit_code) from None
        for warning in warnings:
            self._report.note(warning)

    def _save_if_due(self, step: int, request: Request) -> None:
        """A save that ends the run, or that somebody waits for, is published at once."""
        every = self._training.config.checkpoint.every_steps
        ends = request.stops or step == self._settings.steps
        if ends or request is Request.SAVE or (every and step % every == 0):
            self._end_the_save_before(step)
            self._save_began = time.monotonic()
            with self._watchdog.phase(f"save of step {step}", self._guards.save_seconds):
                self._saver.start(self._state(step))
            if ends or request is Request.SAVE or not self._training.config.checkpoint.background:
                self._publish()

    def _end_the_save_before(self, step: int) -> None:
        """One is in flight at most, so that one copy is held: a slower disk makes training wait."""
        began = time.monotonic()
        self._publish()
        waited_s = time.monotonic() - began
        if waited_s > LATE_SAVE_S:
            self._report.note(
                f"warning: the save of step {step} waited {waited_s:.1f} s for the one before it:"
                " the disk needs longer than checkpoint.every_steps gives it"
            )

    def _publish(self) -> None:
        if not self._saver.in_flight:
            return
        with self._watchdog.phase("the end of a save", self._guards.save_seconds):
            folder = self._saver.finish()
        if folder is not None:
            self._report.saved(folder, time.monotonic() - self._save_began)

    def _state(self, step: int) -> TrainingState:
        training = self._training
        return TrainingState(
            step=step,
            num_updates=num_updates(training.optimizer),
            data=training.loader.state(),
            data_fingerprint=training.loader.fingerprint,
            losses=self._losses.losses,
            config=training.config.model_dump(mode="json"),
            plan=read_plan(self._report.run_directory),
        )

    def _evaluate(self, step: int) -> None:
        training = self._training
        if training.held_out is None:
            return
        micro = training.config.train.micro_batch_size
        num_batches = -(-training.held_out.num_rows // micro)
        seconds = max(1, num_batches) * self._guards.step_seconds
        if self._is_first_evaluation:  # its graphs are compiled
            seconds += self._guards.setup_seconds
            self._is_first_evaluation = False
        with self._watchdog.phase("evaluation", seconds):
            loss = held_out_loss(training, self._report.note)
        self._report.evaluation(step, loss)
