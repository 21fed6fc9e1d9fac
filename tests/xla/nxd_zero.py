"""A rank that trains a few steps with neuronx-distributed's ZeRO-1 optimizer and saves.

Its device is torch-xla's, which reaches no other process: gloo carries what the optimizer hands to
torch-xla's collectives. Each data-parallel rank has another gradient; their mean is what was asked.
"""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ndtrain.models.qwen3.shape import Shape
from tests.xla.nxd_checkout import install, module
from tests.xla.nxd_model import Style, build

LR, BETAS, EPS, DECAY = 1e-2, (0.9, 0.95), 1e-8, 0.1


def start(root: Path, tp: int) -> Any:
    """NxD's model parallelism of this rank, its groups on gloo; returns the parallel state."""
    os.environ["NXD_CPU_MODE"] = "1"
    install(root)
    state = module("parallel_layers.parallel_state")
    state.destroy_model_parallel()  # of the test before
    state.destroy_kv_group()
    state.initialize_model_parallel(tensor_model_parallel_size=tp)
    return state


def train_and_save(
    rank: int,
    root: Path,
    folder: Path,
    shape: Shape,
    style: Style,
    tp: int,
    weights: dict[str, Tensor],
    gradients: list[dict[str, Tensor]],
    copies: int = 1,
    is_sharded: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    """weights, gradients: whole, under our names; one dictionary a step.

    is_sharded: by ZeRO-1; else torch's AdamW on every rank, which has the mean gradient then.
    """
    import torch_xla

    state = start(root, tp)
    _carry_collectives(state)
    model = build(shape, weights, style, copies).to(dtype)
    _tie(model, shape)
    if is_sharded:
        model = model.to(torch_xla.device())
        _tie(model, shape)
    groups = _groups(model)
    if is_sharded:
        optimizer = module("optimizer").NeuronZero1Optimizer(
            groups,
            torch.optim.AdamW,
            optimizer_dtype=torch.float32,
            grad_clipping=False,
            pin_layout=False,
            save_master_weights=dtype != torch.float32,
            lr=LR,
            betas=BETAS,
            eps=EPS,
        )
    else:
        optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    shares = (2.0, 0.0) if is_sharded and state.get_data_parallel_size() == 2 else (1.0, 1.0)
    share = shares[state.get_data_parallel_rank()]
    for gradient in gradients:
        of_step = dict(build(shape, gradient, style, copies).named_parameters())
        for name, parameter in model.named_parameters():
            parameter.grad = (share * of_step[name].detach()).to(parameter.device, dtype)
        optimizer.step()
    module("trainer.checkpoint").save_checkpoint(
        str(folder), f"step_{len(gradients)}", model=model, optimizer=optimizer
    )


def _tie(model: Any, shape: Shape) -> None:
    if shape.tie_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight


def _groups(model: Any) -> list[dict[str, Any]]:
    """As NxD's examples make them: norms, and whatever has a bias, are not decayed."""
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if "norm" not in name], "weight_decay": DECAY},
        {"params": [p for name, p in named if "norm" in name], "weight_decay": 0.0},
    ]


def _carry_collectives(state: Any) -> None:
    """torch-xla's collectives over the data axis, through the host."""
    import torch_xla.core.xla_model as xm
    import torch_xla.runtime as xla_runtime

    group = state.get_data_parallel_group()
    rank, size = state.get_data_parallel_rank(), state.get_data_parallel_size()

    def reduce_scatter(_: str, tensor: Tensor, scale: float, **options: Any) -> Tensor:
        total = tensor.detach().cpu()
        dist.all_reduce(total, group=group)
        return (total.chunk(size)[rank] * scale).to(tensor.device)

    def all_gather(tensor: Tensor, **options: Any) -> Tensor:
        own = tensor.detach().cpu().contiguous()
        parts = [torch.empty_like(own) for _ in range(size)]
        dist.all_gather(parts, own, group=group)
        return torch.cat(parts).to(tensor.device)

    xm.reduce_scatter, xm.all_gather = reduce_scatter, all_gather
    xla_runtime.global_ordinal = dist.get_rank
