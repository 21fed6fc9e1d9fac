"""A machine by the vendor's figures of its devices, where nothing can be measured.

figures = table_figures(TRN1, "bf16")
"""

from ndtrain.hardware.tables import Device
from ndtrain.overlap.node_cost import Figures

# 1 to 2 us a hop inside a node (aws-neuron-sdk, intranode-collective-comm.rst).
DEVICE_LATENCY_S = 2e-6
# Vendors count both directions of a link; a ring sends in one. For trn1 this gives 96 GB/s, near
# the 100 GB/s that AWS's own arithmetic on collectives uses.
DIRECTIONS = 2


def table_figures(device: Device, dtype: str, issues_ahead: bool = True) -> Figures:
    """One rank's. dtype: fp32 or bf16. issues_ahead: as in `Figures`."""
    return Figures(
        matmul_flops=device.peak_flops[dtype],
        memory_bytes_per_s=device.memory_bandwidth,
        link_bytes_per_s=device.link_bandwidth / DIRECTIONS,
        link_latency_s=DEVICE_LATENCY_S,
        issues_ahead=issues_ahead,
    )
