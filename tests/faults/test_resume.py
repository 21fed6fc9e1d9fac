"""A run that was cut anywhere and goes on is the run that was never cut, bit for bit."""

import json
from pathlib import Path

import pytest
import torch

from ndtrain.checkpoint.format import FIRST_MOMENT, Manifest
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.source import step_folder
from ndtrain.config.schema import Optim
from tests.faults.runs import Case

LONG = ("train.steps=20", "checkpoint.every_steps=0")


def test_a_killed_run_goes_on_with_the_same_bits(case: Case, undisturbed: Case) -> None:
    run = case.start(fault="save.published:kill:after=1")
    assert run.wait() == [-9]
    assert [path.name for path in case.checkpoints()] == ["step_00000002", "step_00000004"]
    case.start().finish()
    assert case.losses() == undisturbed.losses()
    assert case.final_files() == undisturbed.final_files()
    assert case.status()["state"] == "finished"


def test_a_save_in_the_background_writes_the_same_bytes(case: Case, undisturbed: Case) -> None:
    case.start("checkpoint.background=false").finish()
    assert case.final_files() == undisturbed.final_files()
    ours, theirs = (
        {e.name: e.sha256 for e in Manifest.load(c.checkpoints()[0]).files}
        for c in (case, undisturbed)
    )
    different = {name for name, digest in ours.items() if theirs[name] != digest}
    assert different == {"training.json"}  # which holds the configuration


def test_a_finished_run_says_so_and_can_be_extended(case: Case, undisturbed: Case) -> None:
    case.start("train.steps=3").finish()
    again = case.start("train.steps=3")
    again.finish()
    assert "is finished: 3 of 3 steps" in again.output
    extended = case.start()
    extended.finish()
    assert "changed since: train.steps: 3 -> 6" in extended.output
    assert case.final_files() == undisturbed.final_files()


def test_a_damaged_checkpoint_is_named_and_passed_over(case: Case, undisturbed: Case) -> None:
    case.start("train.steps=4").finish()
    damaged = step_folder(case.directory, 4) / "state_0000_000.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    named = case.start(f"checkpoint.resume={damaged.parent}")
    named.finish(2)  # a named one never falls back
    assert "`state_0000_000.safetensors` is damaged" in named.output
    run = case.start()
    run.finish()
    assert "`state_0000_000.safetensors` is damaged" in run.output
    assert "step_00000002: weights, optimizer" in run.output
    assert (damaged.parent.with_name("step_00000004.corrupt") / damaged.name).exists()
    assert case.final_files() == undisturbed.final_files()
    assert case.losses() == undisturbed.losses()


@pytest.mark.slow
def test_an_earlier_checkpoint_of_the_same_run(case: Case, undisturbed: Case) -> None:
    case.start("checkpoint.keep_last=3").finish()
    second = step_folder(case.directory, 2)
    for suffix in ("", "1"):  # twice: what was set aside before stays too
        run = case.start("checkpoint.keep_last=3", f"checkpoint.resume={second}")
        run.finish()
        assert "changed since" not in run.output
        assert "repeated: steps 3 to 6 are run again" in run.output
        for step in (4, 6):
            folder = step_folder(case.directory, step)
            kept = folder.with_name(f"{folder.name}.abandoned{suffix}")
            assert f"{folder} is kept as {kept.name}" in run.output
            Checkpoint(kept).verify()
        assert case.losses() == undisturbed.losses()
        assert case.final_files() == undisturbed.final_files()
    case.start("train.steps=8").finish()  # auto: none of the abandoned ones is taken
    assert [path.name for path in case.checkpoints()] == ["step_00000006", "step_00000008"]
    abandoned = sorted(path.name for path in second.parent.glob("*.abandoned*"))
    assert len(abandoned) == 4


