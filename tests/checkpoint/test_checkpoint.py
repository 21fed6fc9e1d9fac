"""Any layout reads what any other wrote; what is damaged is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndtrain.checkpoint import writer
from ndtrain.checkpoint.format import MANIFEST, seal
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.source import complete_checkpoints, open_checkpoint, step_folder
from ndtrain.core.errors import UserError

from .folders import SHAPE, TIED, cuts, random_parameters, take, write_checkpoint


@pytest.mark.parametrize("num_readers", [1, 2, 4])
@pytest.mark.parametrize("num_writers", [1, 2, 4])
@pytest.mark.parametrize("max_file_bytes", [2**30, 5000])
def test_any_layout_reads_any_other(
    tmp_path: Path, num_writers: int, num_readers: int, max_file_bytes: int
) -> None:
    parameters = random_parameters(SHAPE)
    folder = tmp_path / "weights"
    write_checkpoint(folder, SHAPE, parameters, num_writers, max_file_bytes=max_file_bytes)
    checkpoint = Checkpoint(folder)
    assert checkpoint.shape == SHAPE
    for rank in range(num_readers):
        for name, full in parameters.items():
            dim, slices = cuts(name, full, SHAPE, num_readers, rank)
            expected = take(full, dim, slices) if slices else full[:0]
            assert torch.equal(checkpoint.read(name, dim, slices), expected)
    for name, full in checkpoint.tensors():
        assert torch.equal(full, parameters.pop(name))
    assert not parameters


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_slices_along_any_dim(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "weights"
    parameters = random_parameters(TIED, seed=1)
    if not folder.exists():
        write_checkpoint(folder, TIED, parameters, 2)
    name = data.draw(st.sampled_from(sorted(parameters)))
    full = parameters[name]
    dim = data.draw(st.integers(0, full.dim() - 1))
    edges = st.integers(0, full.shape[dim])
    slices = data.draw(
        st.lists(st.tuples(edges, edges).map(lambda e: (min(e), max(e))), max_size=4)
    )
    result = Checkpoint(folder).read(name, dim, slices)
    assert torch.equal(result, take(full, dim, slices or [(0, 0)]))


def test_replicated_weights_are_stored_once(tmp_path: Path) -> None:
    parameters = random_parameters(SHAPE)
    for num_ranks in (1, 4):
        manifest = write_checkpoint(tmp_path / str(num_ranks), SHAPE, parameters, num_ranks)
        stored = sum(entry.num_bytes for entry in manifest.files)
        # The rest is the headers of the files, some 100 bytes a tensor.
        assert 0 <= stored - 4 * SHAPE.num_parameters() < 150 * num_ranks * len(parameters)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("damage", "what"), [(_flip, "SHA-256"), (_cut, "bytes"), (Path.unlink, "missing")]
)
def test_damage_is_found_and_named(tmp_path: Path, damage: Any, what: str) -> None:
    folder = tmp_path / "weights"
    parameters = random_parameters(SHAPE)
    write_checkpoint(folder, SHAPE, parameters, 2)
    damage(folder / "rank_0001_000.safetensors")
    with pytest.raises(UserError) as refusal:
        Checkpoint(folder).read("embedding.weight")
    assert "rank_0001_000.safetensors" in refusal.value.what
    assert what in refusal.value.what
    if damage is _flip:
        # A rank that reads only its own file does not pay for the other.
        upper = Checkpoint(folder).read("embedding.weight", 0, [(0, 48)])
        assert torch.equal(upper, parameters["embedding.weight"][:48])
        with pytest.raises(UserError, match="rank_0001_000"):
            Checkpoint(folder).verify()


def _pieces(manifest: dict[str, Any], name: str) -> list[dict[str, Any]]:
    pieces = [piece for file in manifest["files"] for piece in file["pieces"]]
    return [piece for piece in pieces if piece["name"] == name]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m["files"][0].update(name="../rank_0000_000.safetensors"), "plain file name"),
        (lambda m: m["files"][0].update(name="/etc/passwd"), "plain file name"),
        (lambda m: m["files"][0].update(name="tokenizer/../../x"), "plain file name"),
        (lambda m: m.update(version=3), "its version is 3"),
        (lambda m: m.update(format="other"), "its format is `other`"),
        (lambda m: m.pop("shape"), "it has no 'shape'"),
        (lambda m: m["shape"].pop("head_dim"), "head_dim"),
        (lambda m: _pieces(m, "norm.weight")[0].update(name="nrom.weight"), "norm.weight: missing"),
        (lambda m: _pieces(m, "norm.weight")[0].update(slices=[[0, 23]]), "gaps"),
        (lambda m: _pieces(m, "norm.weight")[0].update(slices=[[3, 3]]), "bad piece"),
        (lambda m: _pieces(m, "norm.weight")[0].update(flat=[3, 3]), "bad piece"),
        (lambda m: _pieces(m, "head.weight")[0].update(slices=[[0, 49]]), "overlap"),
        (lambda m: _pieces(m, "head.weight")[0].update(dim=1), "cut dims [0, 1]"),
        (lambda m: [p.update(dim=5) for p in _pieces(m, "head.weight")], "cut dims [5]"),
        (lambda m: m["shape"].update(tie_embeddings=True), "head.weight: not of this shape"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, change: Any, what: str) -> None:
    folder = tmp_path / "weights"
    write_checkpoint(folder, SHAPE, random_parameters(SHAPE), 2)
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(seal(manifest)) + "\n")
    with pytest.raises(UserError) as refusal:
        Checkpoint(folder)
    assert what in refusal.value.what
    assert MANIFEST in refusal.value.where


def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="not usable"):
        Checkpoint(tmp_path)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    write_checkpoint(folder, SHAPE, random_parameters(SHAPE), 1)
    path = folder / "rank_0000_000.safetensors"
    # A pickle that would run `print`, in the place and with the size and hash of the weights.
    path.write_bytes(b"cbuiltins\nprint\n(S'ran'\ntR.")
    entry = writer.describe(folder, path.name)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][0] |= {"num_bytes": entry.num_bytes, "sha256": entry.sha256}
    (folder / MANIFEST).write_text(json.dumps(seal(manifest)) + "\n")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        Checkpoint(folder).read("norm.weight")


class _Killed(BaseException):
    pass


def test_a_kill_at_any_point_leaves_nothing_under_the_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that reaches the disk is the last one, in turn."""
    points = [
        (writer, "save_file"),
        (writer, "fsync_file"),
        (writer, "describe"),
        (writer, "write_json"),
        (writer, "fsync_folder"),
        (writer.os, "rename"),
    ]
    parameters = random_parameters(SHAPE)
    final = step_folder(tmp_path, 7)
    for module, function in points:

        def die(*arguments: Any, **options: Any) -> None:
            raise _Killed

        with monkeypatch.context() as patch:
            patch.setattr(module, function, die)
            with pytest.raises(_Killed):
                write_checkpoint(final, SHAPE, parameters, 2)
        assert not final.exists(), function
        assert complete_checkpoints(tmp_path) == []
    write_checkpoint(final, SHAPE, parameters, 2)  # over what the kills left
    assert sorted(path.name for path in final.parent.iterdir()) == [final.name]
    assert complete_checkpoints(tmp_path) == [final]
    Checkpoint(final).verify()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    final = tmp_path / "weights"
    write_checkpoint(final, SHAPE, random_parameters(SHAPE), 1)
    before = (final / MANIFEST).read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_checkpoint(final, SHAPE, random_parameters(SHAPE, seed=2), 1)
    assert (final / MANIFEST).read_bytes() == before


