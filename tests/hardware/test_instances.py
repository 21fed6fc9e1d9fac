"""The instances against the vendor's table of them, and against the chips they are made of."""

import pytest

from ndtrain.core.errors import UserError
from ndtrain.hardware.instances import INSTANCES, find_instance


# AWS Neuron's documentation, trn1-arch and trn2-arch: TFLOP/s of bf16 and fp32, GiB of device
# memory, GB/s of it, host's GiB and vCPUs, Gbit/s of EFA.
@pytest.mark.parametrize(
    ("name", "bf16", "fp32", "memory", "bandwidth", "host", "cpus", "network"),
    [
        ("trn1.2xlarge", 190, 47.5, 32, 820, 32, 8, 25),
        ("trn1.32xlarge", 3040, 760, 512, 13120, 512, 128, 800),
        ("trn1n.32xlarge", 3040, 760, 512, 13120, 512, 128, 1600),
        ("trn2.48xlarge", 10672, 2896, 1536, 46400, 2048, 192, 3200),
    ],
)
def test_the_devices_of_an_instance_add_up(
    name: str,
    bf16: float,
    fp32: float,
    memory: float,
    bandwidth: float,
    host: int,
    cpus: int,
    network: float,
) -> None:
    instance = find_instance(name)
    device, number = instance.device, instance.num_devices
    assert device is not None
    assert device.peak_flops["bf16"] * number == pytest.approx(bf16 * 1e12)
    assert device.peak_flops["fp32"] * number == pytest.approx(fp32 * 1e12)
    assert device.memory_bytes * number == memory * 2**30
    assert device.memory_bandwidth * number == pytest.approx(bandwidth * 1e9)
    assert (instance.host_memory_gib, instance.num_cpus) == (host, cpus)
    assert instance.network_bandwidth == network * 1e9 / 8


def test_every_instance_names_its_sources() -> None:
    assert all(i.source and i.legal_tp_source for i in INSTANCES.values())


def test_several_nodes_need_efa() -> None:
    assert [name for name, i in INSTANCES.items() if not i.is_multi_node] == ["trn1.2xlarge"]


def test_an_instance_that_is_none() -> None:
    with pytest.raises(UserError) as caught:
        find_instance("trn1.32large")
    assert "did you mean `trn1.32xlarge`?" in caught.value.help
    with pytest.raises(UserError, match="there is no instance `x`"):
        find_instance("x")
