"""Turns `ops.attention` into an implementation that exists here and can compute the model.

    implementation = choose("nki", torch.device("xla"), Problem(4096, 128, torch.bfloat16, True))

Decided once, before any work; nothing falls back at run time.
"""

from dataclasses import dataclass

import torch

from ndtrain.core.errors import UserError
from ndtrain.ops import nki_attention, nkilib_attention, nxd_attention
from ndtrain.ops.nki_launch import is_installed, require_module, require_simulator

NEURON_DEVICES = ("neuron", "xla")
NKI = "nki.language"  # PyPI's placeholder of nki has no such module


@dataclass(frozen=True)
class Problem:
    """What attention is asked to compute.

    has_documents: whether several documents share a row and must not see each other.
    """

    sequence_length: int
    head_dim: int
    dtype: torch.dtype
    has_documents: bool


def choose(requested: str, device: torch.device, problem: Problem) -> str:
    """The implementation's name in `ops/attention.py`. Raises UserError for what cannot be."""
    if requested == "auto":
        return _automatic(device, problem)
    _check_device(requested, device)
    _check_installed(requested, device)
    reason = _refusal(requested, problem)
    if reason:
        raise UserError(f"ops.attention={requested} {reason[0]}", "ops.attention", reason[1])
    return "nkilib-sim" if requested == "nkilib" and device.type == "cpu" else requested


def _automatic(device: torch.device, problem: Problem) -> str:
    """The fastest that takes the problem: sdpa on a CPU, the NKI kernels on Neuron."""
    if device.type == "cpu":
        return "sdpa"
    if device.type in NEURON_DEVICES and is_installed(NKI) and _refusal("nki", problem) is None:
        return "nki"
    return "reference"


_DEVICES = {
    "sdpa": ("cpu",),
    "nki-sim": ("cpu",),
    "nki": NEURON_DEVICES,
    "nkilib": ("cpu", *NEURON_DEVICES),
    "nxd": ("xla",),
}


def _check_device(requested: str, device: torch.device) -> None:
    if device.type in _DEVICES.get(requested, (device.type,)):
        return
    legal = [name for name, devices in _DEVICES.items() if device.type in devices]
    raise UserError(
        f"ops.attention={requested} is not available on `{device.type}`",
        "ops.attention",
        f"legal here: {', '.join(['auto', 'reference', *legal])}",
    )


def _check_installed(requested: str, device: torch.device) -> None:
    if requested == "nki":
        require_module("ops.attention=nki", NKI)
    elif requested == "nxd":
        require_module("ops.attention=nxd", nxd_attention.MODULE)
    elif requested == "nkilib" and device.type != "cpu":
        require_module("ops.attention=nkilib", "nkilib.core.attention")
    elif requested == "nkilib":
        require_simulator("ops.attention=nkilib on a CPU")
        nkilib_attention.add_checkout()
    elif requested == "nki-sim":
        require_simulator("ops.attention=nki-sim")


def _refusal(requested: str, problem: Problem) -> tuple[str, str] | None:
    """What is wrong and how to mend it."""
    length = problem.sequence_length
    if requested in ("nki", "nki-sim"):
        if problem.dtype == torch.float64:
            return "computes in bf16 or fp32, not in fp64", "use ops.attention=reference"
        if problem.head_dim not in nki_attention.HEAD_DIMS:
            return f"has no head dim of {problem.head_dim}", f"legal: {nki_attention.HEAD_DIMS}"
    if requested in ("nkilib", "nxd") and problem.dtype != torch.bfloat16:
        return "computes in bf16", "set train.compute_dtype=bf16"
    if requested == "nkilib" and not nkilib_attention.divides(length):
        return f"cannot split {length} tokens", "data.sequence_length: a multiple of 512"
    if requested == "nxd" and length % nxd_attention.SEQUENCE_MULTIPLE:
        return f"cannot split {length} tokens", "data.sequence_length: a multiple of 2048"
    if requested == "nxd" and problem.has_documents:
        return "cannot keep the documents of a row apart", "set data.document_mask=false"
    return None