def test_the_newest_complete_checkpoint_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no complete checkpoint"):
        open_checkpoint(tmp_path)
    for step in (1, 20, 300):
        write_checkpoint(step_folder(tmp_path, step), SHAPE, random_parameters(SHAPE, step), 1)
    write_checkpoint(
        tmp_path / "checkpoints" / "step_00000400.old", SHAPE, random_parameters(SHAPE), 1
    )
    (tmp_path / "checkpoints" / "step_00000500").mkdir()
    (step_folder(tmp_path, 300) / "rank_0000_000.safetensors").unlink()
    assert complete_checkpoints(tmp_path) == [step_folder(tmp_path, step) for step in (1, 20)]
    assert open_checkpoint(tmp_path).folder == step_folder(tmp_path, 20)
    with pytest.raises(UserError, match="rank_0000_000"):
        open_checkpoint(step_folder(tmp_path, 300))


def test_weights_alone_are_no_state_to_go_on_from(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "weights", SHAPE, random_parameters(SHAPE), 1)
    with pytest.raises(UserError, match="no data position to go on from") as caught:
        Checkpoint(tmp_path / "weights").training()
    assert caught.value.help.startswith("start a new run: model.weights=")


def test_a_tensor_that_a_file_has_lost_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    write_checkpoint(folder, SHAPE, random_parameters(SHAPE), 1)
    file = next(folder.glob("*.safetensors"))
    data = file.read_bytes()
    assert data.count(b'"norm.weight') == 1
    file.write_bytes(data.replace(b'"norm.weight', b'"lost.weight'))
    with pytest.raises(UserError, match=r"`norm\.weight.*` is missing") as caught:
        Checkpoint(folder, is_verified=True).read("norm.weight")
    assert caught.value.where == str(file)
