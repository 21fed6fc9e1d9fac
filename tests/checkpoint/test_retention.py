"""Retention counts what can be loaded, and never deletes the last that was proved sound."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndtrain.checkpoint import retention
from ndtrain.checkpoint.format import MANIFEST
from ndtrain.checkpoint.retention import prune, verifies
from ndtrain.checkpoint.source import step_folder, step_folders

from .folders import SHAPE, random_parameters, write_checkpoint


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "weights"
    write_checkpoint(folder, SHAPE, random_parameters(SHAPE), 1)
    return folder


def _flip(folder: Path) -> None:
    path = folder / "rank_0000_000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _tear(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _partial(folder: Path) -> None:
    folder.rename(folder.with_name(folder.name + ".partial"))


actions = st.lists(st.sampled_from(["save", "tear", "flip", "partial", "prune"]), max_size=14)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(actions=actions, keep_last=st.integers(1, 3), victim=st.randoms(use_true_random=False))
def test_the_last_sound_one_is_never_deleted(
    template: Path, tmp_path: Path, actions: list[str], keep_last: int, victim
) -> None:
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    (run / "checkpoints").mkdir(parents=True)
    step = 0
    for action in actions:
        present = step_folders(run)
        if action == "save":
            step += 1
            shutil.copytree(template, step_folder(run, step))
        elif action == "prune":
            sound = [path for path in present if verifies(path)]
            pruned = prune(run, keep_last, remove_partial=True)
            still = [path for path in step_folders(run) if verifies(path)]
            assert not sound or still
            assert still[-1:] == sound[-1:]
            assert len(still) >= min(len(sound), 1)
            assert not set(pruned.deleted) & set(step_folders(run))
            assert not list((run / "checkpoints").glob("*.partial"))
        elif present:
            damage = {"tear": _tear, "flip": _flip, "partial": _partial}[action]
            folder = victim.choice(present)
            if (folder / MANIFEST).exists():
                damage(folder)


def test_a_torn_one_does_not_push_a_good_one_out(template: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        shutil.copytree(template, step_folder(tmp_path, step))
    _tear(step_folder(tmp_path, 4))
    pruned = prune(tmp_path, keep_last=2)
    assert pruned.deleted == (step_folder(tmp_path, 1),)
    names = [path.name for path in step_folders(tmp_path)]
    assert names == ["step_00000002", "step_00000003", "step_00000004"]


def test_names_that_only_look_alike_are_left_alone(template: Path, tmp_path: Path) -> None:
    alike = ["old_step_00000001", "step_1", "step_00000001.x"]
    for name in ("step_00000001", "step_00000002", *alike):
        shutil.copytree(template, tmp_path / "checkpoints" / name)
    prune(tmp_path, keep_last=1)
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left == {"step_00000002", *alike}


def test_only_one_is_read_back_when_the_newest_is_sound(template: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        shutil.copytree(template, step_folder(tmp_path, step))
    read: list[Path] = []

    def is_sound(path: Path) -> bool:
        read.append(path)
        return True

    retention.prune(tmp_path, 2, is_sound=is_sound)
    assert read == [step_folder(tmp_path, 3)]
