"""kill -9 at every point of a save: what can be loaded is there, and goes on with the same bits."""

import ast
from pathlib import Path

import pytest

import ndtrain
from ndtrain.checkpoint.reader import Checkpoint
from tests.faults.runs import Case

# In the order in which a save passes them.
POINTS = (
    "save.begun",
    "save.copied",
    "save.before_file",
    "save.file_written",
    "save.tokenizer_written",
    "save.training_written",
    "save.before_manifest",
    "save.before_rename",
    "save.renamed",
    "save.published",
    "prune.renamed",
    "prune.deleted",
)
QUICK = ("save.before_rename",)


def test_the_points_are_those_of_the_code() -> None:
    found = set()
    for file in Path(ndtrain.__file__).parent.rglob("*.py"):
        text = file.read_text("utf-8")
        if "from ndtrain.core.faults import reach" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "reach":
                assert isinstance(node.args[0], ast.Constant), f"{file}: not a literal"
                found.add(node.args[0].value)
    assert {point for point in found if point.partition(".")[0] in ("save", "prune")} == set(POINTS)


def _tiered(points: tuple[str, ...]) -> list:
    return [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in points]


@pytest.mark.parametrize("point", _tiered(POINTS))
def test_a_kill_at_any_point_loses_no_more_than_that_save(
    case: Case, undisturbed: Case, point: str
) -> None:
    # Of the saves at 2, 4 and 6 the second; two are kept, so the first deletion is after the last.
    after = 1 if point.startswith("save.") else 0
    files_per_save = 2 if point in ("save.before_file", "save.file_written") else 1
    run = case.start(fault=f"{point}:kill:after={after * files_per_save}")
    assert run.wait() == [-9], run.output
    for path in case.checkpoints():
        Checkpoint(path).verify()
    newest = case.checkpoints()[-1].name
    if point.startswith("prune"):
        assert newest == "step_00000006"
    else:
        is_published = point in ("save.renamed", "save.published")
        assert newest == ("step_00000004" if is_published else "step_00000002")
    case.start().finish()
    assert case.losses() == undisturbed.losses()
    assert case.final_files() == undisturbed.final_files()
    case.start("train.steps=8").finish()
    left = sorted(path.name for path in (case.directory / "checkpoints").iterdir())
    assert left == ["step_00000006", "step_00000008"]


@pytest.mark.parametrize(
    "point", ["create.config_written", pytest.param("create.begun", marks=pytest.mark.slow)]
)
def test_a_kill_while_the_run_directory_is_made(case: Case, point: str) -> None:
    short = ("train.steps=2", "train.eval_every=0")
    assert case.start(*short, fault=f"{point}:kill").wait() == [-9]
    assert not (case.directory / "status.json").exists()
    case.start(*short).finish()
    assert case.status()["state"] == "finished"
    assert case.step() == 2


@pytest.mark.slow
@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("point", ["save.before_file", "save.file_written", "save.before_rename"])
def test_a_kill_of_one_rank_of_two(case: Case, victim: int, point: str, background: str) -> None:
    if point == "save.before_rename" and victim:
        pytest.skip("one rank alone renames")
    sync = f"checkpoint.background={background}"
    run = case.start(sync, num_ranks=2, tp=2, fault=f"{point}:kill:rank={victim}:after=2")
    codes = run.wait()
    assert codes[victim] == -9, run.output
    assert codes[1 - victim] == 1, run.output  # it lost its partner, and said so
    whole = Case(case.folder / "whole")
    whole.start(sync, num_ranks=2, tp=2).finish()
    case.start(sync, num_ranks=2, tp=2).finish()
    assert case.final_files() == whole.final_files()
    assert case.losses() == whole.losses()
