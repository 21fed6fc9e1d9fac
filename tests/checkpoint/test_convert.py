"""Hugging Face -> ours -> Hugging Face is the identity, and transformers says so too."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from ndtrain.checkpoint import convert, hugging_face_writer, writer
from ndtrain.checkpoint.convert import export_folder, import_folder
from ndtrain.checkpoint.hugging_face import INDEX, SINGLE, HuggingFaceFolder
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.source import open_source
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape

from .folders import (
    LLAMA,
    SHAPE,
    TIED,
    LiveBytes,
    cuts,
    random_parameters,
    take,
    transformers_model,
    write_checkpoint,
)


def _all_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        loaded = load_file(path)
        assert not tensors.keys() & loaded.keys()
        tensors |= loaded
    return tensors


def _save(model: Any, folder: Path, shards: bool) -> Path:
    model.save_pretrained(folder, max_shard_size="8KB" if shards else "5GB")
    assert (folder / INDEX).exists() == shards
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shards", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("shape", [SHAPE, TIED, LLAMA], ids=["untied", "tied", "llama"])
def test_round_trip(tmp_path: Path, shape: Shape, shards: bool, dtype: torch.dtype) -> None:
    theirs = _save(transformers_model(shape, dtype), tmp_path / "theirs", shards)
    import_folder(theirs, tmp_path / "ours", max_file_bytes=6000)
    export_folder(tmp_path / "ours", tmp_path / "back", max_shard_bytes=8000 if shards else 10**9)
    before, after = _all_tensors(theirs), _all_tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])
        assert tensor.dtype == after[name].dtype
    assert (tmp_path / "back" / INDEX).exists() == shards
    assert Checkpoint(tmp_path / "ours").shape == HuggingFaceFolder(theirs).shape == shape


@pytest.mark.parametrize("shards", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("shape", [SHAPE, TIED, LLAMA], ids=["untied", "tied", "llama"])
def test_transformers_loads_what_we_write(tmp_path: Path, shape: Shape, shards: bool) -> None:
    parameters = random_parameters(shape)
    write_checkpoint(tmp_path / "ours", shape, parameters, num_ranks=2)
    export_folder(tmp_path / "ours", tmp_path / "theirs", 8000 if shards else 10**9)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", output_loading_info=True
    )
    peer, report = loaded
    assert not any(report.values()), report
    assert peer.dtype == torch.float32
    model = Qwen3(shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name] * 0.1)
        for parameter in peer.parameters():
            parameter *= 0.1
        tokens = torch.arange(20)[None] * 5 % shape.vocab_size
        ours = model.logits(model.hidden(tokens)).transpose(0, 1)
        torch.testing.assert_close(ours, peer(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shards", [False, True], ids=["single", "sharded"])
def test_a_tensor_rank_reads_its_part(tmp_path: Path, shards: bool) -> None:
    folder = HuggingFaceFolder(_save(transformers_model(SHAPE), tmp_path / "theirs", shards))
    for name, full in folder.tensors():
        for rank in range(4):
            dim, slices = cuts(name, full, SHAPE, 4, rank)
            if slices:
                assert torch.equal(folder.read(name, dim, slices), take(full, dim, slices))


def test_only_the_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = HuggingFaceFolder(_save(transformers_model(SHAPE), tmp_path / "theirs", shards=True))
    sizes: list[int] = []
    real = torch.empty

    def watched(*arguments: Any, **options: Any) -> Tensor:
        result = real(*arguments, **options)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr("ndtrain.checkpoint.assemble.torch.empty", watched)
    folder.read("layers.1.attention.qkv.weight", 0, [(0, 8), (32, 40)])
    assert sizes == [16 * SHAPE.hidden_size]


@pytest.mark.parametrize("direction", ["import", "export"])
def test_memory_of_one_file_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    shape = dataclasses.replace(SHAPE, num_layers=12)
    theirs = _save(transformers_model(shape), tmp_path / "theirs", shards=True)
    if direction == "export":
        import_folder(theirs, tmp_path / "ours")
    live = LiveBytes()
    for reader in (HuggingFaceFolder, Checkpoint):
        real = reader.read
        monkeypatch.setattr(
            reader, "read", lambda *arguments, real=real: live.watch(real(*arguments))
        )
    limit = 20_000
    if direction == "import":
        import_folder(theirs, tmp_path / "ours", max_file_bytes=limit)
    else:
        export_folder(tmp_path / "ours", tmp_path / "back", max_shard_bytes=limit)
    largest = 4 * shape.vocab_size * shape.hidden_size
    assert 4 * shape.num_parameters() > 6 * limit
    # One file and the tensor that no longer fits it; fused tensors may keep their other half.
    assert limit / 2 < live.peak <= limit + 2 * largest
    assert live.now == 0


def test_tied_head_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_ROWS", 7)
    theirs = _save(transformers_model(TIED), tmp_path / "theirs", shards=False)
    tensors = load_file(theirs / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, theirs / SINGLE, metadata={"format": "pt"})
    import_folder(theirs, tmp_path / "ours")
    assert "head.weight" not in dict(Checkpoint(tmp_path / "ours").tensors())

    tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, theirs / SINGLE, metadata={"format": "pt"})
    with pytest.raises(UserError, match="another head"):
        import_folder(theirs, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not writer.partial_of(tmp_path / "other").exists()


def test_tokenizer_travels(tmp_path: Path) -> None:
    theirs = _save(transformers_model(SHAPE), tmp_path / "theirs", shards=False)
    (theirs / "tokenizer.json").write_text('{"added_tokens": [{"id": 5, "content": "<end>"}]}')
    (theirs / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    (theirs / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    import_folder(theirs, tmp_path / "ours")
    export_folder(tmp_path / "ours", tmp_path / "back")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (theirs / name).read_bytes()
    (tmp_path / "ours" / "tokenizer" / "tokenizer.json").write_text("{" + " " * 55 + "}")
    with pytest.raises(UserError, match=r"tokenizer/tokenizer\.json"):
        export_folder(tmp_path / "ours", tmp_path / "again")


@pytest.mark.parametrize("end", ["<end>", {"content": "<end>"}])
def test_the_end_of_text_is_that_of_the_tokenizer(tmp_path: Path, end: Any) -> None:
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"id": 5, "content": "<end>"}]}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
    tensors = random_parameters(SHAPE).items()
    hugging_face_writer.write_folder(tmp_path / "out", SHAPE, "float32", tensors, tmp_path)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert peer.generation_config.eos_token_id == 5


def _edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _traverse(folder: Path) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    shutil.copy(folder / weight_map["model.norm.weight"], folder.parent / "out.safetensors")
    _edit_json(folder / INDEX, weight_map=weight_map | {"model.norm.weight": "../out.safetensors"})


def _misplace(folder: Path) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    other = weight_map["model.embed_tokens.weight"]
    assert weight_map["model.norm.weight"] != other
    _edit_json(folder / INDEX, weight_map=weight_map | {"model.norm.weight": other})


def _first_shard(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def _change_tensors(**changes: Tensor | None) -> Any:
    def change(folder: Path) -> None:
        tensors = _all_tensors(folder) | {k.replace("__", "."): v for k, v in changes.items()}
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / SINGLE)

    return change


def _to_pickles(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_traverse, "`../out.safetensors`, which is not a plain"),
        (_misplace, "model.norm.weight: not in the file"),
        (lambda f: _edit_json(f / INDEX, weight_map=3), "no `weight_map`"),
        (lambda f: (f / INDEX).write_text("["), "not JSON"),
        (lambda f: (f / INDEX).write_text("[]"), "not a JSON object"),
        (lambda f: _first_shard(f).unlink(), "model-00001-of-"),
        (lambda f: _first_shard(f).write_bytes(_first_shard(f).read_bytes()[:-9]), "model-00001"),
        (lambda f: _first_shard(f).write_bytes(b"\xff" * 64), "model-00001-of-"),
        (lambda f: (f / INDEX).unlink(), "no model.safetensors"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (_to_pickles, "pickles (`pytorch_model.bin`)"),
        (_change_tensors(model__norm__weight=None), "missing model.norm.weight"),
        (_change_tensors(model__norm__bias=torch.ones(24)), "unexpected model.norm.bias"),
        (_change_tensors(model__norm__weight=torch.ones(23)), "has shape [23], expected [24]"),
        (_change_tensors(model__norm__weight=torch.ones(24).int()), "is I32"),
        (_change_tensors(model__norm__weight=torch.ones(24) / 0), "`norm.weight` has values"),
        (
            _change_tensors(model__layers__0__self_attn__k_proj__weight=torch.ones(16, 24).half()),
            "other parts of the same matrix",
        ),
        (lambda f: _edit_json(f / "config.json", num_hidden_layers=3), "and 3 more"),
        (lambda f: _edit_json(f / "config.json", model_type="gpt2"), "model_type `gpt2`"),
    ],
)
def test_import_refuses_and_names(tmp_path: Path, damage: Any, message: str) -> None:
    folder = _save(transformers_model(SHAPE), tmp_path / "theirs", shards=True)
    damage(folder)
    with pytest.raises(UserError) as refusal:
        import_folder(folder, tmp_path / "ours")
    assert message in str(refusal.value)
    assert refusal.value.where.startswith(str(folder))
    assert refusal.value.help
    left = {path.name for path in tmp_path.iterdir()} - {"out.safetensors"}
    assert left == {"theirs"}


def test_derived_buffers_of_old_files_are_accepted(tmp_path: Path) -> None:
    folder = _save(transformers_model(LLAMA), tmp_path / "theirs", shards=True)
    _change_tensors(model__layers__1__self_attn__rotary_emb__inv_freq=torch.ones(4))(folder)
    import_folder(folder, tmp_path / "ours")


@pytest.mark.parametrize("convert_folder", [import_folder, export_folder])
def test_an_existing_destination_is_kept(tmp_path: Path, convert_folder: Any) -> None:
    theirs = _save(transformers_model(SHAPE), tmp_path / "theirs", shards=False)
    import_folder(theirs, tmp_path / "ours")
    source = theirs if convert_folder is import_folder else tmp_path / "ours"
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        convert_folder(source, full)
    assert [path.name for path in full.iterdir()] == ["notes"]
    empty = tmp_path / "empty"
    empty.mkdir()
    convert_folder(source, empty)
    assert open_source(empty).shape == SHAPE


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "ours", SHAPE, random_parameters(SHAPE), 1)

    def full_disk(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hugging_face_writer, "write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        export_folder(tmp_path / "ours", tmp_path / "theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_open_source_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights there"):
        open_source(tmp_path)
