"""Neuron's Python packages: are they real, of one stack, and of one release?

    problem(installed(), "trn1")    # None, or what is wrong and what helps

There are two stacks that exclude each other: torch-xla with a torch-neuronx of up to 2.9 (trn1),
and native PyTorch with a torch-neuronx from 2.13 on (trn2 and later). Sources: release notes of the
Neuron SDK, 2.27 to 2.33.
"""

import importlib.metadata
from collections.abc import Mapping

# Under these names and versions PyPI serves packages without code, uploaded to hold the name; the
# real ones come from the package index that AWS's Neuron setup guide names.
PLACEHOLDERS = {
    "torch-neuronx": "1.0",
    "neuronx-distributed": "0.1",
    "neuronx-cc": "1.0.post1",
    "libneuronxla": "1.0",
    "nki": "0.0.1",
}
PACKAGES = ("torch", "torch-xla", *PLACEHOLDERS)
_LAST_XLA, _FIRST_NATIVE = (2, 9), (2, 13)
# torch-neuronx 2.9.0.2.BUILD.* and neuronx-cc 2.MINOR.* of one SDK release.
_COMPILER_OF_BUILD = {"11": "22", "12": "23", "13": "24", "14": "25", "15": "26"}
_SDK_OF_BUILD = {"11": "2.27", "12": "2.28", "13": "2.29", "14": "2.30", "15": "2.31"}


def version_of(package: str) -> str | None:
    """From the metadata; nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    found = {package: version_of(package) for package in packages}
    return {package: version for package, version in found.items() if version is not None}


def placeholders(versions: Mapping[str, str]) -> list[str]:
    """The packages that hold a name and no code."""
    return [name for name, version in versions.items() if PLACEHOLDERS.get(name) == version]


def is_native(neuronx: str) -> bool:
    """Whether this version of torch-neuronx is native PyTorch's and not torch-xla's."""
    return _minor(neuronx) >= _FIRST_NATIVE


def how_to_install(device: str) -> str:
    """The extra of this device's stack (trn1, trn2), and the file with its versions."""
    extra = "neuron-xla" if device == "trn1" else "neuron"
    index = "--extra-index-url NEURON_INDEX"
    return f"pip install {index} -c launch/constraints-{extra}.txt 'ndtrain[{extra}]'"


def problem(versions: Mapping[str, str], device: str) -> tuple[str, str] | None:
    """What is wrong with the packages for this device (trn1, trn2), and what helps."""
    empty = placeholders(versions)
    if empty:
        help_text = "install from the package index in the AWS Neuron setup guide"
        return f"PyPI's placeholder without code: {', '.join(empty)}", help_text
    neuronx, xla = versions.get("torch-neuronx"), versions.get("torch-xla")
    if neuronx is None:
        return "torch-neuronx is not installed", f"{how_to_install(device)}: see launch/README.md"
    native = is_native(neuronx)
    if native and xla is not None:
        return (
            "two stacks in one environment: a native torch-neuronx, and torch-xla",
            f"in a new environment: {how_to_install(device)}",
        )
    if device == "trn1" and native:
        return "native PyTorch does not support trn1", f"SDK 2.28: {how_to_install(device)}"
    if device != "trn1" and not native:
        return f"torch-xla's stack on {device}", f"SDK 2.33 or later: {how_to_install(device)}"
    if not native:
        return _xla_problem(versions, neuronx, xla)
    return _torch_problem(versions, neuronx)


def _xla_problem(
    versions: Mapping[str, str], neuronx: str, xla: str | None
) -> tuple[str, str] | None:
    if xla is None:
        return "torch-neuronx without torch-xla", f"pip install torch-xla=={_text(_minor(neuronx))}"
    if _minor(neuronx) > _LAST_XLA or _minor(xla) != _minor(neuronx):
        what = "torch-xla and torch-neuronx are of different releases of PyTorch"
        return what, f"pip install torch-xla=={_text(_minor(neuronx))}"
    build = (neuronx.split(".") + [""] * 5)[4]
    wanted, compiler = _COMPILER_OF_BUILD.get(build), versions.get("neuronx-cc")
    if wanted and compiler and compiler.split(".")[1] != wanted:
        what = f"neuronx-cc {compiler} is not of SDK {_SDK_OF_BUILD[build]}, as torch-neuronx is"
        return what, f'pip install "neuronx-cc==2.{wanted}.*"'
    return _torch_problem(versions, neuronx)


def _torch_problem(versions: Mapping[str, str], neuronx: str) -> tuple[str, str] | None:
    torch = versions.get("torch", "0.0")
    if _minor(torch) == _minor(neuronx):
        return None
    return (
        f"torch {torch} under torch-neuronx {neuronx}",
        f'pip install "torch=={_text(_minor(neuronx))}.*"',
    )


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def _text(minor: tuple[int, int]) -> str:
    return f"{minor[0]}.{minor[1]}"
