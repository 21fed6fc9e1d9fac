"""`ops.attention=nxd`: the flash attention of neuronx-distributed, for trn1's torch-xla stack.

Its autograd function hides the log-sum-exp, so the two functions below it are called (signatures of
release 2.29, commit fbac349; they exist up to Neuron 2.29). Lengths are multiples of 2048, one
document a row. Key and value heads are repeated here, for the kernel takes one a query head.
Never run on hardware.

P, T: token 128 t + p is at [p, t]. Other letters as in `ops/attention.py`.
"""

import importlib
from typing import Any

from torch import Tensor

MODULE = "neuronx_distributed.kernels.flash_attn"
SEQUENCE_MULTIPLE = 2048
ROW_TILE = 128


def forward(
    q_SBND: Tensor, k_SBKD: Tensor, v_SBKD: Tensor, starts_BS: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    assert starts_BS is None, "refused when the run starts"
    module, num_groups = importlib.import_module(MODULE), q_SBND.shape[2] // k_SBKD.shape[2]
    out_BNSD, lse_BNPT = module._flash_attn_forward(
        _columns(q_SBND),
        _columns(k_SBKD.repeat_interleave(num_groups, dim=2)),
        _columns(v_SBKD.repeat_interleave(num_groups, dim=2)),
        seed=module.get_seed(0.0, q_SBND.device),
        dropout_p=0.0,
        softmax_scale=scale,
        transpose_nki_inputs=True,
        **_OPTIONS,
    )
    lse_BNS = lse_BNPT.transpose(-1, -2).flatten(-2).float()
    return out_BNSD.permute(2, 0, 1, 3).contiguous(), lse_BNS.contiguous()


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    module, num_groups = importlib.import_module(MODULE), q.shape[2] // k.shape[2]
    gradients = module._flash_attn_backward(
        _columns(q),
        _columns(k.repeat_interleave(num_groups, dim=2)),
        _columns(v.repeat_interleave(num_groups, dim=2)),
        _columns(out),
        _columns(dout),
        lse.unflatten(-1, (-1, ROW_TILE)).transpose(-1, -2).contiguous(),
        seed=module.get_seed(0.0, q.device),
        dropout_p=0.0,
        softmax_scale=scale,
        **_OPTIONS,
    )
    dq, dk, dv = (x.permute(3, 0, 1, 2) for x in gradients)
    grouped = (k.shape[2], num_groups)
    dk, dv = (x.unflatten(2, grouped).sum(3) for x in (dk, dv))
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


_OPTIONS: dict[str, Any] = {
    "causal": True,
    "mixed_precision": True,
    "lnc": 1,  # trn1 has no logical cores of two
    "use_sharded": False,
}


def _columns(x_SBND: Tensor) -> Tensor:
    """[B, heads, D, S]."""
    return x_SBND.permute(1, 2, 3, 0).contiguous()
