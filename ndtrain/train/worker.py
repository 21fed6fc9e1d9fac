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
from pathlib import Path

import torch
import torch.distributed as dist

from ndtrain.config.checks import check, resolve
from ndtrain.config.load import Loaded, load
from ndtrain.config.schema import Config
from ndtrain.core.errors import Unhealthy, UserError
from ndtrain.observe.console import ConsoleSink
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.observe.sinks import JsonlSink, Sink
from ndtrain.observe.trace import merge_traces
from ndtrain.runtime.peak import measure_matmul_peak
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.train.agree import Bystander, together
from ndtrain.train.build import Training, build
from ndtrain.train.launch import threads_per_rank
from ndtrain.train.loop import run
from ndtrain.train.report import Report


def run_rank(loaded: Loaded) -> int:
    """Trains; returns the exit code. Prints user errors itself."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    try:
        config = _checked(loaded, world_size)
        torch.set_num_threads(threads_per_rank(int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
        if world_size > 1:
            dist.init_process_group("gloo")
        try:
            _train(config, loaded)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    except Bystander as error:
        return error.exit_code
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _checked(loaded: Loaded, world_size: int) -> Config:
    try:
        check(loaded.config, world_size, loaded.origins)
        return resolve(loaded.config, world_size)
    except UserError as error:
        # Every rank finds the same; one says it.
        raise error if os.environ.get("RANK", "0") == "0" else Bystander(error.exit_code) from None


def _train(config: Config, loaded: Loaded) -> None:
    runtime = start_cpu(config.parallel.tp, _dp(config), config.model.num_kv_heads)
    rank = runtime.mesh.world.rank
    directory = RunDirectory(Path(config.run.directory) / config.run.name)

    def create() -> None:
        if rank == 0:
            directory.create(config, list(loaded.overrides))

    together(runtime, create, "create_run")
    sinks = together(runtime, lambda: _sinks(config, directory, rank), "open_sinks")
    try:
        _train_in(config, runtime, directory, sinks)
    except Exception:
        with directory.log_file(rank).open("a") as log:
            traceback.print_exc(file=log)
        raise
    finally:
        for sink in sinks:
            sink.close()


def _train_in(config: Config, runtime: Runtime, directory: RunDirectory, sinks: list[Sink]) -> None:
    def note(text: str) -> None:
        for sink in sinks:
            sink.note(text)

    note(_describe(config, runtime, directory))
    is_node_leader = int(os.environ.get("LOCAL_RANK", 0)) == 0
    training = build(config, runtime, is_node_leader, note)
    report = _report(training, directory, sinks)
    try:
        run(training, report)
    except Unhealthy as error:
        report.status("unhealthy", error.what)
        raise
    except BaseException as error:
        report.status("failed", str(error).partition("\n")[0] or type(error).__name__)
        raise
    report.status("finished")
    report.close()
    _merge_traces(config, runtime, directory)
    note(f"finished: {directory.path}")


def _describe(config: Config, runtime: Runtime, directory: RunDirectory) -> str:
    mesh = runtime.mesh
    return (
        f"{directory.path}: {mesh.world.size} ranks = {mesh.tensor.size} tensor x"
        f" {mesh.data.size} data, {config.train.compute_dtype},"
        f" {torch.get_num_threads()} threads a rank"
    )


def _report(training: Training, directory: RunDirectory, sinks: list[Sink]) -> Report:
    runtime, config = training.runtime, training.config
    # All ranks measure at once, because they share the machine when they train.
    own = torch.tensor([measure_matmul_peak(config.train.compute_dtype)], dtype=torch.float64)
    peak = runtime.collectives.all_reduce(own, runtime.mesh.world, "matmul_peak").item()
    runtime.collectives.barrier(runtime.mesh.world, "clock")
    origin_ns = time.perf_counter_ns()
    runtime.spans.drain()
    report = Report(
        runtime, training.shape, sinks, directory, config.observe.trace_steps, peak, origin_ns
    )
    report.note(f"mfu: of {peak / 1e9:.0f} GFLOP/s, measured by matmuls on all ranks at once")
    return report


def _sinks(config: Config, directory: RunDirectory, rank: int) -> list[Sink]:
    """Every rank has a log; the first also the metrics file and the terminal."""
    steps, observe = config.train.steps, config.observe
    log = directory.log_file(rank).open("a", buffering=1)
    sinks: list[Sink] = [ConsoleSink(log, steps, 1, "lines")]
    if rank == 0:
        sinks.append(JsonlSink(directory.metrics_file, first_step=0))
        sinks.append(ConsoleSink(sys.stdout, steps, observe.log_every, observe.progress))
    return sinks


def _merge_traces(config: Config, runtime: Runtime, directory: RunDirectory) -> None:
    if config.observe.trace_steps is None:
        return
    world = runtime.mesh.world
    runtime.collectives.barrier(world, "traces_written")
    if world.rank == 0:
        files = [directory.trace_file(rank) for rank in world.ranks]
        merge_traces(files, directory.merged_trace_file)


def _dp(config: Config) -> int:
    assert isinstance(config.parallel.dp, int), "`resolve` has filled it in"
    return config.parallel.dp


if __name__ == "__main__":
    sys.exit(run_rank(load(sys.argv[1], sys.argv[2:])))
