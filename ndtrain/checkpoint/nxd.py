"""Reads the weights that neuronx-distributed has saved, under our names, one parameter at a time.

    folder = NxdFolder(model_folder, kv_copies=None)      # see nxd_files.find_model_folder
    for name, tensor in folder.tensors(): ...

Names, shapes and dtypes are checked at opening; that copies are equal, when they are read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ndtrain.checkpoint.hugging_face import CONFIG, TIED_HEAD, read_shape
from ndtrain.checkpoint.nxd_files import MODEL, open_rank, rank_files
from ndtrain.checkpoint.nxd_layout import (
    ATTENTIONS,
    MLPS,
    Layout,
    Part,
    mlp_keys,
    qkv_keys,
)
from ndtrain.core.errors import UserError
from ndtrain.models.qwen3.hugging_face import parameter_shapes
from ndtrain.models.qwen3.shape import Shape

KvCopies = Literal["trn1"]

_QKV = "layers.0.attention.qkv.weight"
_GATE_UP = "layers.0.mlp.gate_up.weight"
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DERIVED = "rotary_emb.inv_freq"  # a buffer that follows from rope_theta


class NxdFolder:
    """The files of all tensor ranks, with the model's config.json beside or above them.

    kv_copies: in whose order the heads lie where key/value heads are held several times. It
    cannot be told from the files, so it is None only for checkpoints without copies. Trainium2's
    order is refused: neuronx-distributed initialises copies there row by row, and converts
    them in another order.

    Raises UserError for what the files or config.json do not say clearly.
    """

    def __init__(self, model_folder: Path, kv_copies: KvCopies | None = None) -> None:
        self.model_folder = model_folder
        self.folder = _config_folder(model_folder)
        self.shape = read_shape(self.folder)
        self._paths = rank_files(model_folder)
        self._ranks = [open_rank(path) for path in self._paths]
        self._layout = _find_layout(self.shape, self._ranks, model_folder, kv_copies)
        self.shapes = parameter_shapes(self.shape)
        for rank in range(len(self._ranks)):
            self._check_rank(rank)

    @property
    def num_ranks(self) -> int:
        return len(self._ranks)

    @property
    def has_tied_head(self) -> bool:
        """Whether the files repeat the embedding as a head."""
        return self.shape.tie_embeddings and TIED_HEAD in self._ranks[0]

    @property
    def dtype(self) -> str:
        """torch's name of the dtype of the embedding."""
        (part,) = self._layout.parts("embedding.weight", 0)
        return str(self._ranks[0][part.key].dtype).removeprefix("torch.")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter whole, one at a time, in the model's order."""
        for name in self.shapes:
            yield name, self.read_whole(name)

    def read(self, name: str, dim: int, slices: Sequence[tuple[int, int]]) -> Tensor:
        """Our parameter `name`'s slices along dim one after the other; stored dtype."""
        full = self.read_whole(name)
        return torch.cat([full.narrow(dim, start, stop - start) for start, stop in slices], dim)

    def read_tied_head(self, start: int, stop: int) -> Tensor:
        """Rows of the head that the files repeat; see `has_tied_head`."""
        rows = self.shape.vocab_size // len(self._ranks)
        first, last = start // rows, (stop - 1) // rows
        heads = [self._ranks[rank][TIED_HEAD] for rank in range(first, last + 1)]
        return torch.cat(heads)[start - first * rows : stop - first * rows]

    def read_whole(self, name: str) -> Tensor:
        """Our parameter `name`; stored dtype."""
        return self.assemble(name, self.tensor)

    def tensor(self, rank: int, key: str) -> Tensor:
        """A rank's tensor under its name in the file."""
        return self._ranks[rank][key]

    def trained_keys(self) -> list[str]:
        """Names of a rank's tensors in the order of the model's parameters, each of them once."""
        tied = TIED_HEAD if self.shape.tie_embeddings else None
        return [key for key in self._ranks[0] if key != tied and not key.endswith(_DERIVED)]

    def assemble(self, name: str, of_rank: Callable[[int, str], Tensor]) -> Tensor:
        """What of_rank(rank, key) returns for the parts of our parameter `name`, put together.

        Raises UserError if copies that several ranks hold differ.
        """
        first = of_rank(0, self._layout.parts(name, 0)[0].key)
        result = torch.empty(self.shapes[name], dtype=first.dtype)
        written: set[tuple[int, int]] = set()
        for rank in range(self.num_ranks):
            for part in self._layout.parts(name, rank):
                tensor, position = of_rank(rank, part.key), 0
                for start, stop in part.slices:
                    size = stop - start
                    ours = result.narrow(part.dim, start, size)
                    theirs = tensor.narrow(part.dim, position, size)
                    position += size
                    if (start, stop) not in written:
                        ours.copy_(theirs)
                        written.add((start, stop))
                    elif not torch.equal(ours, theirs):
                        raise self._other_copy(part.key, rank)
        return result

    def _other_copy(self, key: str, rank: int) -> UserError:
        help_text = "the ranks' files are not of one save, or the ranks drifted apart in training"
        if self._layout.num_kv_copies > 1 and "self_attn" in key:
            help_text = f"the heads are not in Trainium1's order, or {help_text}"
        return UserError(
            f"`{key}` differs from the copy that another rank holds",
            str(self._paths[rank]),
            help_text,
        )

    def _check_rank(self, rank: int) -> None:
        tensors, where = self._ranks[rank], str(self._paths[rank])
        expected: set[str] = set()
        for name, full_shape in self.shapes.items():
            dtypes = set()
            for part in self._layout.parts(name, rank):
                expected.add(part.key)
                dtypes.add(_checked(tensors, part, full_shape, where).dtype)
            first = self._ranks[0][self._layout.parts(name, 0)[0].key]
            if dtypes != {first.dtype}:
                raise UserError(
                    f"the parts of `{name}` are of several dtypes",
                    where,
                    "convert the weights to one dtype",
                )
        if self.has_tied_head:
            part = Part(TIED_HEAD, 0, self._layout.parts("embedding.weight", rank)[0].slices)
            _checked(tensors, part, self.shapes["embedding.weight"], where)
            expected.add(TIED_HEAD)
        unexpected = sorted(k for k in tensors.keys() - expected if not k.endswith(_DERIVED))
        if unexpected:
            raise UserError(
                f"unexpected `{unexpected[0]}`", where, "the weights belong to another model"
            )


