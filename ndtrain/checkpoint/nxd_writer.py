"""Writes a folder that neuronx-distributed's `load_checkpoint` reads, one rank's file at a time.

    export_nxd(Path("runs/small"), Path("exported"), num_ranks=8)

DEST/step_00000100/model/dp_rank_00_tp_rank_XX_pp_rank_00.pt with the names of
GQAQKVColumnParallelLinear (fuse_qkv=True, its default) and of a fused gate_up_proj, a file `done`,
and DEST/config.json with the tokenizer; AdamW's state if wanted (nxd_optimizer_writer.py). Memory
for one rank's file is enough.
Loaded by neuronx-distributed's own code (2.29) on a CPU, never on Trainium.
"""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from ndtrain.checkpoint.hugging_face import CONFIG, TIED_HEAD
from ndtrain.checkpoint.nxd import KvCopies
from ndtrain.checkpoint.nxd_files import DONE, MODEL, OPTIMIZER, file_name
from ndtrain.checkpoint.nxd_layout import Layout, in_module_order
from ndtrain.checkpoint.nxd_optimizer_writer import write_optimizer
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.source import open_checkpoint
from ndtrain.checkpoint.writer import (
    begin,
    copy_tokenizer_files,
    fsync_file,
    rename_folder,
    require_free,
)
from ndtrain.core.atomic import fsync_folder, write_json, write_text
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.shape import Shape


def export_nxd(
    source: Path,
    destination: Path,
    num_ranks: int,
    kv_copies: KvCopies | None = None,
    num_parts: int | None = None,
) -> None:
    """A checkpoint, or a run directory's newest one -> files for `num_ranks` tensor ranks.

    kv_copies: the order of heads for which key/value heads are copied; needed where there are
    more ranks than key/value heads, refused elsewhere. num_parts: data-parallel ranks among which
    AdamW's state is cut; None: weights alone.
    Raises UserError if the ranks cannot hold the model in equal parts, if the source is damaged or
    the destination is taken.
    """
    checkpoint = open_checkpoint(source)
    layout = _layout(checkpoint.shape, num_ranks, kv_copies)
    checkpoint.verify()
    partial = begin(destination)
    try:
        step = checkpoint.manifest.step
        tag = partial / ("imported" if step is None else f"step_{step:08d}")
        (tag / MODEL).mkdir(parents=True)
        for rank in range(num_ranks):
            path = tag / MODEL / file_name(rank)
            torch.save(_rank_tensors(checkpoint, layout, rank), path)
            fsync_file(path)
        if num_parts is not None:
            write_optimizer(checkpoint, layout, tag / OPTIMIZER, num_parts)
            fsync_folder(tag / OPTIMIZER)
        write_json(partial / CONFIG, checkpoint.shape.to_hugging_face(checkpoint.manifest.dtype))
        if checkpoint.tokenizer_folder is not None:
            copy_tokenizer_files(checkpoint.tokenizer_folder, partial)
        # neuronx-distributed lists a tag by the first file, and counts it as complete by the other.
        write_text(tag / "checkpoint", "1")
        write_text(tag / DONE, "1")
        fsync_folder(tag / MODEL)
        require_free(destination)
        rename_folder(partial, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _rank_tensors(checkpoint: Checkpoint, layout: Layout, rank: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in in_module_order(layout.shape):
        for part in layout.parts(name, rank):
            tensors[part.key] = checkpoint.read(name, part.dim, part.slices)
            if name == "embedding.weight" and layout.shape.tie_embeddings:
                tensors[TIED_HEAD] = tensors[part.key]  # one storage in the file, as in the model
    return tensors


def _layout(shape: Shape, num_ranks: int, kv_copies: KvCopies | None) -> Layout:
    needs_copies = num_ranks > shape.num_kv_heads
    if needs_copies and kv_copies is None:
        raise UserError(
            f"{num_ranks} tensor ranks are more than the {shape.num_kv_heads} key/value heads",
            "the command line",
            "add --kv-copies trn1 for Trainium1's order of copies, or use fewer ranks",
        )
    if kv_copies is not None and not needs_copies:
        raise UserError(
            f"{num_ranks} tensor ranks need no copies of {shape.num_kv_heads} key/value heads",
            "the command line",
            "leave --kv-copies out",
        )
    num_copies = num_ranks // shape.num_kv_heads if needs_copies else 1
    layout = Layout(shape, num_ranks, "fused", "fused", num_copies)
    problem = layout.problem()
    if problem:
        raise UserError(problem, "the command line", "choose another --tp")
    return layout
