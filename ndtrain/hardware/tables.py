"""What one device can do, by the vendor's own figures: matmul rate, memory, links.

    find_device("trn1").peak_flops["bf16"]      # 95e12, of one NeuronCore
    find_device("NVIDIA H100 80GB HBM3").name   # "h100"
    find_device("some laptop")                  # None: unknown is never guessed

A device is what one rank drives: a GPU, a NeuronCore of trn1, or a logical NeuronCore of trn2 and
trn3, which by default is two physical ones (LNC=2). Rates are dense, without sparsity, in FLOP/s;
memory in bytes, bandwidths in bytes/s. A chip's figure is divided evenly over its devices.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TERA, GIGA, GIB = 1e12, 1e9, 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Vendor figures of one device.

    peak_flops: by dtype; `fp32` is true fp32, TF32 has its own entry.
    link_bandwidth: of the links to its peers in the same node, as the vendor counts it.
    reported_names: what the device calls itself (`torch.cuda.get_device_name`).
    """

    name: str
    peak_flops: Mapping[str, float]
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    source: str
    reported_names: tuple[str, ...] = ()


_NEURON_DOCS = "awsdocs-neuron.readthedocs-hosted.com, about-neuron/arch/neuron-hardware"

# Trainium: 190 TFLOP/s bf16, fp16, cfp8 and tf32, 47.5 fp32, 32 GiB at 820 GB/s, 384 GB/s of
# NeuronLink-v2 a chip of 2 NeuronCores.
TRN1 = Device(
    name="trn1",
    peak_flops={
        "bf16": 95 * TERA,
        "fp16": 95 * TERA,
        "fp8": 95 * TERA,
        "tf32": 95 * TERA,
        "fp32": 23.75 * TERA,
    },
    memory_bytes=16 * GIB,
    memory_bandwidth=410 * GIGA,
    link_bandwidth=192 * GIGA,
    source=f"{_NEURON_DOCS}: trainium, trn1-arch",
)

# Trainium2: 667 TFLOP/s bf16, fp16 and tf32, 1299 fp8, 181 fp32, 96 GiB at 2.9 TB/s, 1024 GB/s of
# NeuronLink-v3 a chip of 8 NeuronCores.
TRN2 = Device(
    name="trn2",
    peak_flops={
        "bf16": 667 / 4 * TERA,
        "fp16": 667 / 4 * TERA,
        "fp8": 1299 / 4 * TERA,
        "tf32": 667 / 4 * TERA,
        "fp32": 181 / 4 * TERA,
    },
    memory_bytes=24 * GIB,
    memory_bandwidth=725 * GIGA,
    link_bandwidth=256 * GIGA,
    source=f"{_NEURON_DOCS}: trainium2, trn2-arch",
)

# Trainium3: 671 TFLOP/s bf16, fp16 and tf32, 2517 mxfp8, 183 fp32, 144 GiB at 4.9 TB/s, 2.56 TB/s
# of NeuronLink-v4 a chip of 8 NeuronCores.
TRN3 = Device(
    name="trn3",
    peak_flops={
        "bf16": 671 / 4 * TERA,
        "fp16": 671 / 4 * TERA,
        "fp8": 2517 / 4 * TERA,
        "tf32": 671 / 4 * TERA,
        "fp32": 183 / 4 * TERA,
    },
    memory_bytes=36 * GIB,
    memory_bandwidth=1225 * GIGA,
    link_bandwidth=640 * GIGA,
    source=f"{_NEURON_DOCS}: trainium3, trn3-arch",
)

H100 = Device(
    name="h100",
    peak_flops={
        "bf16": 989.4 * TERA,
        "fp16": 989.4 * TERA,
        "fp8": 1978.9 * TERA,
        "tf32": 494.7 * TERA,
        "fp32": 66.9 * TERA,
    },
    memory_bytes=80 * GIB,
    memory_bandwidth=3352 * GIGA,
    link_bandwidth=900 * GIGA,
    source="NVIDIA H100 Tensor Core GPU Architecture, v1.04, table 2 (SXM5)",
    # The PCIe and NVL boards are slower and call themselves otherwise.
    reported_names=("NVIDIA H100 80GB HBM3",),
)

A100 = Device(
    name="a100",
    peak_flops={
        "bf16": 312 * TERA,
        "fp16": 312 * TERA,
        "tf32": 156 * TERA,
        "fp32": 19.5 * TERA,
    },
    memory_bytes=80 * GIB,
    memory_bandwidth=2039 * GIGA,
    link_bandwidth=600 * GIGA,
    source="NVIDIA A100 Tensor Core GPU datasheet, June 2021 (80 GB SXM)",
    reported_names=("NVIDIA A100-SXM4-80GB",),
)

DEVICES: dict[str, Device] = {device.name: device for device in (TRN1, TRN2, TRN3, H100, A100)}


def find_device(name: str) -> Device | None:
    """The device of this table name or reported name, both matched whole; None if unknown."""
    for device in DEVICES.values():
        if name == device.name or name in device.reported_names:
            return device
    return None
