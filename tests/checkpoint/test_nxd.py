"""neuronx-distributed's files, laid out by its rules in nxd_folders.py, in and out.

Those that it wrote itself are in tests/xla/test_nxd_checkpoints.py, for it needs torch-xla.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from ndtrain.checkpoint.convert import import_folder
from ndtrain.checkpoint.nxd import NxdFolder
from ndtrain.checkpoint.nxd_files import find_model_folder
from ndtrain.checkpoint.nxd_layout import Layout
from ndtrain.checkpoint.nxd_writer import export_nxd
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.shape import Shape

from .folders import LLAMA, SHAPE, TIED, LiveBytes, random_parameters, write_checkpoint
from .nxd_folders import rank_states, save

WIDE = dataclasses.replace(SHAPE, num_heads=8, head_dim=4, num_kv_heads=2)
COPIED = dataclasses.replace(WIDE, num_layers=1)
MHA = dataclasses.replace(LLAMA, num_kv_heads=4)

CASES = [
    (SHAPE, 1, "fused", None),
    (SHAPE, 2, "fused", None),
    (TIED, 2, "split", None),
    (LLAMA, 2, "separate", None),
    (MHA, 4, "coalesced", None),
    (COPIED, 4, "fused", "trn1"),
    (COPIED, 8, "split", "trn1"),
]


@pytest.mark.parametrize(("shape", "tp", "style", "copies"), CASES)
def test_import_gives_the_parameters(
    tmp_path: Path, shape: Shape, tp: int, style: str, copies: Literal["trn1"] | None
) -> None:
    parameters = random_parameters(shape)
    source = save(tmp_path / "nxd", shape, rank_states(shape, parameters, tp, style))
    import_folder(source, tmp_path / "ours", max_file_bytes=6000, kv_copies=copies)
    checkpoint = Checkpoint(tmp_path / "ours")
    assert checkpoint.shape == shape
    assert checkpoint.manifest.dtype == "float32"
    tensors = dict(checkpoint.tensors())
    assert tensors.keys() == parameters.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, parameters[name]), name


@pytest.mark.parametrize(
    ("shape", "tp", "copies"),
    [(SHAPE, 1, None), (TIED, 2, None), (LLAMA, 2, None), (COPIED, 4, "trn1"), (COPIED, 8, "trn1")],
)
def test_export_writes_what_neuronx_distributed_would(
    tmp_path: Path, shape: Shape, tp: int, copies: Literal["trn1"] | None
) -> None:
    parameters = random_parameters(shape)
    write_checkpoint(tmp_path / "ours", shape, parameters, num_ranks=2)
    export_nxd(tmp_path / "ours", tmp_path / "nxd", tp, copies)
    tag = tmp_path / "nxd" / "step_00000007"
    assert (tag / "done").is_file()
    assert (tag / "checkpoint").is_file()
    expected = rank_states(shape, parameters, tp, "fused")
    assert len(list((tag / "model").iterdir())) == tp
    for rank, state in enumerate(expected):
        path = tag / "model" / f"dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt"
        written = torch.load(path, weights_only=True)
        assert written.keys() == state.keys()
        assert all(torch.equal(written[key], value) for key, value in state.items())

    import_folder(tmp_path / "nxd", tmp_path / "back", kv_copies=copies)
    for name, tensor in Checkpoint(tmp_path / "back").tensors():
        assert torch.equal(tensor, parameters[name]), name


def test_any_of_the_three_folders_may_be_given_and_the_tokenizer_travels(tmp_path: Path) -> None:
    states = [
        {"model": state} for state in rank_states(SHAPE, random_parameters(SHAPE), 2, "split")
    ]
    source = save(tmp_path / "nxd", SHAPE, states)  # type: ignore[arg-type]
    (source / "tokenizer.json").write_text("{}")
    model = source / "step_7" / "model"
    for number, folder in enumerate((source, source / "step_7", model)):
        assert find_model_folder(folder) == model
        import_folder(folder, tmp_path / f"ours_{number}")
        assert (tmp_path / f"ours_{number}" / "tokenizer" / "tokenizer.json").is_file()
    assert find_model_folder(tmp_path / "ours_0") is None


def test_the_layout_of_its_older_function(tmp_path: Path) -> None:
    parameters = random_parameters(SHAPE)
    states = rank_states(SHAPE, parameters, 2, "fused")
    for rank, state in enumerate(states):
        folder = tmp_path / "nxd" / f"tp_rank_{rank:02d}_pp_rank_00"
        folder.mkdir(parents=True)
        torch.save({"model": state, "epoch": 3}, folder / "checkpoint.pt")
    config = json.dumps(SHAPE.to_hugging_face("float32"))
    (tmp_path / "nxd" / "config.json").write_text(config)
    import_folder(tmp_path / "nxd", tmp_path / "ours")
    for name, tensor in Checkpoint(tmp_path / "ours").tensors():
        assert torch.equal(tensor, parameters[name]), name
    folder.rename(tmp_path / "nxd" / "tp_rank_01_pp_rank_01")
    with pytest.raises(UserError, match="further pipeline stage"):
        import_folder(tmp_path / "nxd", tmp_path / "again")


def test_memory_of_one_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = dataclasses.replace(SHAPE, num_layers=12)
    parameters = random_parameters(shape)
    source = save(tmp_path / "nxd", shape, rank_states(shape, parameters, 2, "fused"))
    live = LiveBytes()
    for reader, name in ((NxdFolder, "assemble"), (Checkpoint, "read")):
        real = getattr(reader, name)
        monkeypatch.setattr(reader, name, lambda *a, real=real: live.watch(real(*a)))
    import_folder(source, tmp_path / "ours", max_file_bytes=20_000)
    largest = 4 * shape.vocab_size * shape.hidden_size
    assert 10_000 < live.peak <= 20_000 + 2 * largest
    live.peak = 0
    export_nxd(tmp_path / "ours", tmp_path / "back", num_ranks=2)
    rank_bytes = 4 * shape.num_parameters() / 2
    assert rank_bytes < live.peak < 1.2 * rank_bytes
    assert live.now == 0


def ranks_file(folder: Path, rank: int = 0) -> Path:
    return folder / "step_7" / "model" / f"dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt"


def edit(change: Callable[[dict[str, Tensor]], Any], rank: int = 1) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = torch.load(ranks_file(folder, rank), weights_only=True)
        change(state)
        torch.save(state, ranks_file(folder, rank))

    return damage


def rename(new_name: str) -> Callable[[Path], Any]:
    return lambda folder: ranks_file(folder, 1).rename(ranks_file(folder).with_name(new_name))


def second_tag(folder: Path) -> None:
    model = folder / "step_9" / "model"
    model.mkdir(parents=True)
    (model / ranks_file(folder).name).write_bytes(b"")


class Other:
    pass


Q0 = "model.layers.0.self_attn.qkv_proj.weight_qkv"
DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / "config.json").unlink(), "no config.json: neuronx-distributed"),
    (lambda f: (f / "step_7" / "done").unlink(), "the save was not completed"),
    (second_tag, "several checkpoints: step_7, step_9"),
    (lambda f: ranks_file(f, 0).unlink(), "no file of tensor rank 0"),
    (rename("dp_rank_01_tp_rank_01_pp_rank_00.pt"), "further data-parallel rank"),
    (rename("dp_rank_00_tp_rank_00_pp_rank_01.pt"), "further pipeline stage"),
    (rename("dp_rank_00_ep_rank_00_tp_rank_01_pp_rank_00.pt"), "expert-parallel"),
    (lambda f: Path(f"{ranks_file(f)}.tensors").mkdir(), "use_xser=True"),
    (lambda f: ranks_file(f).write_bytes(b"no zip"), "not a file of tensors alone"),
    (lambda f: torch.save({"a": Other()}, ranks_file(f)), "not a file of tensors alone"),
    (lambda f: torch.save([torch.ones(1)], ranks_file(f)), "not a dictionary of tensors"),
    (lambda f: torch.save({"step": 3}, ranks_file(f)), "not a dictionary of tensors"),
    (edit(lambda s: s.pop("lm_head.weight")), "`lm_head.weight` is missing"),
    (edit(lambda s: s.update(extra=torch.ones(1))), "unexpected `extra`"),
    (edit(lambda s: s.update({Q0: s[Q0][1:]})), "has shape [31, 24], expected [32, 24]"),
    (edit(lambda s: s.update({Q0: s[Q0].int()})), "is torch.int32"),
    (edit(lambda s: s.update({Q0: s[Q0].half()})), "of several dtypes"),
    (edit(lambda s: s["model.norm.weight"].add_(1)), "differs from the copy that another rank"),
    (edit(lambda s: s["lm_head.weight"].fill_(torch.inf)), "`head.weight` has values"),
    (edit(lambda s: s.pop(Q0), rank=0), "layer 0 has no attention"),
    (edit(lambda s: s.pop("model.layers.0.mlp.gate_up_proj.weight"), rank=0), "has no MLP"),
    (edit(lambda s: s.update({Q0: s[Q0][1:]}), rank=0), "layer 0 has 62 rows"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_import_refuses_and_names(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    source = save(tmp_path / "nxd", SHAPE, rank_states(SHAPE, random_parameters(SHAPE), 2, "fused"))
    damage(source)
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        import_folder(source, tmp_path / "ours")
    assert refusal.value.where.startswith(str(source))
    assert refusal.value.help
    assert [path.name for path in tmp_path.iterdir()] == ["nxd"]


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    source = save(tmp_path / "nxd", SHAPE, rank_states(SHAPE, random_parameters(SHAPE), 1, "fused"))
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    torch.save({"model.norm.weight": Evil()}, ranks_file(source))
    with pytest.raises(UserError, match="a file of tensors alone"):
        import_folder(source, tmp_path / "ours")
    assert not mark.exists()


def test_another_head_than_the_embedding_of_a_tied_model(tmp_path: Path) -> None:
    states = rank_states(TIED, random_parameters(TIED), 2, "fused")
    states[1]["lm_head.weight"][-1, -1] += 1
    with pytest.raises(UserError, match="another head"):
        import_folder(save(tmp_path / "nxd", TIED, states), tmp_path / "ours")


def test_copies_of_heads_are_read_in_the_order_that_is_said(tmp_path: Path) -> None:
    states = rank_states(COPIED, random_parameters(COPIED), 4, "fused")
    source = save(tmp_path / "nxd", COPIED, states)
    with pytest.raises(UserError, match="held 2 times"):
        import_folder(source, tmp_path / "ours")
    adjacent = [states[0], states[2], states[1], states[3]]  # Trainium2: K0 K0 K1 K1
    other = save(tmp_path / "trn2", COPIED, adjacent)
    with pytest.raises(UserError, match="differs from the copy") as refusal:
        import_folder(other, tmp_path / "ours", kv_copies="trn1")
    assert "not in Trainium1's order" in refusal.value.help

    plain = save(
        tmp_path / "plain", SHAPE, rank_states(SHAPE, random_parameters(SHAPE), 2, "split")
    )
    with pytest.raises(UserError, match="is held once"):
        import_folder(plain, tmp_path / "ours", kv_copies="trn1")
    with pytest.raises(UserError, match="is for checkpoints of neuronx-distributed"):
        import_folder(tmp_path / "absent", tmp_path / "ours", kv_copies="trn1")


def test_ranks_that_do_not_divide_the_model(tmp_path: Path) -> None:
    states = rank_states(SHAPE, random_parameters(SHAPE), 2, "fused")
    source = save(tmp_path / "nxd", SHAPE, states)
    config = SHAPE.to_hugging_face("float32") | {"vocab_size": 97}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="2 tensor ranks do not divide vocab_size = 97"):
        import_folder(source, tmp_path / "ours")


@pytest.mark.parametrize(
    ("tp", "copies", "message"),
    [
        (4, None, "more than the 2 key/value heads"),
        (2, "trn1", "need no copies"),
        (5, "trn1", "do not divide"),
        (16, "trn1", "do not divide"),
    ],
)
def test_export_refuses_ranks_that_do_not_fit(
    tmp_path: Path, tp: int, copies: Literal["trn1"] | None, message: str
) -> None:
    write_checkpoint(tmp_path / "ours", COPIED, random_parameters(COPIED), num_ranks=1)
    with pytest.raises(UserError, match=message):
        export_nxd(tmp_path / "ours", tmp_path / "nxd", tp, copies)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "ours", SHAPE, random_parameters(SHAPE), num_ranks=1)

    def full_disk(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ndtrain.checkpoint.nxd_writer.write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        export_nxd(tmp_path / "ours", tmp_path / "nxd", num_ranks=2)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize(
    ("tp", "copies", "message"),
    [(3, 1, "num_key_value_heads * copies = 2"), (16, 8, "do not divide the query heads")],
)
def test_heads_that_ranks_cannot_share(tp: int, copies: int, message: str) -> None:
    shape = dataclasses.replace(COPIED, intermediate_size=48)
    problem = Layout(shape, tp, "fused", "fused", copies).problem()
    assert problem is not None
    assert message in problem
