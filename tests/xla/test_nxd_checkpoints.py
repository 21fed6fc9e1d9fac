"""Checkpoints that neuronx-distributed itself saved and loads: its layers, its trainer, real ranks.

Run with NDTRAIN_NXD naming a checkout at commit fbac34901a4a1b6ccfbc8cbc4f0be2bdfb8e0b44 (release
2.29); skipped without. See nxd_checkout.py for what stands in.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.checkpoint.convert import import_folder
from ndtrain.checkpoint.format import Manifest
from ndtrain.checkpoint.nxd_writer import export_nxd
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.writer import begin, publish, write_rank
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.hugging_face import hugging_face_names, parameter_shapes, row_counts
from ndtrain.models.qwen3.shape import Shape
from tests.parallel import small
from tests.rank_pool import RankPool
from tests.xla.nxd_checkout import checkout, install, module
from tests.xla.nxd_model import Style, build
from tests.xla.nxd_zero import start

TP = 4
SHAPE = dataclasses.replace(small.UNTIED, num_heads=8, num_kv_heads=4, head_dim=8)
LLAMA = dataclasses.replace(SHAPE, qk_norm=False)
TIED = dataclasses.replace(SHAPE, tie_embeddings=True)
MHA = dataclasses.replace(LLAMA, num_kv_heads=SHAPE.num_heads)
COPIED = dataclasses.replace(SHAPE, num_kv_heads=2)


def parameters(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = parameter_shapes(shape)
    return {name: torch.randn(size, generator=generator) for name, size in shapes.items()}


def save_rank(
    rank: int, root: Path, folder: Path, shape: Shape, style: Style, copies: int, use_xser: bool
) -> None:
    start(root, TP)
    trainer = module("trainer.checkpoint")
    model = build(shape, parameters(shape), style, copies)
    trainer.save_checkpoint(str(folder), "step_7", model=model, use_xser=use_xser)


def save_rank_with_the_older_function(rank: int, root: Path, folder: Path, shape: Shape) -> None:
    start(root, TP)
    model = build(shape, parameters(shape), "fused")
    module("parallel_layers.checkpointing").save({"model": model.state_dict()}, str(folder))


def load_rank(rank: int, root: Path, folder: Path, shape: Shape, copies: int) -> float:
    """The largest difference between what NxD loads and what its layers make of our parameters."""
    start(root, TP)
    trainer = module("trainer.checkpoint")
    model = build(shape, parameters(shape, seed=1), "fused", copies)
    right = build(shape, parameters(shape), "fused", copies).state_dict()
    trainer.load_checkpoint(str(folder), model=model)
    state = model.state_dict()
    assert state.keys() == right.keys()
    return max((state[name] - right[name]).abs().max().item() for name in state)


def convert_rank(rank: int, root: Path, direction: str, *arguments: str) -> None:
    """NxD's converter, on the first rank."""
    if rank == 0:
        install(root)
        converter = module("scripts.checkpoint_converter").CheckpointConverterBase()
        options = [f"--{direction}", "--hw_backend=trn1", f"--tp_size={TP}", *arguments]
        converter.run(converter.get_arg_parser().parse_args(options))


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    """Its own: NxD's state and the stand-ins live as long as the processes."""
    checkout()
    made = RankPool(TP)
    yield made
    made.close()


CASES: list[tuple[Shape, Style, int]] = [
    (SHAPE, "fused", 1),
    (TIED, "split", 1),
    (LLAMA, "separate", 1),
    (MHA, "coalesced", 1),
    (COPIED, "fused", 2),
    (COPIED, "split", 2),
]


