"""`ops.attention=nki-sim`: the NKI attention kernels, run by the simulator of the NeuronCore.

The numbers are those of the kernels that a Trainium would run (bf16 or fp32 in and out, fp32
statistics), at the speed of a simulation: for models of test size. The layouts are those of
`ops/attention.py`, so nothing is transposed. Needs the extra `nkisim`.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndtrain import nkisim
from ndtrain.core.errors import UserError

TARGET = "trn1"  # the strictest: NKI 0.2 and the smaller on-chip memory


def require() -> None:
    """Raises UserError where the simulator cannot run."""
    if importlib.util.find_spec("ml_dtypes") is None:
        raise UserError(
            "ops.attention=nki-sim needs the package ml_dtypes",
            "ops.attention",
            "pip install 'ndtrain[nkisim]', or use ops.attention=auto",
        )


@functools.cache
def _kernel(name: str) -> Callable[..., Any]:
    kernels = importlib.import_module("ndtrain.kernels")
    version = kernels.NKI_VERSIONS[TARGET]
    with nkisim.as_nki(version, fresh="ndtrain.kernels"):
        module = importlib.import_module(f"ndtrain.kernels.{kernels.KERNELS[name].module}")
    return getattr(module, name)


def forward(
    q_SBND: Tensor, k_SBKD: Tensor, v_SBKD: Tensor, starts_BS: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    arrays = [_to_numpy(x) for x in (q_SBND, k_SBKD, v_SBKD)]
    out, lse = _run("attention_forward", *arrays, _starts(starts_BS), scale)
    return _to_torch(out, q_SBND.dtype), _to_torch(lse, torch.float32)


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
    arrays = [_to_numpy(x) for x in (dout, q, k, v, out, lse)]
    dq, dk, dv = _run("attention_backward", *arrays, _starts(starts), scale)
    return _to_torch(dq, q.dtype), _to_torch(dk, k.dtype), _to_torch(dv, v.dtype)


def _run(name: str, *arguments: Any) -> tuple[Any, ...]:
    return nkisim.run(_kernel(name), *arguments, target=TARGET).outputs


def _starts(starts_BS: Tensor | None) -> np.ndarray | None:
    return None if starts_BS is None else starts_BS.to(torch.int32).contiguous().numpy()


def _to_numpy(x: Tensor) -> np.ndarray:
    import ml_dtypes

    x = x.detach().contiguous()
    if x.dtype == torch.bfloat16:  # NumPy has no bf16 of its own: the same 16 bits by another name
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if x.dtype == torch.float64:
        raise UserError(
            "the NKI kernels compute in bf16 or fp32, not in fp64",
            "ops.attention=nki-sim",
            "use ops.attention=reference",
        )
    return x.numpy()


def _to_torch(x: np.ndarray, dtype: torch.dtype) -> Tensor:
    if dtype == torch.bfloat16:
        return torch.from_numpy(np.ascontiguousarray(x).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(x)).to(dtype)
