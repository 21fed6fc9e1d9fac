"""`ndtrain train`: checks before anything starts, then hands over to the launcher."""

import sys
from types import ModuleType

import pytest

from ndtrain.config.load import Loaded
from tests.cli.conftest import Run


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Stands in for the launcher and notes its arguments: no rank starts."""
    calls: list[tuple] = []
    module = ModuleType("ndtrain.train.launch")

    def launch(loaded: Loaded, num_local_ranks: int | None, run_under_torchrun: bool) -> int:
        calls.append((loaded.config.optim.lr, num_local_ranks, run_under_torchrun))
        return 75

    module.launch = launch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ndtrain.train.launch", module)
    return calls


@pytest.mark.parametrize("option", ["--nproc-per-node", "--nproc_per_node"])
def test_the_launcher_gets_config_and_ranks_and_decides_the_exit_code(
    run: Run, launched: list[tuple], option: str
) -> None:
    assert run("train", "quickstart", option, "2", "optim.lr=1e-5", "--optim.eps=1").code == 75
    assert launched == [(1e-5, 2, False)]


def test_without_a_number_of_ranks_the_launcher_decides(run: Run, launched: list[tuple]) -> None:
    assert run("train", "tiny").code == 75
    assert launched == [(3e-4, None, False)]


def test_under_torchrun_it_is_a_rank(
    run: Run, launched: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("train", "quickstart", "--nnodes", "2").code == 75
    assert launched[0][1:] == (None, True)
    result = run("train", "quickstart", "--nproc-per-node", "2")
    assert (result.code, len(launched)) == (2, 1)
    assert "torchrun has started the ranks" in result.err
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "does not divide the world size 3" in run("train", "quickstart").err


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (["quikstart"], "there is no preset `quikstart`"),
        (["quickstart", "optim.lx=1"], "unknown key `optim.lx`"),
        (["quickstart", "parallel.tp=3"], "parallel.tp=3 does not divide model.num_heads=8"),
        (["quickstart", "--nproc-per-node", "3"], "does not divide the world size 3"),
        (["quickstart", "--world-size", "2"], "--world-size belongs to --dry-run"),
        (
            ["quickstart", "--nnodes", "2", "--nproc-per-node", "4", "data.paths=[a b]"],
            "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint "
            "HOST:29400 -m ndtrain train quickstart 'data.paths=[a b]'",
        ),
    ],
)
def test_what_cannot_run_does_not_start(
    run: Run, launched: list[tuple], arguments: list[str], err: str
) -> None:
    result = run("train", *arguments)
    assert (result.code, result.out, launched) == (2, "", [])
    assert err in result.err


def test_a_dry_run_prints_what_would_run_for_any_world_size(
    run: Run, launched: list[tuple]
) -> None:
    result = run("train", "qwen3_32b+pretrain", "--dry-run", "--world-size", "128")
    assert (result.code, launched) == (0, [])
    assert "ranks            128 = 8 tensor parallel x 16 data parallel" in result.out
    assert "rows in a step   256 = 16 ranks x 16 micro-batches x 1 rows" in result.out
    assert "tokens in a step 1,048,576" in result.out
    assert "  dp: 16 " in result.out
    default = run("train", "quickstart", "--dry-run")
    assert "ranks            2 = 2 tensor parallel x 1 data parallel" in default.out


def test_replan_is_the_key_of_the_configuration(run: Run) -> None:
    shown = run("train", "quickstart", "--replan", "--dry-run").out
    (line,) = (line for line in shown.splitlines() if line.strip().startswith("replan:"))
    assert line.split()[1] == "true"
    plain = run("train", "quickstart", "--dry-run").out
    assert "replan: false" in " ".join(plain.split())
