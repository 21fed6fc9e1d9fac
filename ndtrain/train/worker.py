"""One rank of a training run.

    python -m ndtrain.train.worker CONFIG [a.b=v ...]      # what `launch` starts
    run_rank(loaded)                                        # the same, in this process

Rank and world size come from the environment that torch's launcher sets; without it, one rank.
Errors are printed by the rank that has them; the exit code is `UserError.exit_code` or 1.
"""

import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from ndtrain.config.load import Loaded, load
from ndtrain.config.schema import Config
from ndtrain.core.errors import Unhealthy, UserError
from ndtrain.observe.console import ConsoleSink
from ndtrain.observe.events import EventSink, append_event
from ndtrain.observe.neuron_monitor import NeuronMonitor, find_monitor
from ndtrain.observe.run_directory import RunDirectory, State, Status
from ndtrain.observe.sinks import JsonlSink, Sink
from ndtrain.observe.trace import merge_traces
from ndtrain.observe.trackers import open_trackers, require_trackers
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.agree import Bystander, together
from ndtrain.train.build import Training, build
from ndtrain.train.hardware import Hardware
from ndtrain.train.loop import Loop
from ndtrain.train.overlap_report import overlap_report
from ndtrain.train.report import Report
from ndtrain.train.resume import Start, find_start, lock_run
from ndtrain.train.save import Saver
from ndtrain.train.start_rank import (
    is_first_rank,
    local_rank,
    rank_config,
    rank_group,
    said_once,
    start_runtime,
    world_size_here,
)
from ndtrain.train.stop import EXIT_STOPPED, Request, StopRequests, exit_code
from ndtrain.train.watchdog import Watchdog, hang_path


def run_rank(loaded: Loaded) -> int:
    """Trains; returns the exit code. Prints errors itself."""
    world_size = world_size_here()
    try:
        config = rank_config(loaded, world_size)
        with said_once():
            require_trackers(config.observe.trackers)
        directory = RunDirectory(Path(config.run.directory) / config.run.name)
        requests = StopRequests(directory.path, config.train.max_minutes, is_first_rank())
        requests.listen()
        with rank_group(config, world_size):
            code = _train(config, loaded, directory, requests)
    except Bystander as error:
        return error.exit_code
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:
        return _unexpected(error, directory.log_file(int(os.environ.get("RANK", 0))))
    # torchrun takes any other code for a failure, and `status.json` says what it was.
    is_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    return 0 if code == EXIT_STOPPED and is_torchrun else code


def _unexpected(error: Exception, log: Path) -> int:
    """A bug, or a rank that this one talked to is gone: the traceback is for the log."""
    if not log.exists():
        traceback.print_exception(error)
        return 1
    what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    print(UserError(what, str(log), "the traceback is there"), file=sys.stderr, flush=True)
    return 1


def _train(config: Config, loaded: Loaded, directory: RunDirectory, requests: StopRequests) -> int:
    runtime = start_runtime(config)
    rank = runtime.mesh.world.rank
    lock = together(runtime, lambda: lock_run(directory.path) if rank == 0 else None, "lock")
    start = find_start(config, loaded, directory, runtime)
    if start.step >= config.train.steps:
        return _already_finished(config, start, directory, rank)
    if rank == 0:
        # Again: who goes on with a run may ask for something else.
        directory.write_inputs(config, list(loaded.overrides), loaded.origins)
        _write_status(directory, "running", start)
    try:
        sinks = together(runtime, lambda: _sinks(config, directory, rank, start), "open_sinks")
    except Exception as error:
        if rank == 0:
            _record_failure(directory, error)
        raise
    watchdog = Watchdog(runtime, directory, lambda text: _record_hang(directory, text))
    watchdog.enter("setup and the first step", config.guards.setup_seconds)
    try:
        return _train_in(config, runtime, directory, sinks, requests, watchdog, start)
    except Exception as error:
        with directory.log_file(rank).open("a") as log:
            traceback.print_exc(file=log)
        if rank == 0 and not hang_path(directory).exists():
            _record_failure(directory, error)
        raise
    finally:
        watchdog.rest()
        for sink in sinks:
            sink.close()
        if lock is not None:
            lock.close()


def _already_finished(config: Config, start: Start, directory: RunDirectory, rank: int) -> int:
    if rank == 0:
        assert start.checkpoint is not None
        print(
            f"{directory.path} is finished: {start.step} of {config.train.steps} steps,"
            f" {start.checkpoint.folder}. To go on, raise train.steps.",
            flush=True,
        )
        _write_status(directory, "finished", start)
    return 0


def _write_status(directory: RunDirectory, state: State, start: Start) -> None:
    """Before there is a report."""
    checkpoint = None
    if start.checkpoint is not None:
        folder = start.checkpoint.folder
        is_own = folder.is_relative_to(directory.path)
        checkpoint = str(folder.relative_to(directory.path) if is_own else folder)
    directory.write_status(Status(state=state, step=start.step, checkpoint=checkpoint))


