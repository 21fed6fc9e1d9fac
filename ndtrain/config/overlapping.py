"""Whether a configuration asks for collectives beside compute, and so for streams of their own."""

from typing import Literal

from ndtrain.config.schema import Config

OPERATIONS = ("qkv", "o", "gate_up", "down", "head")


def forms(config: Config) -> dict[str, str]:
    """Key of the configuration -> the form that it asks for, an operation's own or `mode`."""
    settings = config.overlap
    asked: dict[str, str] = {"overlap.mode": settings.mode}
    for operation in OPERATIONS:
        own = getattr(settings, operation)
        if own is not None:
            asked[f"overlap.{operation}"] = own
    return asked


def overlaps(config: Config, dp: int) -> bool:
    """dp: data-parallel ranks. What is left to the gate may turn out to be nothing."""
    return overlaps_data(config, dp) or overlaps_tensor(config)


def data_form(config: Config) -> Literal["on", "off", "serial"]:
    """How ZeRO's buckets travel: beside compute, blocking, or as beside it one node at a time."""
    mode, own = config.overlap.mode, config.overlap.data_parallel
    if mode == "serial" and own != "off":
        return "serial"
    if own != "auto":
        return own
    return "off" if mode == "off" else "on"


def overlaps_data(config: Config, dp: int) -> bool:
    """Whether ZeRO's buckets travel beside compute."""
    return dp > 1 and data_form(config) == "on"


def must_hide_buckets(config: Config, dp: int) -> bool:
    """Whether that was asked for: what `auto` comes to may be too little to hide."""
    return config.overlap.data_parallel == "on" and overlaps_data(config, dp)


def overlaps_tensor(config: Config) -> bool:
    """Whether the collectives of parallel linears do."""
    if config.parallel.tp == 1 or config.overlap.mode == "serial":
        return False
    return any(form not in ("off", "serial") for form in forms(config).values())
