"""Which backend of torch.compile a device has, and whether it is there.

    backend = require_compiler("cpu")         # "inductor"; raises UserError before any work

cpu: PyTorch's inductor, which writes C++. neuron: the backend that torch-neuronx registers, which
lowers PyTorch's operations to Neuron's compiler (Neuron SDK 2.33, torch/compile). On xla a step is
one graph already.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

from ndtrain.core.errors import UserError

WHERE = "runtime.compile=true"
BACKENDS = {"cpu": "inductor", "neuron": "neuron"}


def require_compiler(device: str) -> str:
    """device: of `runtime.device`, not xla; a device's packages have been imported."""
    if device == "cpu":
        _require_cpp()
    elif BACKENDS[device] not in torch.compiler.list_backends(exclude_tags=()):
        raise UserError(
            f"torch has no backend `{BACKENDS[device]}` to compile with",
            WHERE,
            "install torch-neuronx 2.13 or later (`ndtrain doctor`), or set runtime.compile=false",
        )
    return BACKENDS[device]


def _require_cpp() -> None:
    """Inductor takes CXX, else this name; its C++ includes Python's header."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"there is no C++ compiler `{compiler}`, which torch.compile needs on a CPU",
            WHERE,
            "install one (Debian: apt install g++; macOS: xcode-select --install), name another in"
            " CXX, or set runtime.compile=false",
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise UserError(
            f"there is no {header}, which the C++ of torch.compile includes",
            WHERE,
            "install Python's headers (Debian: apt install python3-dev), or set"
            " runtime.compile=false",
        )
