"""AdamW's state in neuronx-distributed's files, laid out by nxd_folders.py, under our names.

What its own ZeRO-1 optimizer wrote is in tests/xla/test_nxd_optimizer.py, for that needs torch-xla.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from ndtrain.checkpoint.convert import import_folder
from ndtrain.checkpoint.format import FIRST_MOMENT, MASTER, SECOND_MOMENT, Manifest, Piece
from ndtrain.checkpoint.nxd_optimizer import NxdOptimizer
from ndtrain.checkpoint.nxd_writer import export_nxd
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.writer import begin, publish, write_files, write_rank, write_training
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.shape import Shape
from tests.checkpoint.folders import LLAMA, SHAPE, TIED, LiveBytes, random_parameters
from tests.checkpoint.nxd_folders import rank_states, save, save_optimizer
from tests.checkpoint.test_nxd import COPIED

TP = 2


def whole(shape: Shape) -> dict[str, dict[str, Tensor]]:
    """Kind -> whole tensors under our names."""
    second = {name: value.square() for name, value in random_parameters(shape, 2).items()}
    kinds = {MASTER: random_parameters(shape), FIRST_MOMENT: random_parameters(shape, 1)}
    return kinds | {SECOND_MOMENT: second}


def write(
    folder: Path,
    shape: Shape,
    style: str = "fused",
    num_parts: int | None = 3,
    dtype: torch.dtype = torch.bfloat16,
    tp: int = TP,
) -> Path:
    kinds = {kind: rank_states(shape, value, tp, style) for kind, value in whole(shape).items()}
    states = [{key: value.to(dtype) for key, value in one.items()} for one in kinds[MASTER]]
    if dtype == torch.float32:
        del kinds[MASTER]
    source = save(folder, shape, states)
    save_optimizer(source, states, kinds, num_parts)
    return source


@pytest.mark.parametrize(
    ("shape", "style", "num_parts", "dtype", "tp"),
    [
        (SHAPE, "fused", 3, torch.bfloat16, 2),  # 3 ranks: rows are padded
        (TIED, "split", 2, torch.bfloat16, 2),
        (LLAMA, "separate", 1, torch.float32, 2),
        (SHAPE, "fused", None, torch.float32, 2),
        (COPIED, "fused", 2, torch.bfloat16, 4),
    ],
)
def test_import_gives_moments_and_master_weights(
    tmp_path: Path,
    shape: Shape,
    style: str,
    num_parts: int | None,
    dtype: torch.dtype,
    tp: int,
) -> None:
    source = write(tmp_path / "nxd", shape, style, num_parts, dtype, tp)
    copies = "trn1" if shape == COPIED else None
    import_folder(source, tmp_path / "ours", 20_000, copies, with_optimizer=True)
    checkpoint = Checkpoint(tmp_path / "ours")
    checkpoint.verify()
    assert checkpoint.manifest.step == 7
    assert checkpoint.state.has(MASTER) == (dtype == torch.bfloat16)
    for kind, values in whole(shape).items():
        for name, value in values.items() if checkpoint.state.has(kind) else ():
            read = checkpoint.state.read(kind, name, 0, [(0, len(value))])
            assert torch.equal(read, value), (kind, name)
    with pytest.raises(UserError, match="no data position to go on from"):
        checkpoint.training()


OPTIM = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}


def write_run(folder: Path, shape: Shape, kinds: tuple[str, ...]) -> Path:
    """A checkpoint of ours: weights, and `kinds` of state in one piece each."""
    partial, files, values = begin(folder), [], whole(shape)
    weights = [(name, 0, [(0, len(v))], v) for name, v in values[MASTER].items()]
    files += write_rank(partial, 0, weights)
    pieces = [
        (Piece(name, 0, ((0, len(v)),), kind, (0, v.numel())), v.flatten())
        for kind in kinds
        for name, v in values[kind].items()
    ]
    files += write_files(partial, "state_0000", pieces)
    files.append(write_training(partial, {"num_updates": 7, "config": {"optim": OPTIM}}))
    publish(partial, folder, Manifest(shape, "float32", tuple(files), 9))
    return folder


@pytest.mark.parametrize(
    ("shape", "tp", "num_parts", "copies", "has_master"),
    [(SHAPE, 2, 3, None, True), (TIED, 1, 1, None, False), (COPIED, 4, 2, "trn1", True)],
)
def test_export_gives_it_back(
    tmp_path: Path,
    shape: Shape,
    tp: int,
    num_parts: int,
    copies: Literal["trn1"] | None,
    has_master: bool,
) -> None:
    kinds = (FIRST_MOMENT, SECOND_MOMENT, *([MASTER] if has_master else []))
    run = write_run(tmp_path / "run", shape, kinds)
    export_nxd(run, tmp_path / "nxd", tp, copies, num_parts)
    optim = tmp_path / "nxd" / "step_00000009" / "optim"
    assert len(list(optim.iterdir())) == tp * num_parts
    saved = torch.load(optim / "dp_rank_00_tp_rank_00_pp_rank_00.pt", weights_only=True)
    assert [group["weight_decay"] for group in saved["param_groups"]] == [0.1, 0.0]
    assert all(group["betas"] == (0.9, 0.95) for group in saved["param_groups"])
    steps = [one["step"] for one in saved["base_state"].values()]
    assert len({step.data_ptr() for step in steps}) == len(steps)  # each counts for itself
    import_folder(tmp_path / "nxd", tmp_path / "back", kv_copies=copies, with_optimizer=True)
    back = Checkpoint(tmp_path / "back")
    assert back.manifest.step == 7
    for kind, values in whole(shape).items():
        for name, value in values.items():
            read = back.state.read(kind, name, 0, [(0, len(value))])
            assert torch.equal(read, value), (kind, name)


def test_export_refuses_what_has_no_state(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", SHAPE, ())
    with pytest.raises(UserError, match="no update was made yet"):
        export_nxd(run, tmp_path / "nxd", 2, None, 2)
    import_folder(write(tmp_path / "theirs", SHAPE), tmp_path / "ours")
    with pytest.raises(UserError, match="weights that no run saved"):
        export_nxd(tmp_path / "ours", tmp_path / "nxd", 2, None, 2)
    assert not list(tmp_path.glob("nxd*"))


def test_memory_of_one_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "nxd", SHAPE)
    live, real = LiveBytes(), NxdOptimizer._read
    monkeypatch.setattr(NxdOptimizer, "_read", lambda *a: live.watch(real(*a)))
    import_folder(source, tmp_path / "ours", max_file_bytes=20_000, with_optimizer=True)
    largest = 4 * SHAPE.vocab_size * SHAPE.hidden_size
    assert 10_000 < live.peak <= 20_000 + 2 * largest


def edit(change: Callable[[dict[str, Any]], Any], rank: int = 1) -> Callable[[Path], None]:
    def damage(optim: Path) -> None:
        path = optim / f"dp_rank_02_tp_rank_{rank:02d}_pp_rank_00.pt"
        saved = torch.load(path, weights_only=True)
        change(saved)
        torch.save(saved, path)

    return damage


def edit_first(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(optim: Path) -> None:
        for path in optim.iterdir():
            saved = torch.load(path, weights_only=True)
            change(saved)
            torch.save(saved, path)

    return damage


def swap(first: int, second: int) -> Callable[[dict[str, Any]], None]:
    def change(saved: dict[str, Any]) -> None:
        numbers = saved["param_groups"][0]["params"]
        numbers[first], numbers[second] = numbers[second], numbers[first]

    return change


def one_group_more(saved: dict[str, Any]) -> None:
    groups = saved["param_groups"]
    groups.append({"params": [groups[0]["params"].pop()]})


def remove(name: str) -> Callable[[Path], Any]:
    return lambda optim: (optim / name).unlink()


def to_xser(optim: Path) -> None:
    (optim / "dp_rank_00_tp_rank_00_pp_rank_00.pt.tensors").mkdir()


def to_dcp(optim: Path) -> None:
    for path in optim.iterdir():
        path.rename(optim / f"__{path.stem}.distcp")


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (to_dcp, "no state of an optimizer"),
    (to_xser, "use_xser=True"),
    (remove("dp_rank_01_tp_rank_01_pp_rank_00.pt"), "see tensor rank 1, data-parallel rank 1"),
    (edit(lambda s: s.pop("base_state")), "not AdamW's state"),
    (edit(lambda s: s["base_state"][3].pop("exp_avg_sq")), "not AdamW's state"),
    (edit(lambda s: s["base_state"][3].update(max_exp_avg_sq=1)), "not AdamW's state"),
    (edit(lambda s: s["base_state"].pop(3)), "not this rank's part"),
    (edit(lambda s: s.pop("sharded_master_weights")), "not this rank's part"),
    (edit(lambda s: s["base_state"][3].update(exp_avg=torch.ones(2))), "not this rank's part"),
    (edit(lambda s: s["base_state"][3].update(step=8)), "different numbers of updates: [7, 8]"),
    (
        edit(lambda s: s["base_state"][3]["exp_avg"].fill_(torch.inf)),
        "exp_avg of `layers.0.att",
    ),
    (edit_first(swap(2, 3)), "which is which cannot be told"),
    (edit_first(one_group_more), "groups of 9, 9, 1 parameters"),
    (edit_first(swap(0, 1)), "are not its weights"),  # embedding and head: the same shape
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_import_refuses_and_names(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    source = write(tmp_path / "nxd", SHAPE)
    damage(source / "step_7" / "optim")
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        import_folder(source, tmp_path / "ours", with_optimizer=True)
    assert refusal.value.where.startswith(str(source))
    assert refusal.value.help
    assert [path.name for path in tmp_path.iterdir()] == ["nxd"]
    import_folder(source, tmp_path / "weights")  # which are not concerned


def test_a_hugging_face_folder_has_no_optimizer(tmp_path: Path) -> None:
    from tests.checkpoint.folders import transformers_model

    transformers_model(SHAPE).save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match="--optimizer is for checkpoints of neuronx-distributed"):
        import_folder(tmp_path / "theirs", tmp_path / "ours", with_optimizer=True)
