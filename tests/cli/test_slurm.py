"""`ndtrain slurm`, `ndtrain doctor --cluster` and `ndtrain validate --hardware`."""

import json
import socket
import subprocess
from pathlib import Path

import pytest

from ndtrain.cluster.finding import Finding
from ndtrain.cluster.preflight import NodeReport
from tests.cli.conftest import Run

WIDE = ("train.global_batch_size=256",)  # a row for each of 64 ranks at a time
CPU = ("--nodes", "2", "--hardware", "cpu", "--nproc-per-node", "1")


def test_print_env_gives_a_reason_for_each_variable(run: Run) -> None:
    result = run("slurm", "tiny", "--nodes", "2", "--hardware", "trn2.48xlarge", "--print-env",
                 "train.global_batch_size=512")  # fmt: skip
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert any(line.startswith("FI_PROVIDER=efa  # ") for line in lines)
    assert all("  # " in line for line in lines)


def test_a_shell_can_read_what_print_env_prints(run: Run, tmp_path: Path) -> None:
    """For ranks that no script of ours starts."""
    options = ("--nodes", "2", "--hardware", "trn1.32xlarge", "--print-env", *WIDE)
    shown = run("slurm", "tiny", *options).out
    (tmp_path / "my.env").write_text(shown, "utf-8")
    program = f"set -a; . {tmp_path}/my.env; set +a; env"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    variables = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert {line.partition("=")[0] for line in shown.splitlines()} <= variables.keys()
    assert "--model-type=transformer --auto-cast=none" in variables["NEURON_CC_FLAGS"]


def test_the_environment_of_the_config_is_in_the_script(run: Run) -> None:
    result = run("slurm", "tiny", *CPU, "cluster.environment=[GLOO_SOCKET_IFNAME=ib0]")
    assert "export GLOO_SOCKET_IFNAME=ib0\n" in result.out


def test_out_writes_a_file_and_submit_gives_it_to_sbatch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("slurm", "tiny", *CPU, "--out", str(tmp_path / "job"))
    assert result.out == f"wrote {tmp_path / 'job'}\n"
    sbatch = tmp_path / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "Submitted batch job 7 from $1"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    where = f"run.directory={tmp_path}"
    script = tmp_path / "run.slurm" / "job.sbatch"
    submitted = run("slurm", "tiny", *CPU, "--submit", where)
    assert submitted.out == f"wrote {script}\nSubmitted batch job 7 from {script}\n"
    text = script.read_text("utf-8").replace(f"{where}", "").replace(str(tmp_path), "runs")
    assert text.split("max_excluded")[1] == (tmp_path / "job").read_text().split("max_excluded")[1]

    sbatch.write_text('#!/bin/sh\necho "sbatch: error: no partition" >&2\nexit 1\n')
    refused = run("slurm", "tiny", *CPU, "--submit", where)
    assert refused.code == 2
    assert "sbatch refused the job: sbatch: error: no partition" in refused.err
    sbatch.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no `sbatch` on PATH" in run("slurm", "tiny", *CPU, "--submit", where).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "2", "--hardware", "cpu"], "--hardware cpu without --nproc-per-node"),
        (["--nodes", "2", "--hardware", "trn9"], "there is no instance `trn9`"),
        (["--nodes", "2"], "missing option '--hardware'"),
        (
            ["--nodes", "1", "--hardware", "trn1.2xlarge", "--nproc-per-node", "1"],
            "trn1.2xlarge has 2 devices",
        ),
        ([*CPU, "parallel.tp=3"], "parallel.tp=3 does not divide"),
        ([*CPU, "checkpoint.resume=never"], "checkpoint.resume=never: a job that is requeued"),
        ([*CPU, "--sbatch=partition=x"], "--sbatch 'partition=x'"),
        ([*CPU, "--sbatch=--nodes=3"], "the script sets `--nodes` itself"),
        ([*CPU, "--submit", "--out", "x"], "--out and --submit"),
        ([*CPU, "cluster.environment=[NEURON_RT_LOG_LEVL=INFO]"], "no program is known"),
        (
            ["--nodes", "2", "--hardware", "trn1.2xlarge", "train.global_batch_size=16"],
            "trn1.2xlarge has no EFA",
        ),
        (
            ["--nodes", "1", "--hardware", "trn2.48xlarge", "overlap.mode=ring", *WIDE],
            "overlap.mode=ring on neuron: its ranks cannot send to a neighbour",
        ),
    ],
)
def test_what_no_job_can_be_made_of(run: Run, arguments: list[str], message: str) -> None:
    result = run("slurm", "tiny", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_the_device_of_the_hardware_is_in_the_script(run: Run) -> None:
    one = ("slurm", "tiny", "--nodes", "1")
    result = run(*one, "--hardware", "trn1.2xlarge", "overlap.mode=ring")
    assert "overrides=(overlap.mode=ring runtime.device=xla)" in result.out
    result = run(*one, "--hardware", "trn2.48xlarge", *WIDE)
    assert "runtime.device=neuron)" in result.out
    assert "export TORCH_NEURONX_ENABLE_HOST_CC=1\n" in result.out
    # What the device cannot do is found here, not when the job starts.
    serial = ("parallel.tp=2", "overlap.mode=serial")
    assert "serial on xla" in run(*one, "--hardware", "trn1.2xlarge", *serial).err
    assert "overrides=()" in run(*one, "--hardware", "cpu", "--nproc-per-node", "1").out
    result = run(*one, "--hardware", "trn1.2xlarge", "runtime.device=cpu")
    assert (result.code, result.out) == (2, "")
    assert "runtime.device=cpu would leave trn1.2xlarge's devices idle" in result.err


def test_a_run_that_has_saved_says_how_early_it_wants_to_know(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    records = [{"step": 9, "step_ms": 5e3}, {"step": 9, "save_ms": 200e3}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "run" / "metrics.jsonl").write_text(lines)
    result = run("slurm", "tiny", *CPU, f"run.directory={tmp_path}")
    assert "\n#SBATCH --signal=B:USR1@410\n" in result.out
    assert "# USR1 comes 410 s before the end: 2 x the longest save (200.0 s)" in result.out


def test_options_of_sbatch_are_passed_on(run: Run) -> None:
    result = run("slurm", "tiny", *CPU, "--sbatch=--partition=cpu", "--sbatch=--time=12:30:00")
    assert "\n#SBATCH --partition=cpu\n#SBATCH --time=12:30:00\n" in result.out


def test_the_doctor_examines_one_node_at_once(run: Run) -> None:
    with socket.create_server(("", 0)) as probe:
        port = str(probe.getsockname()[1])
    result = run("doctor", "--cluster", "--json", "--port", port)
    answer = json.loads(result.out)
    assert (result.code, answer["bad_nodes"]) == (0, [])
    assert [f["name"] for f in answer["nodes"][socket.gethostname()]] == ["versions", "ports"]


def test_a_node_without_hardware_is_told_what_is_missing(run: Run) -> None:
    result = run("doctor", "--cluster", "--hardware", "trn1.32xlarge", "--node", "here")
    assert result.code == 1
    assert "fail  here  driver: the kernel has no module neuron" in result.out
    assert "help: " in result.out


def test_the_verdict_names_bad_nodes_in_a_file_too(run: Run, tmp_path: Path) -> None:
    good = [Finding("ok", "versions", "1")]
    NodeReport("a", good).write(tmp_path)
    NodeReport("b", [*good, Finding("fail", "efa", "7 of 8 devices", "look")]).write(tmp_path)
    where = ("--nodes", "a,b", "--folder", str(tmp_path))
    result = run("doctor", "--cluster", *where, "--verdict")
    assert (result.code, result.err) == (1, "")
    assert result.out.splitlines() == [
        "ok    a",
        "fail  b  efa: 7 of 8 devices",
        "      help: look",
        "bad nodes: b",
    ]
    assert (tmp_path / "bad_nodes").read_text() == "b\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "a,b"], "--nodes without --folder"),
        (["--nodes", "a,b", "--folder", "x", "--node", "c"], "this node is c, which is not in"),
        (["--nodes", "a,b", "--folder", "/dev/null/x", "--node", "a"], "a cannot write to the"),
    ],
)
def test_examinations_that_cannot_be(run: Run, arguments: list[str], message: str) -> None:
    result = run("doctor", "--cluster", *arguments)
    assert result.code == 2
    assert message in result.err