@pytest.mark.slow
def test_the_plan_goes_with_the_run_and_with_its_checkpoint(case: Case) -> None:
    """Reused where the run goes on, in another directory too; decided again only when asked."""

    def start(steps: int, *overrides: str) -> str:
        run = case.start(f"train.steps={steps}", *overrides, num_ranks=2, tp=2)
        run.finish()
        return run.output

    def plan(name: str = "r") -> dict:
        return json.loads((case.folder / name / "plan.json").read_text())

    assert "overlap: qkv forward: " in start(2)
    decided = plan()
    (checkpoint,) = case.checkpoints()
    assert json.loads((checkpoint / "training.json").read_text())["plan"] == decided
    assert "overlap: as decided before" in start(4)
    assert plan()["figures"] == decided["figures"]
    there = ("run.name=other", f"checkpoint.resume={case.checkpoints()[-1]}")
    assert "overlap: as decided before" in start(6, *there)
    assert plan("other")["figures"] == decided["figures"]
    again = start(6, "overlap.replan=true")
    assert "as decided before" not in again
    assert "overlap: qkv forward: " in again
    assert plan()["figures"] != decided["figures"]  # measured anew


def test_other_data_are_refused(case: Case) -> None:
    case.start("train.steps=1", "train.eval_every=0").finish()
    (case.folder / "text" / "0.txt").write_text("something else was written here " * 9)
    run = case.start("train.steps=2", "train.eval_every=0")
    run.finish(2)
    assert "the data are not those of the checkpoint" in run.output
    status = case.status()
    assert (status["state"], status["step"], status["retryable"]) == ("failed", 1, False)
    assert status["checkpoint"] == "checkpoints/step_00000001"


@pytest.mark.slow
def test_never_means_never(case: Case) -> None:
    case.start("train.steps=1", "train.eval_every=0").finish()
    run = case.start("train.steps=2", "checkpoint.resume=never")
    run.finish(2)
    assert "the run directory is not empty" in run.output


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "tp"), [(1, 1), (2, 2), (2, 1), (4, 2)])
def test_resuming_twice_across_an_epoch_edge(tmp_path: Path, num_ranks: int, tp: int) -> None:
    """20 steps in one go, as 7 + kill + 13, and as 7 + 5 + 8."""
    whole, killed, twice = (Case(tmp_path / name) for name in ("whole", "killed", "twice"))
    layout = {"num_ranks": num_ranks, "tp": tp}
    whole.start(*LONG, **layout).finish()
    position = json.loads((whole.checkpoints()[-1] / "training.json").read_text())["data"]
    assert position["epoch"] >= 1

    run = killed.start("train.steps=20", "checkpoint.every_steps=7", **layout)
    run.until(lambda: killed.step() >= 9)
    run.kill()
    killed.start(*LONG, **layout).finish()

    twice.start(*LONG[1:], "train.steps=7", **layout).finish()
    twice.start(*LONG[1:], "train.steps=12", "train.eval_every=4", **layout).finish()
    twice.start(*LONG, **layout).finish()
    assert killed.losses() == whole.losses()
    assert killed.final_files() == twice.final_files() == whole.final_files()


@pytest.mark.slow
def test_another_layout_goes_on_near_by(case: Case, undisturbed: Case) -> None:
    """That its state is exactly the same is tested in tests/train/test_optimizer_state.py."""
    case.start("train.steps=4", num_ranks=2, tp=2).finish()
    run = case.start(num_ranks=2, tp=1)
    run.finish()
    assert "changed since: parallel.tp: 2 -> 1" in run.output
    ours = {(step, name): float.fromhex(bits) for step, name, bits in case.losses()}
    theirs = {(step, name): float.fromhex(bits) for step, name, bits in undisturbed.losses()}
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_a_new_run_can_begin_with_the_moments_of_another(case: Case) -> None:
    """Its first gradient is added to them; a run without them shows what that gradient was."""
    case.start("train.steps=2").finish()
    old = case.checkpoints()[-1]
    states = {"old": Checkpoint(old)}
    for name, restore in (("with", "true"), ("without", "false")):
        options = (f"run.name={name}", f"model.weights={old}", f"optim.restore={restore}")
        case.start(*options, "train.steps=1").finish()
        states[name] = Checkpoint(step_folder(case.directory.with_name(name), 1))
    assert [state.training()["num_updates"] for state in states.values()] == [2, 3, 1]
    beta = Optim().betas[0]
    for name, parameter in states["old"].tensors():
        first = {
            which: checkpoint.state.read(FIRST_MOMENT, name, 0, [(0, len(parameter))])
            for which, checkpoint in states.items()
        }
        torch.testing.assert_close(first["with"], beta * first["old"] + first["without"])