def _train_in(
    config: Config,
    runtime: Runtime,
    directory: RunDirectory,
    sinks: list[Sink],
    requests: StopRequests,
    watchdog: Watchdog,
    start: Start,
) -> int:
    def note(text: str) -> None:
        _note(sinks, text)

    note(_describe(config, runtime, directory))
    if runtime.about:
        note(runtime.about)
    for line in start.describe(config):
        note(line)
    training = build(config, runtime, local_rank() == 0, note, start)
    report = _report(training, directory, sinks, start)
    report.status("running")
    saver = Saver(training, directory, note)
    try:
        request = Loop(training, report, saver, requests, watchdog, start).run()
        saver.close()
    except Exception:
        if not hang_path(directory).exists():
            report.status("running")  # its step and checkpoint; `_train` says how it ended
        raise
    if request.stops:
        report.status("preempted", request.reason, retryable=request is not Request.INTERRUPT)
        report.close()
        note(f"stopped: {request.reason}; the same command goes on from here")
        return exit_code(request, report.is_saved)
    report.overlap_summary()
    report.status("finished")
    report.close()
    _merge_traces(config, runtime, directory)
    note(f"finished: {directory.path}")
    return 0


def _record_failure(directory: RunDirectory, error: Exception) -> None:
    """Where the run got to stays; a hang has said already why connections broke."""
    status = directory.status()
    assert status is not None, "find_start made the directory"
    is_unhealthy = isinstance(error, UserError) and error.exit_code == Unhealthy.exit_code
    is_retryable = getattr(error, "exit_code", 1) == 1
    reason = getattr(error, "what", "") or str(error).partition("\n")[0] or type(error).__name__
    state: State = "unhealthy" if is_unhealthy else "failed"
    directory.write_status(replace(status, state=state, reason=reason, retryable=is_retryable))
    append_event(directory.events_file, status.step, f"failed: {reason}")


def _record_hang(directory: RunDirectory, text: str) -> None:
    status = directory.status()
    if status is not None:
        reason = "hung: " + text.replace("\n", "; ")
        directory.write_status(replace(status, state="failed", reason=reason, retryable=True))
        append_event(directory.events_file, status.step, reason)


def _describe(config: Config, runtime: Runtime, directory: RunDirectory) -> str:
    mesh = runtime.mesh
    return (
        f"started: {directory.path}: {mesh.world.size} ranks = {mesh.tensor.size} tensor x"
        f" {mesh.data.size} data, {config.train.compute_dtype},"
        f" {torch.get_num_threads()} threads a rank"
    )


def _report(training: Training, directory: RunDirectory, sinks: list[Sink], start: Start) -> Report:
    runtime, config = training.runtime, training.config
    overlap = None
    peak, whose = _peak(training)
    if runtime.has_times:  # else only the device knows what ran beside what
        overlap = overlap_report(config, training.decision, training.optimizer)
    runtime.collectives.barrier(runtime.mesh.world, "clock")
    origin_ns = time.perf_counter_ns()
    runtime.spans.drain()
    report = Report(
        runtime,
        training.shape,
        sinks,
        directory,
        config.observe.trace_steps,
        peak,
        origin_ns,
        start.step,
        start.checkpoint.folder if start.checkpoint else None,
        overlap,
        next((sink.latest for sink in sinks if isinstance(sink, NeuronMonitor)), dict),
    )
    if peak:
        report.note(f"mfu: of {peak / 1e9:.0f} GFLOP/s, {whose}")
    return report


def _peak(training: Training) -> tuple[float | None, str]:
    """FLOP/s of all ranks, and who says so; None where the hardware is only assumed."""
    machine, size = training.machine, training.runtime.mesh.world.size
    if not isinstance(machine, Hardware):
        return machine.matmul_flops * size, machine.source
    if not machine.is_known:
        return None, ""
    return machine.device.peak_flops[training.config.train.compute_dtype] * size, machine.source


def _sinks(config: Config, directory: RunDirectory, rank: int, start: Start) -> list[Sink]:
    """Every rank has a log; the first also metrics, events, the terminal and the trackers."""
    steps, observe = config.train.steps, config.observe
    log = directory.log_file(rank).open("a", buffering=1)
    sinks: list[Sink] = [ConsoleSink(log, steps, 1, "lines")]
    if rank == 0:
        metrics = JsonlSink(directory.metrics_file, start.step + 1 if start.step else 0)
        if metrics.repeated is not None:
            start.notes.append(
                f"repeated: steps {start.step + 1} to {metrics.repeated} are run again"
            )
        sinks += [metrics, EventSink(directory.events_file, start.step)]
        sinks.append(ConsoleSink(sys.stdout, steps, observe.log_every, observe.progress))
        sinks += open_trackers(config, directory, start.step, lambda text: _note(sinks, text))
        monitor = find_monitor(config.runtime.device, lambda text: _note(sinks, text))
        sinks += [] if monitor is None else [monitor]
    return sinks


def _note(sinks: list[Sink], text: str) -> None:
    for sink in sinks:
        sink.note(text)


def _merge_traces(config: Config, runtime: Runtime, directory: RunDirectory) -> None:
    if config.observe.trace_steps is None:
        return
    world = runtime.mesh.world
    runtime.collectives.barrier(world, "traces_written")
    if world.rank == 0:
        files = [directory.trace_file(rank) for rank in world.ranks]
        merge_traces(files, directory.merged_trace_file)


if __name__ == "__main__":
    sys.exit(run_rank(load(sys.argv[1], sys.argv[2:])))
