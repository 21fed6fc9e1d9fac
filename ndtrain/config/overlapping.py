"""Whether a configuration asks for collectives beside compute, and so for streams of their own."""

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


def overlaps_data(config: Config, dp: int) -> bool:
    """Whether ZeRO's buckets travel beside compute."""
    return dp > 1 and config.overlap.data_parallel != "off"


def overlaps_tensor(config: Config) -> bool:
    """Whether the collectives of parallel linears do."""
    if config.parallel.tp == 1 or config.overlap.mode == "serial":
        return False
    return any(form != "off" for form in forms(config).values())
