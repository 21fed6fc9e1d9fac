"""On what a run ran: versions, machine and commit, for `env.json` and for reports of problems.

Nothing secret: of the environment's variables only those on a short list are kept, and of git
neither the remote's address nor the changes themselves.
"""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import ndtrain

_PACKAGES = (
    "torch",
    "numpy",
    "pydantic",
    "safetensors",
    "tokenizers",
    "transformers",
    "torch-xla",
    "torch-neuronx",
    "neuronx-cc",
    "nki",
)
# What decides speed or layout and can hold no secret.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "GLOO_SOCKET_IFNAME",
    "LOCAL_WORLD_SIZE",
    "MKL_NUM_THREADS",
    "NEURON_LOGICAL_NC_CONFIG",
    "NEURON_RT_NUM_CORES",
    "NEURON_RT_VISIBLE_CORES",
    "OMP_NUM_THREADS",
    "PJRT_DEVICE",
    "SLURM_JOB_ID",
    "SLURM_JOB_NUM_NODES",
    "WORLD_SIZE",
)


def describe_environment() -> dict[str, Any]:
    """Versions of ndtrain, Python and packages (by metadata, none is imported), machine, commit."""
    return {
        "ndtrain": ndtrain.__version__,
        "python": sys.version.split()[0],
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "processor": processor_name(),
        "num_cpus": available_cpus(),
        "hostname": platform.node(),
        "git": _git_state(Path(ndtrain.__file__).resolve().parent),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def available_cpus() -> int:
    """CPUs that this process may use, which under SLURM or taskset are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The CPU's own name on Linux, else what the platform module knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that ndtrain runs from; None if it runs from none.

    An installed ndtrain may lie inside the checkout of something else, whose commit says nothing
    about it, so the folder must be tracked.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