def test_what_is_legal_is_what_the_nodes_allow_too(run: Run) -> None:
    """14B has 40 heads: of the model alone, 4 tensor ranks would do."""
    job = ("--nodes", "4", "--hardware", "trn1.32xlarge", "train.recompute=none")
    result = run("slurm", "qwen3_14b+pretrain", *job, "parallel.tp=32")
    assert result.code == 2
    assert "help: legal tp for this model there: 1, 2, 8 (" in result.err


def test_validate_checks_the_placement_beside_the_rest(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "extends: [sizes/qwen3_8b, recipes/pretrain]\n"
        "parallel: {tp: 4}\ntrain: {global_batch_size: 100}\n",
        "utf-8",
    )
    where = ("--hardware", "trn1.32xlarge", "--nodes", "4")
    result = run("validate", str(config), *where)
    assert result.code == 2
    assert (
        f"at parallel.tp from {config}:2\n  help: legal tp for this model there: 1, 2, 8, 32"
        in (result.err)
    )
    assert "global_batch_size=100 is not a multiple of" in result.err
    good = tmp_path / "good.yaml"
    good.write_text(
        "extends: [sizes/qwen3_8b, recipes/pretrain]\n"
        "train: {recompute: none}\noverlap: {mode: ring}\n",
        "utf-8",
    )
    result = run("validate", str(good), *where)
    assert result.code == 0
    assert result.out.startswith(f"ok    {good}\n      predicted, at least: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "2"], "--nodes without --hardware"),
        (["--hardware", "trn1.2xlarge", "--world-size", "4"], "whose 1 nodes have 2 ranks"),
        (["--hardware", "trn1"], "known: trn1.2xlarge, trn1.32xlarge"),
    ],
)
def test_validate_refuses_places_that_are_none(
    run: Run, arguments: list[str], message: str
) -> None:
    result = run("validate", "tiny", *arguments)
    assert result.code == 2
    assert message in result.err
