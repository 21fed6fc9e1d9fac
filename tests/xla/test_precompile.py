"""Compiled graphs outlive their process: torch-xla's own cache on its CPU device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.observe.sinks import read_jsonl

ROOT = Path(__file__).parents[2]
CONFIG = """
run: {{name: r, directory: {folder}}}
model: {{vocab_size: 300, hidden_size: 16, intermediate_size: 16, num_layers: 1, num_heads: 2,
        num_kv_heads: 2, head_dim: 8}}
data: {{source: text, paths: ["{folder}/text/*.txt"], sequence_length: 16,
       cache_directory: "{folder}/cache", held_out_fraction: 0.2}}
train: {{steps: 4, global_batch_size: 4, micro_batch_size: 2, eval_every: 2, eval_rows: 4}}
optim: {{lr: 0.01, schedule: constant}}
overlap: {{mode: "off"}}
runtime: {{device: xla}}
"""
RANKS = ("rank_0", "rank_1")
GRAPHS = ("the initial state", "the training step", "the evaluation")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    for number in range(20):
        words = [f"word{(number * 7 + place) % 50}" for place in range(120)]
        (tmp_path / "text" / f"{number}.txt").write_text(" ".join(words))
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(folder=tmp_path))
    return file


def python(module: str, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_all_hit(output: str) -> None:
    """torch-xla 2.9 finds what it wrote on its CPU device, and cannot load it."""
    for graph in GRAPHS:
        (line,) = [line for line in output.splitlines() if f"compiled {graph} in" in line]
        assert line.endswith("(hit, but it could not be loaded)"), output
    assert "miss" not in output


def test_what_one_node_compiles_the_next_one_finds(config: Path, tmp_path: Path) -> None:
    """Two nodes with a disk each, and one folder that both see."""
    shared = f"cluster.compile_cache={tmp_path}/shared"
    first_node = {"XLA_PERSISTENT_CACHE_PATH": str(tmp_path / "node1")}
    output = python(
        "ndtrain.cluster.rank", str(config), shared, NDTRAIN_WORK="precompile", **first_node
    )
    assert f"compile cache: {tmp_path}/node1\n" in output
    assert f"compile cache: 3 graphs from {tmp_path}/node1 to {tmp_path}/shared" in output
    for graph in GRAPHS:
        (line,) = [line for line in output.splitlines() if f"compiled {graph} in" in line]
        assert line.endswith("(miss: nothing cached)")  # a heartbeat may have said so before
        assert [line for line in output.splitlines() if line.startswith(f"{graph}  ")]
    assert "largest memory: this rank " in output
    assert not (tmp_path / "r").exists()

    # Data of the graphs, and what is not in them: the same graphs.
    others = ["optim.lr=0.02", "train.steps=6", "run.seed=3", "observe.log_every=2"]
    second_node = {"XLA_PERSISTENT_CACHE_PATH": str(tmp_path / "node2")}
    output = python("ndtrain.cluster.rank", str(config), shared, *others, **second_node)
    assert f"compile cache: 3 graphs from {tmp_path}/shared to {tmp_path}/node2" in output
    assert_all_hit(output)
    steps = [row["step"] for row in read_jsonl(tmp_path / "r" / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, 7))


def test_the_command_says_what_was_missed_and_why(config: Path, tmp_path: Path) -> None:
    cache = {"XLA_PERSISTENT_CACHE_PATH": str(tmp_path / "compiled")}
    python("ndtrain", "precompile", str(config), "train.eval_every=0", **cache)
    output = python("ndtrain", "precompile", str(config), "optim.clip_norm=2.0", **cache)
    changed = "miss: the graph itself changed (config differs: optim.clip_norm 1.0 -> 2.0)"
    by_graph = {graph: [] for graph in GRAPHS}
    for line in output.splitlines():
        for graph in GRAPHS:
            if line.startswith(f"{graph}  "):
                by_graph[graph].append(line)
    assert by_graph["the initial state"][0].endswith("hit, but it could not be loaded")
    assert by_graph["the training step"][0].endswith(changed)
    assert by_graph["the evaluation"][0].endswith("miss: nothing cached")


@pytest.mark.slow
def test_several_ranks_have_a_cache_each(config: Path, tmp_path: Path) -> None:
    cache = {"XLA_PERSISTENT_CACHE_PATH": str(tmp_path / "compiled")}
    ranks = ["parallel.tp=2", "overlap.mode=ring"]
    first = python("ndtrain", "precompile", str(config), *ranks, **cache)
    assert "(miss: " in first  # nothing cached, or the other rank was faster
    assert "hit" not in first
    folders = sorted(path.name for path in (tmp_path / "compiled").iterdir())
    assert folders == ["graphs", *RANKS]
    names = [{path.name for path in (tmp_path / "compiled" / rank).iterdir()} for rank in RANKS]
    assert names[0] == names[1]  # named by the graph: both ranks have compiled the same ones
    then = python("ndtrain", "train", str(config), *ranks, **cache)
    assert "miss" not in then
    assert then.count("hit") > 0