@pytest.mark.parametrize(("shape", "style", "copies"), CASES)
def test_what_it_saved_is_imported(
    pool: RankPool, tmp_path: Path, shape: Shape, style: Style, copies: int
) -> None:
    pool.run(save_rank, checkout(), tmp_path / "nxd", shape, style, copies, False)
    (tmp_path / "nxd" / "config.json").write_text(json.dumps(shape.to_hugging_face("float32")))
    import_folder(tmp_path / "nxd", tmp_path / "ours", kv_copies=_order(copies))
    right = parameters(shape)
    for name, tensor in Checkpoint(tmp_path / "ours").tensors():
        assert torch.equal(tensor, right[name]), name


def _order(copies: int) -> Literal["trn1"] | None:
    return "trn1" if copies > 1 else None


@pytest.mark.parametrize(("shape", "copies"), [(SHAPE, 1), (TIED, 1), (LLAMA, 1), (COPIED, 2)])
def test_it_loads_what_is_exported(
    pool: RankPool, tmp_path: Path, shape: Shape, copies: int
) -> None:
    partial = begin(tmp_path / "ours")
    whole = [(name, 0, [(0, len(value))], value) for name, value in parameters(shape).items()]
    files = write_rank(partial, 0, whole)
    publish(partial, tmp_path / "ours", Manifest(shape, "float32", tuple(files), step=7))
    export_nxd(tmp_path / "ours", tmp_path / "nxd", TP, _order(copies))
    for difference in pool.run(load_rank, checkout(), tmp_path / "nxd", shape, copies):
        assert difference == 0


def test_what_its_older_function_saved_is_imported(pool: RankPool, tmp_path: Path) -> None:
    pool.run(save_rank_with_the_older_function, checkout(), tmp_path / "nxd", SHAPE)
    (tmp_path / "nxd" / "config.json").write_text(json.dumps(SHAPE.to_hugging_face("float32")))
    import_folder(tmp_path / "nxd", tmp_path / "ours")
    right = parameters(SHAPE)
    for name, tensor in Checkpoint(tmp_path / "ours").tensors():
        assert torch.equal(tensor, right[name]), name


# Its converter takes the size of a head from the hidden size.
CONVERTED = dataclasses.replace(SHAPE, hidden_size=64, num_kv_heads=2)


def hugging_face_state(shape: Shape) -> dict[str, Tensor]:
    return {
        theirs: part.clone()
        for name, value in parameters(shape).items()
        for theirs, part in zip(
            hugging_face_names(name), value.split(row_counts(name, shape)), strict=True
        )
    }


@pytest.mark.parametrize("fuse", [True, False])
def test_its_converter_has_the_same_order_of_copies(
    pool: RankPool, tmp_path: Path, fuse: bool
) -> None:
    config, shape = tmp_path / "config.json", CONVERTED
    config.write_text(json.dumps(shape.to_hugging_face("float32")))
    torch.save(hugging_face_state(shape), tmp_path / "full.pt")
    options = [f"--config={config}", "--kv_size_multiplier=2", "--qkv_linear=1", "--n_layers=2"]
    options += ["--fuse_qkv=1"] if fuse else []
    folders = [f"--input_dir={tmp_path / 'full.pt'}", f"--output_dir={tmp_path / 'nxd'}"]
    pool.run(convert_rank, checkout(), "convert_from_full_state", *options, *folders)
    (tmp_path / "nxd" / "config.json").write_text(config.read_text())
    import_folder(tmp_path / "nxd" / "model", tmp_path / "ours", kv_copies="trn1")
    right = parameters(shape)
    for name, tensor in Checkpoint(tmp_path / "ours").tensors():
        assert torch.equal(tensor, right[name]), name


def test_the_layout_of_tensors_in_files_of_their_own_is_refused(
    pool: RankPool, tmp_path: Path
) -> None:
    pool.run(save_rank, checkout(), tmp_path / "nxd", SHAPE, "fused", 1, True)
    (tmp_path / "nxd" / "config.json").write_text(json.dumps(SHAPE.to_hugging_face("float32")))
    with pytest.raises(UserError, match="use_xser=True"):
        import_folder(tmp_path / "nxd", tmp_path / "ours")