def _checked(
    tensors: Mapping[str, Tensor], part: Part, full_shape: Sequence[int], where: str
) -> Tensor:
    tensor = tensors.get(part.key)
    if tensor is None:
        raise UserError(f"`{part.key}` is missing", where, "take config.json of the same model")
    expected = list(full_shape)
    expected[part.dim] = part.size()
    if list(tensor.shape) != expected:
        raise UserError(
            f"`{part.key}` has shape {list(tensor.shape)}, expected {expected}",
            where,
            "the weights belong to another configuration, or are padded, which is not supported",
        )
    if tensor.dtype not in _DTYPES:
        raise UserError(
            f"`{part.key}` is {tensor.dtype}: such weights are not supported",
            where,
            "legal here: float64, float32, float16, bfloat16",
        )
    return tensor


def _config_folder(model_folder: Path) -> Path:
    """The nearest folder with a config.json: of the files, of the tag, of the checkpoints."""
    absolute = model_folder.absolute()
    candidates = [absolute]
    if absolute.name == MODEL:
        candidates += [absolute.parent, absolute.parent.parent]
    for folder in candidates:
        if (folder / CONFIG).is_file():
            return folder
    raise UserError(
        f"no {CONFIG}: neuronx-distributed saves weights without their configuration",
        str(model_folder),
        f"copy the {CONFIG} of the Hugging Face model into this folder",
    )


def _find_layout(
    shape: Shape,
    ranks: Sequence[Mapping[str, Tensor]],
    model_folder: Path,
    kv_copies: KvCopies | None,
) -> Layout:
    """Which layers held the attention and the MLP, by the keys of rank 0."""
    tensors, where = ranks[0], str(model_folder)
    attentions = [kind for kind in ATTENTIONS if qkv_keys(_QKV, kind)[0] in tensors]
    mlps = [kind for kind in MLPS if mlp_keys(_GATE_UP, kind)[0] in tensors]
    if len(attentions) != 1 or len(mlps) != 1:
        what = "attention" if len(attentions) != 1 else "MLP"
        raise UserError(
            f"layer 0 has no {what} under neuronx-distributed's names",
            where,
            "give the state_dict of a Llama or Qwen3 model with Hugging Face's names of modules",
        )
    keys = qkv_keys(_QKV, attentions[0])
    rows = sum(tensors[key].shape[0] for key in keys if key in tensors) * len(ranks)
    num_copies, rest = divmod(rows - shape.query_dim, 2 * shape.kv_dim)
    if rest or num_copies < 1:
        raise UserError(
            f"layer 0 has {rows} rows of query, key and value heads on all ranks together",
            where,
            f"config.json says {shape.query_dim} + 2 * {shape.kv_dim}: take that of these weights",
        )
    if num_copies > 1 and kv_copies is None:
        raise UserError(
            f"each key/value head is held {num_copies} times, and the order of the heads is not in "
            "the files",
            where,
            "add --kv-copies trn1 if they were trained on Trainium1; no other order is supported",
        )
    if num_copies == 1 and kv_copies is not None:
        raise UserError(
            "--kv-copies was given, but each key/value head is held once", where, "leave it out"
        )
    layout = Layout(shape, len(ranks), attentions[0], mlps[0], num_copies)
    problem = layout.problem()
    if problem:
        raise UserError(problem, where, "take config.json of the same model")
    return layout
