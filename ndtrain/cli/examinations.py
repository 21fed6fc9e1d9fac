"""The examinations of `ndtrain doctor`; each returns one line of its report, none raises."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ndtrain.cluster.finding import Finding
from ndtrain.runtime.neuron_packages import (
    PLACEHOLDERS,
    installed,
    is_native,
    placeholders,
    problem,
    version_of,
)

GIB = 1 << 30
# The oldest and the first excluded release, as in pyproject's dependencies.
PYTHON_OLDEST = (3, 11)
TORCH_OLDEST, TORCH_EXCLUDED = (2, 9), (2, 15)
MEMORY_WANTED_GIB = 4
DISK_WANTED_GIB = 5


def examine() -> list[Finding]:
    return [examination() for examination in EXAMINATIONS]


def python() -> Finding:
    detail = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < PYTHON_OLDEST:
        return Finding("fail", "python", detail, "ndtrain needs Python 3.11 or later")
    return Finding("ok", "python", detail)


def torch() -> Finding:
    """Its version from the metadata; whether it loads is gloo's line."""
    version = version_of("torch")
    if version is None:
        return Finding("fail", "torch", "not installed", 'pip install "torch>=2.9,<2.15"')
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if not TORCH_OLDEST <= release < TORCH_EXCLUDED:
        return Finding("fail", "torch", version, "ndtrain needs torch >= 2.9 and < 2.15")
    return Finding("ok", "torch", version)


def gloo() -> Finding:
    """The collectives between CPU ranks."""
    try:
        import torch.distributed as distributed
    except (ImportError, OSError) as error:
        return Finding("fail", "gloo", f"torch does not load: {error}", "reinstall torch")
    if not distributed.is_available() or not distributed.is_gloo_available():
        help_text = "this build of torch trains on one rank only; install one from PyPI"
        return Finding("fail", "gloo", "not in this build of torch", help_text)
    return Finding("ok", "gloo", "available")


def cpu() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    detail = f"{usable} usable, {platform.machine()}"
    detail += f", OMP_NUM_THREADS={threads}" if threads else ""
    if (usable or 1) < 2:
        return Finding("warn", "cpu", detail, "two ranks will take turns on one core")
    return Finding("ok", "cpu", detail)


def memory() -> Finding:
    """All of the machine's, free or not."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    detail = f"{total:.1f} GiB"
    if total < MEMORY_WANTED_GIB:
        return Finding("warn", "memory", detail, f"the quickstart wants {MEMORY_WANTED_GIB} GiB")
    return Finding("ok", "memory", detail)


def disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    detail = f"{free:.1f} GiB free in {Path.cwd()}"
    if free < DISK_WANTED_GIB:
        help_text = "checkpoints may not fit; set run.directory to another disk"
        return Finding("warn", "disk", detail, help_text)
    return Finding("ok", "disk", detail)


def cache_directory() -> Path:
    """Where trained tokenizers and encoded text go unless data.cache_directory says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ndtrain"


def cache() -> Finding:
    directory = cache_directory()
    existing = next(path for path in (directory, *directory.parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        help_text = "set XDG_CACHE_HOME or data.cache_directory to a folder you can write to"
        return Finding("fail", "cache", f"{directory}: {error.strerror}", help_text)
    return Finding("ok", "cache", str(directory))


def neuron() -> Finding:
    """Neuron's packages and whose stack they are; training on a CPU needs none."""
    found = installed(tuple(PLACEHOLDERS))
    empty = placeholders(found)
    listed = ", ".join(f"{package} {version}" for package, version in found.items())
    if empty:
        help_text = (
            f"PyPI's placeholder without code: {', '.join(empty)}; install from the package index "
            "in the AWS Neuron setup guide"
        )
        return Finding("warn", "neuron", listed, help_text)
    if "torch-neuronx" not in found:
        return Finding("ok", "neuron", listed or "not installed")
    device, runtime = ("trn2", "neuron") if is_native(found["torch-neuronx"]) else ("trn1", "xla")
    wrong = problem(installed(), device)
    if wrong is not None:
        return Finding("warn", "neuron", f"{wrong[0]} ({listed})", wrong[1])
    return Finding("ok", "neuron", f"runtime.device={runtime}: {listed}")


def configs() -> Finding:
    """Whether the presets were installed with the package."""
    from ndtrain.config import presets

    return Finding("ok", "configs", f"{len(presets.names())} in {presets.folder()}")


EXAMINATIONS: tuple[Callable[[], Finding], ...] = (
    python,
    torch,
    gloo,
    cpu,
    memory,
    disk,
    cache,
    configs,
    neuron,
)
