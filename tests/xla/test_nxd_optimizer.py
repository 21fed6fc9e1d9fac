"""What neuronx-distributed's own ZeRO-1 optimizer saved goes on as a run of ours, and back.

Run with NDTRAIN_NXD naming a checkout at commit fbac34901a4a1b6ccfbc8cbc4f0be2bdfb8e0b44 (release
2.29); skipped without. See nxd_checkout.py for what stands in, nxd_zero.py for its collectives.

The right answer is torch.optim.AdamW's on the whole model; theirs computes in XLA and rounds so.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.checkpoint.convert import import_folder
from ndtrain.checkpoint.format import FIRST_MOMENT, MASTER, SECOND_MOMENT, Manifest, Piece
from ndtrain.checkpoint.nxd_writer import export_nxd
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.writer import begin, publish, write_files, write_rank, write_training
from ndtrain.config.schema import Optim
from ndtrain.models.qwen3.hugging_face import parameter_shapes
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.runtime import start_cpu
from ndtrain.train.optimizer_state import MasterWeights, load_moments
from ndtrain.train.prior_state import open_prior
from tests.parallel import small
from tests.rank_pool import RankPool
from tests.xla.nxd_checkout import checkout
from tests.xla.nxd_model import Style
from tests.xla.nxd_zero import BETAS, DECAY, EPS, LR, load_and_step, train_and_save

COPIED = dataclasses.replace(small.UNTIED, num_heads=8, num_kv_heads=2, head_dim=8, num_layers=1)
# Of a few roundings in fp32: numbers near 1, and moments that are sums of them.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def parameters(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Numbers that bf16 holds, so that gradients are the same in either dtype."""
    generator = torch.Generator().manual_seed(seed)
    shapes = parameter_shapes(shape)
    return {
        name: torch.randn(size, generator=generator).bfloat16().float()
        for name, size in shapes.items()
    }


def trained(shape: Shape, num_steps: int) -> dict[str, dict[str, Tensor]]:
    """Kind -> what torch's AdamW makes of the whole parameters."""
    leaves = {name: value.requires_grad_() for name, value in parameters(shape, 0).items()}
    groups = [
        {"params": [p for p in leaves.values() if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in leaves.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    for step in range(1, num_steps + 1):
        for name, gradient in parameters(shape, step).items():
            leaves[name].grad = gradient
        adamw.step()
    return {
        MASTER: {name: leaf.detach() for name, leaf in leaves.items()},
        **{
            kind: {name: adamw.state[leaf][kind] for name, leaf in leaves.items()}
            for kind in (FIRST_MOMENT, SECOND_MOMENT)
        },
    }


def one_step_more(folder: Path, shape: Shape) -> dict[str, Tensor]:
    """The parameters after a step of ours from an imported folder."""
    runtime = start_cpu(1, 1, shape.num_kv_heads)
    with torch.device("meta"):
        model = Qwen3(shape)
    shards = parallelize(model, runtime)
    prior = open_prior(str(folder))
    weights = MasterWeights(prior.checkpoint)
    optim = Optim(lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, clip_norm=None)
    optimizer = ShardedAdamW(model, shards, weights, runtime, optim, torch.float32, 20_000)
    load_moments(optimizer, shards, prior.checkpoint.state, prior.num_updates)
    gradients = parameters(shape, prior.num_updates + 1)
    optimizer.traffic.arm()
    loss = torch.zeros(())  # whose gradient is the one that is wanted
    for name, parameter in model.named_parameters():
        loss = loss + (parameter * gradients[name]).sum()
    loss.backward()
    optimizer.step(LR)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    """Its own: NxD's state and the stand-ins live as long as the processes."""
    checkout()
    made = RankPool(4)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("shape", "style", "tp", "copies", "is_sharded", "dtype"),
    [
        (small.SHAPE, "fused", 2, 1, True, torch.bfloat16),
        (small.LLAMA, "separate", 2, 1, True, torch.float32),
        (COPIED, "split", 4, 2, True, torch.bfloat16),
        (small.UNTIED, "split", 2, 1, False, torch.float32),
    ],
)
def test_a_run_goes_on_with_its_moments(
    pool: RankPool,
    tmp_path: Path,
    shape: Shape,
    style: Style,
    tp: int,
    copies: int,
    is_sharded: bool,
    dtype: torch.dtype,
) -> None:
    weights, gradients = parameters(shape, 0), [parameters(shape, step) for step in (1, 2)]
    source = tmp_path / "nxd"
    arguments = (source, shape, style, tp, weights, gradients, copies, is_sharded, dtype)
    pool.run(train_and_save, checkout(), *arguments)
    name = str(dtype).removeprefix("torch.")
    (source / "config.json").write_text(json.dumps(shape.to_hugging_face(name)))
    order = "trn1" if copies > 1 else None
    import_folder(source, tmp_path / "ours", kv_copies=order, with_optimizer=True)

    checkpoint, right = Checkpoint(tmp_path / "ours"), trained(shape, 2)
    assert checkpoint.manifest.step == 2
    assert checkpoint.state.has(MASTER) == (dtype == torch.bfloat16)
    for kind in right:
        for name, value in right[kind].items() if checkpoint.state.has(kind) else ():
            read = checkpoint.state.read(kind, name, 0, [(0, len(value))])
            torch.testing.assert_close(read, value, **ROUNDING)

    own = one_step_more(tmp_path / "ours", shape)
    for name, value in trained(shape, 3)[MASTER].items():
        torch.testing.assert_close(own[name], value, **ROUNDING)


@pytest.mark.parametrize(
    ("shape", "tp", "copies", "dtype"),
    [(small.SHAPE, 2, 1, torch.float32), (COPIED, 4, 2, torch.bfloat16)],
)
def test_its_optimizer_goes_on_with_ours(
    pool: RankPool, tmp_path: Path, shape: Shape, tp: int, copies: int, dtype: torch.dtype
) -> None:
    partial, files, state = begin(tmp_path / "run"), [], trained(shape, 2)
    weights = [(name, 0, [(0, len(v))], v.to(dtype)) for name, v in state[MASTER].items()]
    files += write_rank(partial, 0, weights)
    pieces = [
        (Piece(name, 0, ((0, len(v)),), kind, (0, v.numel())), v.flatten())
        for kind, values in state.items()
        for name, v in values.items()
    ]
    files += write_files(partial, "state_0000", pieces)
    optim = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY}
    files.append(write_training(partial, {"num_updates": 2, "config": {"optim": optim}}))
    name = str(dtype).removeprefix("torch.")
    publish(partial, tmp_path / "run", Manifest(shape, name, tuple(files), 2))

    order = "trn1" if copies > 1 else None
    export_nxd(tmp_path / "run", tmp_path / "nxd", tp, order, num_parts=4 // tp)
    right = trained(shape, 3)[MASTER]
    gradient = parameters(shape, 3)
    arguments = (tmp_path / "nxd", shape, tp, gradient, right, copies, dtype)
    pool.run(load_and_step, checkout(), *arguments)
