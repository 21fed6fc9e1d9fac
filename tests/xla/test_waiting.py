"""What waits has the bits that it had, and is not finite where what it waits for is not."""

import math

import pytest
import torch

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.runtime.xla import trace_xla

DTYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def tied(x: torch.Tensor, first: float) -> torch.Tensor:
    runtime = trace_xla(0, 1, 1, num_kv_heads=2)
    assert runtime.trace is not None
    others = [torch.tensor([[first, 2.0]]), torch.ones(3, dtype=torch.bfloat16)]
    after = [one.to(runtime.device) for one in others]
    return runtime.trace.tie(x.to(runtime.device), after).cpu()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_waits_keeps_its_bits(dtype: torch.dtype) -> None:
    x = torch.tensor([[-0.0, 0.0], [1.1, -3e38], [math.inf, 1e-30]], dtype=dtype)
    assert torch.equal(tied(x, -1e38).view(DTYPES[dtype]), x.view(DTYPES[dtype]))


@pytest.mark.parametrize("first", [math.inf, math.nan])
def test_what_waits_for_no_number_is_none(first: float) -> None:
    assert tied(torch.ones(4, 2), first).isnan().all()
