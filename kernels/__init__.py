"""NKI kernels of a Qwen3 layer, for the public NKI API and nothing else.

    for kernel in KERNELS.values(): print(kernel.name, kernel.targets, kernel.summary)

A kernel file imports nki, NumPy, the standard library and its siblings; never torch, never the rest
of ndtrain. It imports nki at import time, so without Neuron it is imported inside
`with ndtrain.nkisim.as_nki():`. This package itself imports no kernel. README.md says how to write,
test and debug one. NAME_reference.py holds the same functions in NumPy, in float64.
"""

from dataclasses import dataclass
from pathlib import Path

EVERYWHERE = ("trn1", "trn2", "trn3")
WITH_COLLECTIVES = ("trn2", "trn3")
NKI_VERSIONS = {"trn1": "0.2", "trn2": "0.6", "trn3": "0.6"}
"""The NKI version of each target; clusters of trn1 are pinned to Neuron 2.28, which has 0.2."""
API_SUBSET = Path(__file__).with_name("API_SUBSET.json")
"""The names and keywords of nki that the kernels use, each with the version that brought it."""


@dataclass(frozen=True)
class Kernel:
    """One kernel: `function` of the modules `module` and `reference`, relative to this package.

    evidence: where results were compared with the reference. No kernel has run on hardware.
    """

    name: str
    module: str
    summary: str
    targets: tuple[str, ...] = EVERYWHERE
    evidence: str = "simulated; never run on hardware"

    @property
    def function(self) -> str:
        return self.name

    @property
    def reference(self) -> str:
        return f"{self.module}_reference"


_ALL = (
    Kernel("attention_forward", "attention_forward", "causal GQA attention and its log-sum-exp"),
    Kernel("attention_backward", "attention_backward", "dq, dk and dv of attention_forward"),
    Kernel("rmsnorm_forward", "rmsnorm", "RMSNorm over the hidden dimension"),
    Kernel("rmsnorm_backward", "rmsnorm", "dx and dweight of rmsnorm_forward"),
    Kernel("qk_norm_rope_forward", "qk_norm_rope", "RMSNorm of q and k heads with RoPE"),
    Kernel("qk_norm_rope_backward", "qk_norm_rope", "gradients of qk_norm_rope_forward"),
    Kernel("swiglu_forward", "swiglu", "silu(gate) * up of a fused projection"),
    Kernel("swiglu_backward", "swiglu", "dgate|dup of swiglu_forward"),
    Kernel(
        "allgather_matmul",
        "allgather_matmul",
        "all-gather over a ring, each shard multiplied while the next one moves",
        WITH_COLLECTIVES,
    ),
)
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _ALL}
