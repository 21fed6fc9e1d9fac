"""A rank that steps with neuronx-distributed's ZeRO-1 optimizer, and saves or loads.

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
    state = start(root, tp)
    _carry_collectives(state)
    model = _on_device(build(shape, weights, style, copies).to(dtype), shape, is_sharded)
    optimizer = _optimizer(model, is_sharded)
    for gradient in gradients:
        _step(state, model, optimizer, build(shape, gradient, style, copies), is_sharded)
    module("trainer.checkpoint").save_checkpoint(
        str(folder), f"step_{len(gradients)}", model=model, optimizer=optimizer
    )


def load_and_step(
    rank: int,
    root: Path,
    folder: Path,
    shape: Shape,
    tp: int,
    gradient: dict[str, Tensor],
    right: dict[str, Tensor],
    copies: int,
    dtype: torch.dtype,
) -> None:
    """One step from what a folder holds, on zeros until it is loaded; then it compares.

    right: what the whole parameters are to be.
    """
    state = start(root, tp)
    _carry_collectives(state)
    zeros = {name: torch.zeros_like(value) for name, value in right.items()}
    model = _on_device(build(shape, zeros, "fused", copies).to(dtype), shape, True)
    optimizer = _optimizer(model, True)
    module("trainer.checkpoint").load_checkpoint(str(folder), model=model, optimizer=optimizer)
    _step(state, model, optimizer, build(shape, gradient, "fused", copies), True)
    expected = build(shape, right, "fused", copies).state_dict()
    eps = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value.cpu().float(), expected[name], rtol=eps, atol=1e-6)


def _step(state: Any, model: Any, optimizer: Any, gradients: Any, is_sharded: bool) -> None:
    """gradients: a model whose parameters are this tensor rank's; the mean over the data axis."""
    shares = (2.0, 0.0) if is_sharded and state.get_data_parallel_size() == 2 else (1.0, 1.0)
    share = shares[state.get_data_parallel_rank()]
    values = dict(gradients.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.grad = (share * values[name].detach()).to(parameter.device, parameter.dtype)
    optimizer.step()


def _optimizer(model: Any, is_sharded: bool) -> Any:
    settings = {"lr": LR, "betas": BETAS, "eps": EPS}
    if not is_sharded:
        return torch.optim.AdamW(_groups(model), **settings)
    return module("optimizer").NeuronZero1Optimizer(
        _groups(model),
        torch.optim.AdamW,
        optimizer_dtype=torch.float32,
        grad_clipping=False,
        pin_layout=False,
        save_master_weights=model.lm_head.weight.dtype != torch.float32,
        **settings,
    )


def _on_device(model: Any, shape: Shape, is_sharded: bool) -> Any:
    """ZeRO-1 shards parameters of torch-xla's device alone."""
    import torch_xla

    if is_sharded:
        model = model.to(torch_xla.device())
    _tie(model, shape)  # what `to` parted
    return model


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
