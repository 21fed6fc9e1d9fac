"""neuronx-distributed's own code, from a checkout that NDTRAIN_NXD names, on a CPU.

    root = checkout()                       # in the test, which is skipped if none is named
    install(root); module("trainer.checkpoint").save_checkpoint(...)      # in a rank

Its packages for the device are closed and not on PyPI, and it wants libraries for pipelines and S3:
`install` puts stand-ins with the names that it imports into sys.modules. They are the last inch,
and nothing that is tested here computes with them. Written for release 2.29, commit fbac349.

torch-xla's CPU device knows its own process alone, so what NxD asks of the other processes (its
rendezvous and, where a test wants them, ZeRO's collectives) is carried by gloo.
"""

import importlib
import importlib.machinery
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.distributed as dist

VARIABLE = "NDTRAIN_NXD"
PACKAGE = "neuronx_distributed"


def checkout() -> Path:
    """The folder that has the package; skips the test when none is named."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} does not name a checkout of neuronx-distributed")
    return Path(folder) / "src"


class Anything:
    """A class, a decorator or a setting that is asked for and never used."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


class NoRing:
    """Context parallelism's neighbours, which are looked up for each rank and used by none."""

    def __init__(self, replica_groups: list[list[int]]) -> None:
        self.rank_src_tgt_pairs = [()] * sum(map(len, replica_groups))


def stand_ins(platform: str) -> dict[str, dict[str, Any]]:
    """Module -> its names. platform: what the device's package says that it runs on."""
    return {
        "torch_neuronx.utils": {"get_platform_target": lambda: platform},
        "neuronxcc.nki.language": {},
        "neuronxcc.nki.kernels.attention": {"FlashConfig": dict},
        "neuronxcc.nki._pre_prod_kernels.collectives": {"CollectivesConfig": NoRing},
        "transformers": {"PreTrainedModel": Anything},
        "transformers.utils.fx": {"HFTracer": Anything},
        "boto3.s3.transfer": {"TransferConfig": Anything},
        "botocore.session": {"Session": Anything},
        "tenacity": dict.fromkeys(
            (
                "before_sleep_log",
                "retry",
                "retry_if_exception",
                "stop_after_attempt",
                "RetryCallState",
            ),
            Anything,
        ),
        "tenacity.wait": {"wait_base": Anything},
    }


def install(root: Path, platform: str = "trn1") -> None:
    """Makes `neuronx_distributed` importable in this process, from the checkout's `src`."""
    import torch_xla  # noqa: F401  # before the stand-ins: it looks for the device's packages
    import torch_xla.core.xla_env_vars as xla_variables
    import torch_xla.core.xla_model as xm

    for name, names in stand_ins(platform).items():
        for end in range(1, name.count(".") + 2):
            _package(".".join(name.split(".")[:end]))
        vars(sys.modules[name]).update(names)
    # Its own `__init__` imports inference too.
    _package(PACKAGE).__path__ = [str(root / PACKAGE)]
    # Where the device is not Neuron's it counts processes by a variable that torch-xla had before.
    xla_variables.HOST_WORLD_SIZE = "NUM_HOSTS"
    os.environ["NUM_HOSTS"] = "1"
    if dist.is_initialized():
        xm.rendezvous = lambda *_, **__: dist.barrier()


def module(name: str) -> Any:
    return importlib.import_module(f"{PACKAGE}.{name}")


def _package(name: str) -> ModuleType:
    if name not in sys.modules:
        made = ModuleType(name)
        made.__path__ = []
        made.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = made
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, made)
    return sys.modules[name]
