"""`ndtrain kernels`: the NKI kernels on the simulator."""

import json
import sys

import pytest
from ndtrain.kernels import KERNELS

from ndtrain.cli import kernels
from tests.cli.conftest import Run


def test_ls_says_what_was_shown(run: Run) -> None:
    result = run("kernels", "ls")
    assert result.code == 0
    for kernel in KERNELS.values():
        line = next(line for line in result.out.splitlines() if line.startswith(kernel.name))
        assert ("trn1" in line) == ("trn1" in kernel.targets)
    assert "never run on hardware" in result.out
    rows = json.loads(run("kernels", "ls", "--json").out)
    assert [row["name"] for row in rows] == list(KERNELS)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_test_compares_with_the_reference(run: Run, target: str) -> None:
    shape = "queries=40,keys=50,heads=2,dim=32,offset=10,documents=7"
    arguments = ("attention_forward", "--target", target, "--shape", shape)
    result = run("kernels", "test", *arguments)
    assert result.code == 0, result.err
    assert f"on {target} (simulated)" in result.out
    assert result.out.count("within") == 2
    report = json.loads(run("kernels", "test", *arguments, "--json").out)
    assert [row["output"] for row in report["results"]] == ["out", "lse"]
    assert all(row["error"] <= row["bound"] for row in report["results"])


def test_a_wrong_result_is_unhealthy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.BOUNDS, "bf16", 1e-12)
    result = run("kernels", "test", "swiglu_forward", "--shape", "rows=4,features=8")
    assert result.code == 3
    assert "OUTSIDE" in result.out
    assert "1 of 1 results of swiglu_forward are outside the bound" in result.err


def test_test_runs_all_ranks_on_two_cores(run: Run) -> None:
    shape = "ranks=2,rows=130,hidden=128,features=16"
    arguments = ("--shape", shape, "--cores", "2", "--dtype", "fp32")
    result = run("kernels", "test", "allgather_matmul", *arguments)
    assert result.code == 0, result.err
    assert "rank 0  y" in result.out
    assert "rank 1  y" in result.out


def test_show_prints_the_stream_and_draws_memory(run: Run) -> None:
    shape = "queries=200,keys=200,heads=1"
    result = run("kernels", "show", "attention_backward", "--shape", shape, "-n", "3")
    assert result.code == 0, result.err
    assert "instructions 0 to 2 of " in result.out
    assert "nc_matmul" in result.out
    for space, capacity in (("SBUF", 229376), ("PSUM", 16384)):
        line = next(line for line in result.out.splitlines() if line.startswith(f"{space}: peak"))
        assert f"of {capacity} bytes a partition" in line
    assert "kernels/attention_gradients.py:" in result.out


def test_show_of_a_kernel_without_psum(run: Run) -> None:
    assert "PSUM: not used" in run("kernels", "show", "swiglu_forward", "-n", "0").out


def test_api_lists_every_name_with_its_state(run: Run) -> None:
    rows = {row["name"]: row for row in json.loads(run("kernels", "api", "--json").out)}
    assert rows["nki.isa.nc_matmul"]["status"] == "implemented"
    assert "online_softmax.py" in rows["nki.isa.nc_matmul"]["users"]
    used = [row for row in rows.values() if row["users"]]
    assert all(row["status"] == "implemented" for row in used)
    assert "nki.isa.nc_matmul" in run("kernels", "api").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test", "atention_forward"), "did you mean `attention_forward`?"),
        (("test", "swiglu_forward", "--shape", "row=3"), "did you mean `rows`?"),
        (("test", "swiglu_forward", "--shape", "rows"), "size=number"),
        (("test", "allgather_matmul", "--target", "trn1"), "legal here: trn2, trn3"),
        (("show", "attention_forward", "--shape", "dim=48"), "head dim must be"),
    ],
)
def test_mistakes_are_named(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("kernels", *arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments", [("test", "swiglu_forward"), ("show", "swiglu_forward"), ("api",)]
)
def test_a_missing_extra_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    result = run("kernels", *arguments)
    assert result.code == 2
    assert "pip install 'ndtrain[nkisim]'" in result.err
    assert run("kernels", "ls").code == 0
