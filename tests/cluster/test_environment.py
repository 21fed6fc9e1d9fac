"""The environment of the ranks: derived once, each with a reason, and typos refused."""

from collections.abc import Sequence

import pytest

from ndtrain.cluster.environment import environment
from ndtrain.cluster.variable_names import KNOWN, OWNED, PERMUTES, WITHOUT_EFFECT
from ndtrain.config.load import load
from ndtrain.core.errors import UserError, UserErrors
from ndtrain.hardware.instances import INSTANCES, find_instance
from ndtrain.runtime.mesh import LANES


def variables(
    hardware: str, *overrides: str, num_nodes: int = 2, added: Sequence[str] = ()
) -> dict[str, str]:
    listed = ", ".join(f'"{entry}"' for entry in added)
    config = load("tiny", [*overrides, f"cluster.environment=[{listed}]"]).config
    found = environment(config, find_instance(hardware), num_nodes)
    assert all(variable.reason for variable in found)
    return {variable.name: variable.value for variable in found}


def test_efa_is_for_several_nodes_that_have_it() -> None:
    assert variables("trn1.32xlarge")["FI_PROVIDER"] == "efa"
    assert "FI_PROVIDER" not in variables("trn1.32xlarge", num_nodes=1)
    assert "FI_PROVIDER" not in variables("trn1.2xlarge", num_nodes=1)


def test_a_logical_core_is_two_on_trn2_alone() -> None:
    trn1, trn2 = variables("trn1.32xlarge"), variables("trn2.48xlarge")
    assert "--lnc=2" in trn2["NEURON_CC_FLAGS"]
    assert trn2["NEURON_RT_VIRTUAL_CORE_SIZE"] == "2"
    assert "lnc" not in trn1["NEURON_CC_FLAGS"]
    assert "NEURON_RT_VIRTUAL_CORE_SIZE" not in trn1


def test_each_stack_has_the_cache_that_it_reads() -> None:
    shared = "cluster.compile_cache=/fsx/compiled"
    trn1, trn2 = variables("trn1.32xlarge", shared), variables("trn2.48xlarge", shared)
    # Copied to and from: locks on a shared file system time out, and a node's is a disk.
    assert trn1["NEURON_COMPILE_CACHE_URL"] == "/var/tmp/neuron-compile-cache"
    assert "TORCH_NEURONX_NEFF_CACHE_DIR" not in trn1
    assert trn2["TORCH_NEURONX_NEFF_CACHE_DIR"].startswith("/var/tmp/")
    assert "NEURON_COMPILE_CACHE_URL" not in trn2
    assert "--retry_failed_compilation" in trn1["NEURON_CC_FLAGS"]
    assert "--retry_failed_compilation" not in trn2["NEURON_CC_FLAGS"]


@pytest.mark.parametrize(
    ("hardware", "mode", "is_bound"),
    [
        ("trn1.32xlarge", "full", True),
        ("trn1.32xlarge", "selective", True),
        ("trn1.32xlarge", "none", False),
        ("trn2.48xlarge", "full", False),  # no graph there has a forward and its recomputation
    ],
)
def test_what_is_recomputed_is_not_to_be_merged_with_the_forward(
    hardware: str, mode: str, is_bound: bool
) -> None:
    flags = variables(hardware, f"train.recompute={mode}")["NEURON_CC_FLAGS"].split()
    assert ("-O1" in flags) == is_bound


@pytest.mark.parametrize(
    "name", ["XLA_FLAGS", "NEURON_RT_RESET_CORES", "TORCH_NEURONX_COMPLEX_DECOMPOSE", "FI_MR_CACHE"]
)
def test_a_variable_that_is_on_no_list_is_taken(name: str) -> None:
    assert variables("trn1.32xlarge", added=[f"{name}=1"])[name] == "1"


def test_streams_cost_and_so_come_with_overlap_alone() -> None:
    on, off = variables("trn2.48xlarge"), variables("trn2.48xlarge", "overlap.mode='off'")
    assert on["TORCH_NEURONX_ENABLE_HOST_CC"] == "1"
    assert not {name for name in off if "HOST_CC" in name or "PACKET" in name}
    buckets = variables("trn2.48xlarge", "overlap.mode='off'", "overlap.data_parallel='on'")
    assert buckets["TORCH_NEURONX_ENABLE_HOST_CC"] == "1"  # ZeRO's travel behind compute too
    assert "TORCH_NEURONX_ENABLE_HOST_CC" not in variables("trn1.32xlarge")


