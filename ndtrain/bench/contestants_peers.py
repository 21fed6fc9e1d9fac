"""The peers: transformers' Qwen3 on one rank, and under PyTorch's DTensor on all ranks.

Both are the same `Qwen3ForCausalLM` with the same weights as ours. DTensor shards it as PyTorch's
own tensor-parallel recipe does: residual stream along the sequence, one all-gather in front of
q, k, v and of gate, up, one reduce-scatter behind o and down, embedding, head and loss by rows of
the vocabulary.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

from ndtrain.bench import peer_model
from ndtrain.bench.batch import make_batch
from ndtrain.bench.contestant import Contestant
from ndtrain.bench.workload import Workload


class Transformers(Contestant):
    """The whole model on rank 0, while the other ranks wait."""

    name = "transformers"
    uses_all_ranks = False
    has_loss = True

    def __init__(self) -> None:
        peer_model.require_transformers()

    def setup(self, workload: Workload) -> None:
        self._works = dist.get_rank() == 0
        if not self._works:
            return
        self.model = peer_model.build(workload)
        for name, value in peer_model.weights(workload):
            peer_model.set_parameter(self.model, name, value)
        self._tokens_BS, self._targets_BS = make_batch(workload)

    def step(self) -> float:
        if not self._works:
            return math.nan
        self.model.zero_grad(set_to_none=True)
        hidden_BSH = self.model.model(input_ids=self._tokens_BS, use_cache=False).last_hidden_state
        logits_BSV = self.model.lm_head(hidden_BSH)
        loss = peer_model.mean_cross_entropy(logits_BSV, self._targets_BS)
        loss.backward()
        return loss.item()


class DTensorPeer(Contestant):
    """Tensor and sequence parallelism by `parallelize_module`."""

    name = "dtensor"
    uses_all_ranks = True
    has_loss = True

    def __init__(self) -> None:
        peer_model.require_transformers()

    def setup(self, workload: Workload) -> None:
        self._mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tensor",))
        self.model = peer_model.build(workload)
        parallelize_module(self.model, self._mesh, _plan(workload.shape.num_layers))
        for name, value in peer_model.weights(workload):
            (placement,) = self.model.get_parameter(name).placements
            peer_model.set_parameter(self.model, name, _distribute(value, placement, self._mesh))
        self._tokens_BS, self._targets_BS = make_batch(workload)
        # The model would count positions and build a mask from the shard's length.
        self._positions_BS = torch.arange(workload.sequence_length)[None]
        self._causal: dict[str, None] = {"full_attention": None}  # SDPA's own causal flag

    def step(self) -> float:
        self.model.zero_grad(set_to_none=True)
        with loss_parallel():
            hidden = self.model.model(
                input_ids=self._tokens_BS,
                position_ids=self._positions_BS,
                attention_mask=self._causal,
                use_cache=False,
            ).last_hidden_state
            loss = peer_model.mean_cross_entropy(self.model.lm_head(hidden), self._targets_BS)
            loss.backward()
        self._sum_partial_gradients()
        return loss.item()

    def _sum_partial_gradients(self) -> None:
        """Norm weights see a shard of the tokens or heads; DTensor leaves their sums to whoever
        reads the gradient, one small all-reduce each. Here they share one."""
        partial = [
            parameter
            for parameter in self.model.parameters()
            if parameter.grad.placements[0].is_partial()
        ]
        flat = torch.cat([parameter.grad.to_local().flatten() for parameter in partial])
        dist.all_reduce(flat)
        for parameter, total in zip(partial, flat.split([p.numel() for p in partial]), strict=True):
            parameter.grad = DTensor.from_local(
                total.view(parameter.shape), self._mesh, [Replicate()], run_check=False
            )


def _distribute(full: Tensor, placement: Placement, mesh: DeviceMesh) -> DTensor:
    """Own part of a tensor that every rank has, without the broadcast of `distribute_tensor`."""
    if isinstance(placement, Shard):
        # A copy, or the view would keep the whole tensor alive.
        full = full.chunk(mesh.size(), placement.dim)[mesh.get_local_rank()].clone()
    return DTensor.from_local(full, mesh, [placement], run_check=False)


def _plan(num_layers: int) -> dict[str, ParallelStyle]:
    """Activations are [B, S, H]: dim 1 is the sequence; heads are dim 2 of [B, S, N, D]."""
    plan: dict[str, ParallelStyle] = {
        "model.embed_tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "model.norm": SequenceParallel(),
        "lm_head": ColwiseParallel(
            input_layouts=Shard(1), output_layouts=Shard(-1), use_local_output=False
        ),
    }
    block: dict[str, ParallelStyle] = {
        "input_layernorm": SequenceParallel(),
        "self_attn": PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": Shard(1)},
            desired_input_kwarg_layouts={"hidden_states": Replicate()},
        ),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.q_norm": SequenceParallel(sequence_dim=2, use_local_output=True),
        "self_attn.k_norm": SequenceParallel(sequence_dim=2, use_local_output=True),
        "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1)),
        "post_attention_layernorm": SequenceParallel(),
        "mlp": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1)),
    }
    for layer in range(num_layers):
        plan |= {f"model.layers.{layer}.{name}": style for name, style in block.items()}
    return plan
