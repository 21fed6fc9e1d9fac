"""The names of environment variables that Neuron's software reads, to tell a typo from a setting.

Sources: Neuron SDK, archive/nxd-training/torch-neuron-envvars, neuron-runtime/configuration-guide,
neuron-runtime/explore/compute-comm-overlap, tools/neuron-explorer/environment-variables,
whats-new 2.29 to 2.31, torch/reference/env-vars; torch-neuronx's sources; libfabric's fi_efa(7);
torch-xla's docs.
"""

KNOWN = frozenset(
    {
        "CCOM_SOCKET_IFNAME",
        "FI_EFA_ENABLE_SHM_TRANSFER",
        "FI_EFA_FORK_SAFE",
        "FI_EFA_USE_DEVICE_RDMA",
        "FI_EFA_USE_HUGE_PAGE",
        "FI_LOG_LEVEL",
        "FI_PROVIDER",
        "NEURON_CC_FLAGS",
        "NEURON_COLLECTIVE_PERMUTE_TO_ALL_GATHER",
        "NEURON_COMPILE_CACHE_URL",
        "NEURON_CUSTOM_SILU",
        "NEURON_EXTRACT_GRAPHS_ONLY",
        "NEURON_FRAMEWORK_DEBUG",
        "NEURON_FUSE_SOFTMAX",
        "NEURON_IGNORE_TRAINING_SCRIPT_ERROR_AND_COMPILE",
        "NEURON_LAUNCH_BLOCKING",
        "NEURON_LOGICAL_NC_CONFIG",
        "NEURON_NUM_RECENT_MODELS_TO_KEEP",
        "NEURON_PARALLEL_COMPILE_DUMP_RESULTS",
        "NEURON_PARALLEL_COMPILE_MAX_RETRIES",
        "NEURON_PLATFORM_TARGET_OVERRIDE",
        "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS",
        "NEURON_RT_CC_ALG_TYPES",
        "NEURON_RT_CC_STREAM_SPLIT",
        "NEURON_RT_DBG_CC_DMA_PACKET_SIZE",
        "NEURON_RT_DBG_DMA_PACKETIZATION_SIZE",
        "NEURON_RT_DBG_DUMP_INPUTS_ON_ERR",
        "NEURON_RT_DBG_MESH_CC",
        "NEURON_RT_DISABLE_EXECUTION_BARRIER",
        "NEURON_RT_ENABLE_DGE_NOTIFICATIONS",
        "NEURON_RT_ENABLE_INTERNODE_EXECUTION_BARRIER",
        "NEURON_RT_EXEC_TIMEOUT",
        "NEURON_RT_INSPECT_ENABLE",
        "NEURON_RT_INSPECT_OUTPUT_DIR",
        "NEURON_RT_IO_RING_CACHE_SIZE",
        "NEURON_RT_LOG_LEVEL",
        "NEURON_RT_LOG_LOCATION",
        "NEURON_RT_LOW_LATENCY_TASKS_CPU_AFFINITY",
        "NEURON_RT_NUM_CORES",
        "NEURON_RT_ONE_THREAD_PER_CORE",
        "NEURON_RT_RANKS_PER_NETWORK_PROXY",
        "NEURON_RT_ROOT_COMM_ID",
        "NEURON_RT_STOCHASTIC_ROUNDING_EN",
        "NEURON_RT_STOCHASTIC_ROUNDING_SEED",
        "NEURON_RT_VIRTUAL_CORE_SIZE",
        "NEURON_RT_VISIBLE_CORES",
        "NEURON_SCRATCHPAD_PAGE_SIZE",
        "NEURON_USE_SPLIT_ALLGATHER",
        "NEURON_USE_SPLIT_REDUCE_SCATTER",
        "TORCH_NEURONX_DEBUG_DIR",
        "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION",
        "TORCH_NEURONX_ENABLE_ASYNC_NRT",
        "TORCH_NEURONX_ENABLE_HOST_CC",
        "TORCH_NEURONX_ENABLE_NKI_SDPA",
        "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS",
        "TORCH_NEURONX_NEFF_CACHE_DIR",
        "TORCH_NEURONX_NEFF_DISABLE_CACHE",
        "TORCH_NEURONX_NEFF_LOCAL_CACHE_DIR",
        "TORCH_NEURONX_PRESERVE_COMPILATION_ARTIFACTS",
        "XLA_DISABLE_FUNCTIONALIZATION",
        "XLA_DOWNCAST_BF16",
        "XLA_FLAGS",
        "XLA_HLO_DEBUG",
        "XLA_IR_DEBUG",
        "XLA_PERSISTENT_CACHE_PATH",
        "XLA_USE_BF16",
        "XLA_USE_DUMMY_STORE",
    }
)

# Public scripts of other trainers set it, for programs that have no rings.
PERMUTES = "NEURON_COLLECTIVE_PERMUTE_TO_ALL_GATHER"

# Set for each rank by torchrun, by the Neuron plugin or by our scripts; or to be left as it is.
OWNED = {
    PERMUTES: "it makes all-gathers of the hops of rings, which then hide nothing",
    "LOCAL_RANK": "torchrun sets it for each rank",
    "MASTER_ADDR": "torchrun sets it",
    "MASTER_PORT": "torchrun sets it",
    "NDTRAIN_HARDWARE": "--hardware sets it",
    "NDTRAIN_HEAD": "the job's script sets it",
    "NDTRAIN_NNODES": "the job's script sets it",
    "NDTRAIN_PIDS": "the job's script sets it",
    "NDTRAIN_PORT": "the job's script sets it",
    "NDTRAIN_RANKS": "the job's script sets it",
    "NDTRAIN_RANK_PYTHON": "--python sets it",
    "NDTRAIN_WORK": "`sbatch --export=ALL,NDTRAIN_WORK=precompile` sets it",
    "NDTRAIN_START": "the job's script sets it",
    "NEURON_RT_NUM_CORES": "each rank drives the device that NEURON_RT_VISIBLE_CORES names",
    "NEURON_RT_ROOT_COMM_ID": "the Neuron plugin makes it from the address of the first rank",
    "NEURON_RT_VISIBLE_CORES": "the Neuron plugin makes it from the rank",
    "RANK": "torchrun sets it for each rank",
    "WORLD_SIZE": "torchrun sets it",
}

# Name -> why, and on which devices.
WITHOUT_EFFECT = {
    "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": (
        "the runtime removed it in 2.31, and trn2's native PyTorch needs a later one",
        ("trn2",),
    ),
    "TORCH_NEURONX_ENABLE_ASYNC_NRT": ("torch-xla does not read it", ("trn1",)),
    "TORCH_NEURONX_ENABLE_HOST_CC": ("torch-xla has no streams", ("trn1",)),
    "XLA_DOWNCAST_BF16": (
        "deprecated since Neuron 2.23; train.compute_dtype decides",
        ("trn1", "trn2"),
    ),
    "XLA_USE_BF16": ("deprecated since Neuron 2.23; train.compute_dtype decides", ("trn1", "trn2")),
}
