"""The hardware table in place of measurements: named by the job, else assumed and said so."""

import pytest

from ndtrain.core.errors import UserError
from ndtrain.hardware.instances import HARDWARE
from ndtrain.hardware.tables import TRN1, TRN2
from ndtrain.overlap.table_figures import table_figures
from ndtrain.train.hardware import find_hardware


@pytest.mark.parametrize(("runtime", "device"), [("xla", TRN1), ("neuron", TRN2)])
@pytest.mark.parametrize("environment", [{}, {HARDWARE: "cpu"}])
def test_without_a_name_the_runtime_s_own_is_assumed_and_said(runtime, device, environment) -> None:
    hardware = find_hardware(runtime, environment)
    assert hardware.device is device
    assert not hardware.is_known
    assert "not measured; no NDTRAIN_HARDWARE names another" in hardware.source


def test_the_job_names_it() -> None:
    hardware = find_hardware("xla", {HARDWARE: "trn1.2xlarge"})
    assert hardware.is_known
    assert hardware.source == "from the hardware table of trn1.2xlarge, not measured"
    with pytest.raises(UserError, match="there is no instance `trn9`"):
        find_hardware("xla", {HARDWARE: "trn9"})


def test_figures_are_the_table_s_with_half_of_a_link() -> None:
    figures = table_figures(TRN1, "bf16")
    assert figures.matmul_flops == 95e12
    assert figures.link_bytes_per_s == TRN1.link_bandwidth / 2
    assert figures.issues_ahead
    assert table_figures(TRN1, "fp32", issues_ahead=False).matmul_flops == 23.75e12
