"""The machine that a rank is on, by the hardware table: for what a host cannot measure.

hardware = find_hardware("xla", os.environ)
hardware.source               # "from the hardware table of trn1.32xlarge, not measured"
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ndtrain.hardware.instances import HARDWARE, find_instance
from ndtrain.hardware.tables import Device

# Where nobody says it, the one that the runtime was written for.
_ASSUMED = {"xla": "trn1.32xlarge", "neuron": "trn2.48xlarge"}


@dataclass(frozen=True)
class Hardware:
    device: Device
    source: str
    is_known: bool  # else it was assumed


def find_hardware(runtime_device: str, environment: Mapping[str, str]) -> Hardware:
    """runtime_device: xla or neuron. Raises UserError for a name that is no instance."""
    named = environment.get(HARDWARE, "cpu")
    instance = find_instance(named)
    is_known = instance.device is not None
    if not is_known:
        instance = find_instance(_ASSUMED[runtime_device])
    assert instance.device is not None
    source = f"from the hardware table of {instance.name}, not measured"
    if not is_known:
        source += f"; no {HARDWARE} names another"
    return Hardware(instance.device, source, is_known)
