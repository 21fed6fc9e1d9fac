"""`ops.attention=nki` and `nki-sim`: ndtrain's NKI kernels, on the NeuronCore or in the simulator.

Layouts are those of `ops/attention.py`, so nothing is transposed: bf16 or fp32 in and out, fp32
statistics, head dims 32, 64, 96 and 128, any length, documents.
"""

from torch import Tensor

from ndtrain.ops.nki_launch import Kernel, Launch, NeuronCore, Simulator

PACKAGE = "ndtrain.kernels"
HEAD_DIMS = (32, 64, 96, 128)
SIMULATED_TARGET = "trn1"  # the strictest: NKI 0.2 and the smaller on-chip memory


class NkiAttention:
    """Forward and backward with one launch."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def _kernel(self, name: str) -> Kernel:
        return self._launch.load(PACKAGE, name, name)

    def forward(
        self,
        q_SBND: Tensor,
        k_SBKD: Tensor,
        v_SBKD: Tensor,
        starts_BS: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        kernel = self._kernel("attention_forward")
        out, lse = self._launch(kernel, q_SBND, k_SBKD, v_SBKD, _rows(starts_BS), scale)
        return out, lse

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
        kernel = self._kernel("attention_backward")
        dq, dk, dv = self._launch(kernel, dout, q, k, v, out, lse, _rows(starts), scale)
        return dq, dk, dv


SIMULATED = NkiAttention(Simulator(SIMULATED_TARGET))
ON_DEVICE = NkiAttention(NeuronCore())


def _rows(starts_BS: Tensor | None) -> Tensor | None:
    """The kernels count rows in 32 bits."""
    return None if starts_BS is None else starts_BS.int()