@pytest.mark.parametrize(
    ("overrides", "small"),
    [
        (("parallel.tp=4",), {"data_gather", "data_scatter"}),
        # Tensor parallelism's collectives block the main stream: all beside it is ZeRO's.
        (
            ("parallel.tp=4", "overlap.mode='off'", "overlap.data_parallel='on'"),
            set(LANES) - {"main"},
        ),
        (("parallel.tp=4", "overlap.data_parallel='off'"), set()),
    ],
)
def test_packets_of_streams_are_small_where_only_buckets_travel(
    overrides: tuple[str, ...], small: set[str]
) -> None:
    """Compute's are large: it is served before ZeRO's buckets and after tensor parallelism."""
    found = variables("trn2.48xlarge", *overrides)
    assert found["NEURON_RT_DBG_DMA_PACKETIZATION_SIZE"] == "65536"
    sizes = found["NEURON_RT_DBG_CC_DMA_PACKET_SIZE"].split(",")
    if not small:
        assert sizes == ["65536"]
        return
    # An entry for every stream, in the order in which the runtime makes them.
    assert len(sizes) == len(LANES)
    assert {lane for lane, size in zip(LANES, sizes, strict=True) if size == "4096"} == small
    assert {size for size in sizes if size != "4096"} == {"65536"}


def test_cpus_get_what_the_user_says() -> None:
    assert variables("cpu", added=["GLOO_SOCKET_IFNAME=ib0"]) == {"GLOO_SOCKET_IFNAME": "ib0"}


def test_the_user_adds_replaces_and_leaves_out() -> None:
    added = ["NEURON_RT_EXEC_TIMEOUT=900", "MALLOC_ARENA_MAX=", "HTTPS_PROXY=http://a:1/?b=c"]
    found = variables("trn1.32xlarge", added=added)
    assert found["NEURON_RT_EXEC_TIMEOUT"] == "900"
    assert "MALLOC_ARENA_MAX" not in found
    assert found["HTTPS_PROXY"] == "http://a:1/?b=c"


@pytest.mark.parametrize(
    ("entry", "message", "help_text"),
    [
        (
            "NEURON_RT_EXEC_TIMOUT=9",
            "no program is known",
            "did you mean `NEURON_RT_EXEC_TIMEOUT`",
        ),
        (
            "TORCH_NEURONX_ENABLE_HOSTCC=1",
            "no program is known",
            "TORCH_NEURONX_ENABLE_HOST_CC",
        ),
        ("FI_PROVIDR=efa", "no program is known", "did you mean `FI_PROVIDER`"),
        ("RANK=0", "`RANK` is not yours to set", "leave it out"),
        (f"{PERMUTES}=1", "it makes all-gathers of the hops", "leave it out"),
        ("NEURON_RT_VISIBLE_CORES=0", "not yours to set: the Neuron plugin", "leave it out"),
        ("FI_PROVIDER", "is not a variable of the environment", "write NAME=VALUE"),
        ("1X=2", "is not a variable of the environment", "write NAME=VALUE"),
        ("XLA_USE_BF16=1", "has no effect on trn1.32xlarge: deprecated", ""),
        ("TORCH_NEURONX_ENABLE_HOST_CC=1", "torch-xla has no streams", ""),
    ],
)
def test_mistakes_are_refused(entry: str, message: str, help_text: str) -> None:
    with pytest.raises(UserError) as caught:
        variables("trn1.32xlarge", added=[entry])
    assert message in caught.value.what
    assert help_text in caught.value.help


def test_a_line_break_would_write_lines_of_the_script() -> None:
    with pytest.raises(UserError, match="is not a variable"):
        variables("cpu", added=["A=b\\nrm -rf x"])


def test_all_mistakes_at_once() -> None:
    with pytest.raises(UserErrors) as caught:
        variables("trn1.32xlarge", added=["RANK=0", "NEURON_RT_LOGLEVEL=INFO", "MY_OWN=1"])
    assert len(caught.value.errors) == 2


@pytest.mark.parametrize("hardware", INSTANCES)
def test_what_is_derived_would_pass_the_check_of_names(hardware: str) -> None:
    found = variables(hardware, num_nodes=1)
    added = [f"{name}={value}" for name, value in found.items()]
    assert variables(hardware, num_nodes=1, added=added) == found


def test_every_name_with_a_reason_is_a_known_one() -> None:
    neuron = {name for name in OWNED if name.startswith("NEURON_")}
    assert neuron | WITHOUT_EFFECT.keys() <= KNOWN
