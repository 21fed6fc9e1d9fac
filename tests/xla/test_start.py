"""A runtime on the real torch-xla, one rank, on its CPU device."""

import pytest

pytest.importorskip("torch_xla", reason="torch-xla is not installed")

from ndtrain.core.errors import UserError
from ndtrain.runtime.host_collectives import ByDevice
from ndtrain.runtime.start_xla import start_xla


def test_one_rank_on_the_cpu_says_what_it_is() -> None:
    runtime = start_xla(1, 1, 1)
    assert runtime.device.type == "xla"
    assert runtime.about == "xla: torch-xla's CPU device, which stands in for a Trainium"
    assert isinstance(runtime.collectives.transport, ByDevice)
    assert not runtime.has_times
    assert runtime.has_permute


def test_a_configuration_of_two_ranks_in_one_process_is_refused() -> None:
    with pytest.raises(UserError, match="the process group has 1 ranks, the configuration 2"):
        start_xla(2, 1, 1)
