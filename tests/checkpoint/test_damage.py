"""One flipped bit, a cut, a missing or a swapped file, of every kind: always found and named."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ndtrain.checkpoint.format import (
    FIRST_MOMENT,
    MANIFEST,
    MASTER,
    SECOND_MOMENT,
    TOKENIZER,
    Manifest,
    Piece,
    seal,
)
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.writer import (
    begin,
    describe,
    publish,
    write_files,
    write_rank,
    write_training,
)
from ndtrain.core.errors import UserError

from .folders import SHAPE, random_parameters

KINDS = (MASTER, FIRST_MOMENT, SECOND_MOMENT)


def ranges(rank: int) -> Iterator[tuple[Piece, Tensor]]:
    """Of each parameter as two data-parallel ranks would own it, cut inside a row."""
    for name, full in random_parameters(SHAPE).items():
        cut = full.numel() // 2 + 1
        start, stop = (0, cut) if rank == 0 else (cut, full.numel())
        for kind in KINDS:
            piece = Piece(name, 0, ((0, full.shape[0]),), kind, (start, stop))
            yield piece, full.reshape(-1)[start:stop].clone()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "step_00000007"
    partial = begin(folder)
    parameters = random_parameters(SHAPE).items()
    files = write_rank(partial, 0, [(n, 0, [(0, f.shape[0])], f) for n, f in parameters])
    for rank in (0, 1):
        files += write_files(partial, f"state_{rank:04d}", ranges(rank))
    (partial / TOKENIZER).mkdir()
    (partial / TOKENIZER / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    files.append(describe(partial, f"{TOKENIZER}/tokenizer.json"))
    files.append(write_training(partial, {"step": 7, "losses": [0.1, 2.5]}))
    publish(partial, folder, Manifest(SHAPE, "float32", tuple(files), 7))
    return folder


def names(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in files)


def complaint(folder: Path) -> str:
    with pytest.raises(UserError) as refusal:
        Checkpoint(folder).verify()
    return str(refusal.value)


def test_the_whole_one_is_sound(whole: Path) -> None:
    assert len(names(whole)) == 6
    checkpoint = Checkpoint(whole)
    checkpoint.verify()
    assert checkpoint.training() == {"step": 7, "losses": [0.1, 2.5]}
    for name, full in random_parameters(SHAPE).items():
        for kind in KINDS:
            assert torch.equal(checkpoint.state.read(kind, name, 0, [(0, full.shape[0])]), full)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_flipped_bit_or_a_cut(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "step_00000007"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    name = data.draw(st.sampled_from(names(folder)))
    content = bytearray((folder / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[position:]
    (folder / name).write_bytes(content)
    assert Path(name).name in complaint(folder)


def test_a_manifest_without_its_last_byte(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step_00000007"
    shutil.copytree(whole, folder)
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert "last byte" in complaint(folder)


@pytest.mark.parametrize("number", range(6))
def test_a_missing_file(whole: Path, tmp_path: Path, number: int) -> None:
    folder = tmp_path / "step_00000007"
    shutil.copytree(whole, folder)
    name = names(folder)[number]
    (folder / name).unlink()
    assert Path(name).name in complaint(folder)


def test_swapped_files(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step_00000007"
    shutil.copytree(whole, folder)
    a, b = folder / "state_0000_000.safetensors", folder / "state_0001_000.safetensors"
    content = a.read_bytes(), b.read_bytes()
    a.write_bytes(content[1])
    b.write_bytes(content[0])
    assert "state_000" in complaint(folder)


def test_state_that_does_not_cover_a_parameter_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step_00000007"
    shutil.copytree(whole, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    for file in manifest["files"]:
        if file["name"].startswith("state_0001"):
            file["pieces"][0]["flat"][0] += 1
    (folder / MANIFEST).write_text(json.dumps(seal(manifest)) + "\n")
    with pytest.raises(UserError, match="overlap or leave gaps"):
        Checkpoint(folder).state.has(MASTER)
