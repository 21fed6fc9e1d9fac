"""Whose cache of compiled graphs a run fills, by its device and the packages that are installed.

owner = cache_owner("xla")              # "neuronx-cc" on Neuron, else "torch-xla"
cache_place(owner, os.environ)
"""

from ndtrain.runtime.graph_cache import Owner


def cache_owner(device: str) -> Owner | None:
    """device: of `runtime.device`; None where no graph is kept.

    Raises UserError for Neuron packages that are not those of torch-xla's stack.
    """
    if device == "neuron":
        return "torch-neuronx"
    if device != "xla":
        return None
    from ndtrain.runtime.start_xla import neuron_packages, xla_cache_owner  # imports torch

    return xla_cache_owner(neuron_packages())
