"""Variables that native PyTorch on Neuron needs for collectives beside compute.

    missing = missing_variables(os.environ)      # {} where collectives will leave the host's way

They are read while torch is imported, so a process cannot set them for itself. Source: Neuron SDK,
tools/neuron-explorer/environment-variables. Unused, the streams of collectives cost a part of what
moves data: they are set for overlap alone.
"""

from collections.abc import Mapping

STREAM_VARIABLES = {
    "TORCH_NEURONX_ENABLE_HOST_CC": "collectives on streams of their own",
    "TORCH_NEURONX_ENABLE_ASYNC_NRT": "compute does not wait for them",
}


def missing_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that are not on, with the value that they should have."""
    return {name: "1" for name in STREAM_VARIABLES if environment.get(name) != "1"}
