"""Guards on the default process group."""

import torch.distributed as dist

from ndtrain.core.errors import UserError


def check_group(size: int, device: str) -> None:
    """size: ranks of the configuration; device: `runtime.device`. Raises UserError for another."""
    group_size = dist.get_world_size() if dist.is_initialized() else 1
    if group_size != size:
        raise UserError(
            f"the process group has {group_size} ranks, the configuration {size}",
            f"runtime.device={device}",
            "start as many ranks as parallel.tp x parallel.dp",
        )
