"""The tables against the vendors' figures for a whole chip or instance, and unknown as None."""

import subprocess
import sys

import pytest

from ndtrain.hardware.tables import DEVICES, find_device

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "devices_per_chip", "bf16_tflops", "fp32_tflops", "memory_gib", "link_gb"),
    [
        ("trn1", 2, 190, 47.5, 32, 384),
        ("trn2", 4, 667, 181, 96, 1024),
        ("trn3", 4, 671, 183, 144, 2560),
        ("h100", 1, 989.4, 66.9, 80, 900),
        ("a100", 1, 312, 19.5, 80, 600),
    ],
)
def test_the_devices_of_a_chip_add_up_to_the_chip(
    name: str,
    devices_per_chip: int,
    bf16_tflops: float,
    fp32_tflops: float,
    memory_gib: int,
    link_gb: int,
) -> None:
    device = DEVICES[name]
    assert device.peak_flops["bf16"] * devices_per_chip == pytest.approx(bf16_tflops * 1e12)
    assert device.peak_flops["fp32"] * devices_per_chip == pytest.approx(fp32_tflops * 1e12)
    assert device.memory_bytes * devices_per_chip == memory_gib * GIB
    assert device.link_bandwidth * devices_per_chip == pytest.approx(link_gb * 1e9)


def test_a_gpu_is_found_by_its_own_name() -> None:
    assert find_device("NVIDIA H100 80GB HBM3") is DEVICES["h100"]
    assert DEVICES["h100"].peak_flops["bf16"] == 989.4e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 PCIe",  # a slower board: a match by part of the name would lie
        "NVIDIA A100-SXM4-40GB-MIG-1g",
        "H100",
        "cpu",
        "",
    ],
)
def test_unknown_is_none(name: str) -> None:
    assert find_device(name) is None


def test_every_device_names_its_source_and_orders_its_rates() -> None:
    for device in DEVICES.values():
        assert device.source
        rates = device.peak_flops
        assert rates["fp32"] < rates["tf32"] <= rates["bf16"] == rates["fp16"]
        assert rates.get("fp8", rates["bf16"]) >= rates["bf16"]


def test_torch_is_not_imported() -> None:
    program = "import sys, ndtrain.hardware.tables; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
