"""The machines of a cluster: AWS's Trainium instances, and a node of CPUs.

    instance = find_instance("trn1.32xlarge")
    instance.num_devices                         # 32 ranks a node
    instance.legal_tp                            # (1, 2, 8, 32)

A device is what one rank drives, as in `tables.py`. Every figure is the vendor's own or follows
from his rules; none was measured.
"""

from dataclasses import dataclass, replace

from ndtrain.core.errors import UserError
from ndtrain.core.suggest import advice
from ndtrain.hardware.tables import TRN1, TRN2, Device

GIGABIT = 1e9 / 8  # bytes
HARDWARE = "NDTRAIN_HARDWARE"  # the variable that tells a rank its instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One kind of node.

    device: None for CPUs, whose ranks are as many as the user says.
    network_bandwidth: out of the node, bytes/s. num_efa: EFA devices, 0 where it has none.
    tcp_bandwidth: of one TCP connection to a node of the same placement group; 0: not known.
    cores_per_device: physical NeuronCores that a device is made of (LNC).
    legal_tp: sizes of a tensor-parallel group that the runtime's collectives serve in a node.
    """

    name: str
    device: Device | None
    num_chips: int
    num_devices: int
    cores_per_device: int
    num_cpus: int
    host_memory_gib: int
    network_bandwidth: float
    tcp_bandwidth: float
    num_efa: int
    legal_tp: tuple[int, ...]
    source: str
    legal_tp_source: str

    @property
    def is_multi_node(self) -> bool:
        """Whether jobs of several such nodes are possible: Neuron's collectives need EFA there."""
        return self.device is None or self.num_efa > 0


_DOCS = "awsdocs-neuron.readthedocs-hosted.com, about-neuron/arch/neuron-hardware"
_EFA = "frameworks/torch/torch-neuronx/setup-trn1-multi-node-execution"
# Amazon EC2 user guide, instance network bandwidth: one flow, in a cluster placement group; 5
# outside of one.
_EC2_FLOW = 10 * GIGABIT
# A group starts at a multiple of its size, and inside a node the collectives of trn1 know groups
# of 1, 2, 8 and 32 cores. Release notes of 2.21 add 4 adjacent cores; NxD places 4 otherwise, so 4
# is left out until somebody has run it.
_TRN1_GROUPS = "Neuron SDK, archive/nxd-training/torch-neuron-envvars (NEURON_RT_NUM_CORES)"
# Of logical cores at LNC=2. 32 is served in NxD by groups of cores that are not neighbours, which
# our mesh does not make.
_TRN2_GROUPS = "neuronx-distributed 0.17, parallel_layers/parallel_state.py: LNC=2"

TRN1_2XLARGE = Instance(
    name="trn1.2xlarge",
    device=TRN1,
    num_chips=1,
    num_devices=2,
    cores_per_device=1,
    num_cpus=8,
    host_memory_gib=32,
    network_bandwidth=25 * GIGABIT,  # "up to", and without EFA
    tcp_bandwidth=_EC2_FLOW,
    num_efa=0,
    legal_tp=(1, 2),
    source=f"{_DOCS}/trn1-arch; {_EFA} (no EFA on this size)",
    legal_tp_source=_TRN1_GROUPS,
)

TRN1_32XLARGE = Instance(
    name="trn1.32xlarge",
    device=TRN1,
    num_chips=16,
    num_devices=32,
    cores_per_device=1,
    num_cpus=128,
    host_memory_gib=512,
    network_bandwidth=800 * GIGABIT,
    tcp_bandwidth=_EC2_FLOW,
    num_efa=8,
    legal_tp=(1, 2, 8, 32),
    source=f"{_DOCS}/trn1-arch; {_EFA} (8 EFA devices)",
    legal_tp_source=_TRN1_GROUPS,
)

TRN1N_32XLARGE = replace(
    TRN1_32XLARGE,
    name="trn1n.32xlarge",
    network_bandwidth=1600 * GIGABIT,
    num_efa=16,
    source=f"{_DOCS}/trn1-arch; {_EFA} (16 EFA devices)",
)

TRN2_48XLARGE = Instance(
    name="trn2.48xlarge",
    device=TRN2,
    num_chips=16,
    num_devices=64,
    cores_per_device=2,
    num_cpus=192,
    host_memory_gib=2048,
    network_bandwidth=3200 * GIGABIT,
    tcp_bandwidth=_EC2_FLOW,
    num_efa=16,
    legal_tp=(1, 4, 16, 64),
    source=f"{_DOCS}/trn2-arch; EFA devices: Amazon EC2 user guide, network cards of trn2.48xlarge",
    legal_tp_source=_TRN2_GROUPS,
)

CPU = Instance(
    name="cpu",
    device=None,
    num_chips=0,
    num_devices=0,
    cores_per_device=0,
    num_cpus=0,
    host_memory_gib=0,
    network_bandwidth=0.0,
    tcp_bandwidth=0.0,
    num_efa=0,
    legal_tp=(),
    source="any machine: nothing is known of it before it is measured",
    legal_tp_source="gloo has no rule",
)

INSTANCES: dict[str, Instance] = {
    instance.name: instance
    for instance in (TRN1_2XLARGE, TRN1_32XLARGE, TRN1N_32XLARGE, TRN2_48XLARGE, CPU)
}


def find_instance(name: str) -> Instance:
    """Raises UserError naming the known ones."""
    instance = INSTANCES.get(name)
    if instance is None:
        known = f"known: {', '.join(INSTANCES)}"
        raise UserError(
            f"there is no instance `{name}`", "--hardware", advice(name, INSTANCES, known)
        )
    return instance
