"""What native PyTorch compiles outlives its process: two gloo ranks on the stand-in.

torch-xla's: tests/xla/test_precompile.py.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ndtrain.runtime.native_cache import VARIABLE
from tests.cluster.tiny_run import write_run

ROOT = Path(__file__).parents[2]
NUM_REGIONS = 3  # norm, attention core, SwiGLU: layers share their graphs
PARTS = ("the initial state", "the evaluation", "the training step")
EVALUATES = ("train.eval_every=2", "train.eval_rows=4", "data.held_out_fraction=0.2")
RANKS = ("runtime.device=neuron", "parallel.tp=2", "parallel.dp=1", *EVALUATES)


def ranks(cache: Path, work: str, config: Path, *overrides: str) -> list[str]:
    """What they printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.stand_in_run", str(config), *RANKS, *overrides],
        env=os.environ | {VARIABLE: str(cache), "STAND_IN_WORK": f"ndtrain.train.{work}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def about(part: str, lines: list[str]) -> list[str]:
    """What was said of it, without the rows of a table."""
    return [line for line in lines if part in line and not line.startswith(f"{part}  ")]


@pytest.mark.slow
def test_what_is_compiled_before_the_run_is_found_by_it_on_another_node(tmp_path: Path) -> None:
    config = write_run(tmp_path, steps=4)
    shared = tmp_path / "shared"
    share = f"cluster.compile_cache={shared}"
    first = ranks(tmp_path / "node1", "precompile", config, share)
    assert first[0] == f"compile cache: {tmp_path}/node1"
    for part in PARTS:
        (line,) = about(part, first)
        assert line.startswith(f"compiled {part} in ")
        assert "(miss: nothing cached; " in line
        assert line.endswith(" 0 found)")
        assert any(line.startswith(f"{part}  ") and "miss: nothing" in line for line in first)
    assert not (tmp_path / "run").exists()
    kept = {path.name for path in (tmp_path / "node1").rglob("*.neff")}
    assert {path.name for path in shared.rglob("*.neff")} == kept

    second = ranks(tmp_path / "node2", "worker", config, share)
    assert f"compile cache: {len(kept)} graphs from {shared} to {tmp_path}/node2" in second
    for part in PARTS:
        (line,) = about(part, second)
        assert line.startswith(f"{part}: hit in the compile cache, ")
    assert not [line for line in second if "miss" in line or "warning" in line]
    assert len([line for line in second if "| loss " in line]) == 4

    third = ranks(
        tmp_path / "node2", "precompile", config, "optim.eps=0.01", "data.sequence_length=8"
    )
    (line,) = about("the training step", third)
    assert "(miss: the graph itself changed (config differs: data.sequence_length 16 -> 8" in line
    assert " 0 found" not in line  # the optimizer's operations are the same


@pytest.mark.slow
def test_a_region_of_torch_compile_is_one_graph(tmp_path: Path) -> None:
    config = write_run(tmp_path, steps=2)
    compiles = ("runtime.compile=true", "ops.attention=reference")
    (eager,) = about("the evaluation", ranks(tmp_path / "neff", "precompile", config))
    first = ranks(tmp_path / "neff", "precompile", config, *compiles)
    (line,) = about("the evaluation", first)
    assert "runtime.compile False -> True" in line
    assert num_compiled(line) == NUM_REGIONS
    assert num_compiled(eager) > 3 * NUM_REGIONS
    assert "miss" not in "".join(ranks(tmp_path / "neff", "worker", config, *compiles))


def num_compiled(line: str) -> int:
    (number,) = re.findall(r"(\d+) graphs compiled here", line)
    return int(number)
