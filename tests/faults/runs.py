"""Real training runs for tests: a process a rank, forked from a server that has imported torch.

    case = Case(tmp_path)
    run = case.start("train.steps=6", num_ranks=2, fault="save.renamed:kill")
    codes = run.wait()                   # by rank; negative: the signal that ended it
    case.losses(), case.final_files()    # hexadecimal losses by step, hash by file

What `ndtrain train` does around its ranks is tested with the command itself in test_command.py.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ndtrain.checkpoint.format import Manifest
from ndtrain.checkpoint.source import complete_checkpoints
from ndtrain.observe.sinks import read_jsonl

TIMEOUT_S = 180

_CONFIG = """
run: {{name: r, directory: {folder}}}
model: {{vocab_size: 300, hidden_size: 16, intermediate_size: 16, num_layers: 1, num_heads: 2,
        num_kv_heads: 2, head_dim: 8}}
data: {{source: text, paths: ["{folder}/text/*.txt"], sequence_length: 16,
       cache_directory: "{folder}/cache", held_out_fraction: 0.2}}
train: {{steps: 6, global_batch_size: 4, micro_batch_size: 1, eval_every: 4, eval_rows: 4}}
optim: {{lr: 0.01, schedule: constant}}
checkpoint: {{every_steps: 2}}
"""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["ndtrain.train.worker", "tests.faults.runs"])


def _be_rank(
    config: str,
    overrides: list[str],
    environment: dict[str, str],
    output: str,
    prepare: Callable[[], None] | None,
) -> None:
    os.environ.update(environment)
    stream = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)

    import torch

    from ndtrain.config.load import load
    from ndtrain.train import overlap_plan, worker

    torch.set_num_threads(1)
    overlap_plan.measure_matmul_peak = lambda dtype: 1e9  # 0.3 s that change no number under test
    if prepare is not None:
        prepare()
    code = worker.run_rank(load(config, overrides))
    sys.stdout.flush()
    os._exit(code)


class Run:
    def __init__(self, processes: list[Any], output: Path) -> None:
        self.processes = processes
        self._output = output

    def wait(self, timeout_s: float = TIMEOUT_S) -> list[int]:
        """Exit codes by rank. Ends what still runs and fails the test when the time is over."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        if None in codes:
            pytest.fail(f"still running after {timeout_s} s: {codes}\n{self.output}")
        return codes

    def finish(self, code: int = 0) -> None:
        codes = self.wait()
        assert codes == [code] * len(codes), self.output

    def signal(self, rank: int, number: signal.Signals) -> None:
        os.kill(self.processes[rank].pid, number)

    def kill(self) -> None:
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
                process.join()

    def until(
        self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S, every_s: float = 0.01
    ) -> None:
        """Waits for the condition; the run must not end before."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            ended = any(process.exitcode is not None for process in self.processes)
            if ended or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"it never came to that:\n{self.output[-3000:]}")
            time.sleep(every_s)

    def until_ended(self, rank: int) -> None:
        self.processes[rank].join(TIMEOUT_S)
        if self.processes[rank].exitcode is None:
            self.kill()
            pytest.fail(f"rank {rank} still runs:\n{self.output}")

    @property
    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""


class Case:
    """A run directory and the files it is made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "r"
        self.config = folder / "config.yaml"
        folder.mkdir(exist_ok=True)
        self.config.write_text(_CONFIG.format(folder=folder))
        (folder / "text").mkdir(parents=True)
        for number in range(12):
            words = [f"w{(number * 7 + k * k) % 23}" for k in range(40)]
            (folder / "text" / f"{number}.txt").write_text(" ".join(words))
        self._num_started = 0
        self._runs: list[Run] = []

    def start(
        self,
        *overrides: str,
        num_ranks: int = 1,
        fault: str | None = None,
        tp: int = 1,
        prepare: Callable[[], None] | None = None,
    ) -> Run:
        """prepare: called in each rank before it trains; RANK tells which one it is."""
        self._num_started += 1
        output = self.folder / f"output_{self._num_started}.txt"
        common = {"OMP_NUM_THREADS": "1"}
        if fault:
            common["NDTRAIN_FAULT"] = fault
        if num_ranks > 1:
            meeting = self.folder / f"rendezvous_{self._num_started}"
            size = str(num_ranks)
            common |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            common["NDTRAIN_RENDEZVOUS"] = f"file://{meeting}"
        processes = []
        for rank in range(num_ranks):
            own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            arguments = (
                str(self.config),
                [f"parallel.tp={tp}", *overrides],
                own if num_ranks > 1 else common,
                str(output),
                prepare,
            )
            process = _context.Process(target=_be_rank, args=arguments, daemon=True)
            process.start()
            processes.append(process)
        self._runs.append(Run(processes, output))
        return self._runs[-1]

    def end(self) -> None:
        """Kills what still runs: a stopped process would keep pytest from ending."""
        for run in self._runs:
            run.kill()

    def status(self) -> dict[str, Any]:
        return json.loads((self.directory / "status.json").read_text())

    def records(self) -> list[dict[str, Any]]:
        return read_jsonl(self.directory / "metrics.jsonl")

    def step(self) -> int:
        """The last step in the metrics; -1 before there are any."""
        try:
            return max((record["step"] for record in self.records()), default=-1)
        except FileNotFoundError:
            return -1

    def losses(self) -> list[tuple[int, str, str]]:
        """(step, which loss, its bits)."""
        return [
            (record["step"], name, float(record[name]).hex())
            for record in self.records()
            for name in ("loss", "grad_norm", "held_out_loss")
            if name in record
        ]

    def checkpoints(self) -> list[Path]:
        return complete_checkpoints(self.directory)

    def final_files(self) -> dict[str, str]:
        """Hashes of the tensors of the newest checkpoint."""
        manifest = Manifest.load(self.checkpoints()[-1])
        return {e.name: e.sha256 for e in manifest.files if e.name.endswith(".safetensors")}
