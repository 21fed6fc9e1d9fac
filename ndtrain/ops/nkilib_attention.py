"""`ops.attention=nkilib`: AWS's nki-library, `attention_cte` forward and `attention_bwd` backward.

On Neuron the installed package runs; on a CPU the simulator runs the checkout that the variable
NDTRAIN_NKI_LIBRARY names (written for commit d2ad3a5). bf16, documents included, trn2 and later;
lengths are multiples of 128 and, above 512, of 512. Nothing of it is part of ndtrain.

T tiles of 128 tokens: token 128 t + p is at [p, t]. Other letters as in `ops/attention.py`.
"""

import importlib.util
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from ndtrain.core.errors import UserError
from ndtrain.ops.nki_launch import Kernel, Launch, NeuronCore, Simulator

VARIABLE = "NDTRAIN_NKI_LIBRARY"
PACKAGES = ("nkilib", "nkilib_src.nkilib")  # installed, and in the source tree
SIMULATED_TARGET = "trn2"
ROW_TILE, KEY_TILE = 128, 512


def divides(sequence_length: int) -> bool:
    """Whether `attention_bwd` takes this length."""
    return sequence_length % ROW_TILE == 0 and sequence_length % min(KEY_TILE, sequence_length) == 0


def add_checkout() -> None:
    """Makes the user's checkout importable. Raises UserError where there is none."""
    folder = os.environ.get(VARIABLE)
    source = Path(folder or "", "src")
    if not folder or not (source / "nkilib_src").is_dir():
        raise UserError(
            "ops.attention=nkilib runs nki-library from a checkout on a CPU, and there is none",
            f"{VARIABLE}={folder or ''}",
            "git clone https://github.com/aws-neuron/nki-library, and let the variable name it",
        )
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))


class LibraryAttention:
    """Forward and backward with one launch."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def _kernel(self, name: str) -> Kernel:
        package = next((p for p in PACKAGES if importlib.util.find_spec(p.split(".")[0])), "nkilib")
        return self._launch.load(package, f"core.attention.{name}", name)

    def forward(
        self,
        q_SBND: Tensor,
        k_SBKD: Tensor,
        v_SBKD: Tensor,
        starts_BS: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        kernel = self._kernel("attention_cte")
        if starts_BS is not None:  # its masks of documents do not go together with a scale
            q_SBND, scale = q_SBND * scale, 1.0
        heads_first = [x.permute(1, 2, 0, 3) for x in (q_SBND, k_SBKD, v_SBKD)]  # [B, heads, S, D]
        pieces = []
        for rows in _launches(q_SBND, starts_BS):
            pieces.append(
                self._launch(
                    kernel,
                    *(x[rows].flatten(0, 1) for x in heads_first),
                    scale=scale,
                    causal_mask=True,
                    tp_q=True,
                    tp_k=True,
                    tp_out=False,
                    cache_softmax=True,
                    **_bounds(starts_BS, rows, column=True),
                )
            )
        out_HSD, negative_largest, reciprocal_sum = (
            torch.cat(x) for x in zip(*pieces, strict=True)
        )
        lse_HPT = -negative_largest.float() - reciprocal_sum.float().log()
        batch_and_heads = (q_SBND.shape[1], q_SBND.shape[2])
        out_SBND = out_HSD.unflatten(0, batch_and_heads).permute(2, 0, 1, 3)
        return out_SBND.contiguous(), _flat(lse_HPT).unflatten(0, batch_and_heads).contiguous()

    def backward(
        self,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        starts: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernel = self._kernel("attention_bwd")
        columns = [x.permute(1, 2, 3, 0) for x in (q, k, v, out, dout)]  # [B, heads, D, S]
        lse_BNPT = _tiled(lse)
        pieces = []
        for rows in _launches(q, starts):
            pieces.append(
                self._launch(
                    kernel,
                    *(x[rows] for x in columns),
                    lse_BNPT[rows],
                    use_causal_mask=True,
                    mixed_precision=True,
                    softmax_scale=scale,
                    **_bounds(starts, rows, column=False),
                )
            )
        gradients = (torch.cat(x) for x in zip(*pieces, strict=True))
        dq, dk, dv = (x.permute(3, 0, 1, 2).contiguous() for x in gradients)
        return dq, dk, dv


SIMULATED = LibraryAttention(Simulator(SIMULATED_TARGET))
ON_DEVICE = LibraryAttention(NeuronCore())


def _launches(q_SBND: Tensor, starts_BS: Tensor | None) -> list[slice]:
    """Rows of the batch that share a launch: with documents one, for a launch has one mask."""
    batch = q_SBND.shape[1]
    if starts_BS is None:
        return [slice(0, batch)]
    return [slice(row, row + 1) for row in range(batch)]


def _bounds(starts_BS: Tensor | None, rows: slice, column: bool) -> dict[str, Tensor]:
    """First and last + 1 key that each query may see, [S] or [S, 1] in fp32."""
    if starts_BS is None:
        return {}
    first_S = starts_BS[rows][0].float()
    # To the end of the row: the causal mask hides what comes later.
    last_S = torch.full_like(first_S, first_S.shape[0])
    bounds = {"bound_min": first_S, "bound_max": last_S}
    return {name: x[:, None] if column else x for name, x in bounds.items()}


def _flat(lse_BNPT: Tensor) -> Tensor:
    return lse_BNPT.transpose(-1, -2).flatten(-2).contiguous()


def _tiled(lse_BNS: Tensor) -> Tensor:
    return lse_BNS.unflatten(-1, (-1, ROW_TILE)).transpose(-1, -2)
