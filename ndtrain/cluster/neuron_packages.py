"""Neuron's Python packages, as a finding.

stack(installed(), "trn1")      # -> [Finding("ok", "neuron packages", "torch-neuronx 2.9...")]
"""

from collections.abc import Mapping

from ndtrain.cluster.finding import Finding
from ndtrain.runtime.neuron_packages import problem

_NAME = "neuron packages"


def stack(versions: Mapping[str, str], device: str) -> list[Finding]:
    """What is wrong with the packages for this device (trn1, trn2), or one line that nothing is."""
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    wrong = problem(versions, device)
    if wrong is None:
        return [Finding("ok", _NAME, shown)]
    what, help_text = wrong
    return [Finding("fail", _NAME, f"{what} ({shown})", help_text)]
