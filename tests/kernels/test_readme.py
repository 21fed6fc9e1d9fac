"""kernels/README.md: its table, its commands and its example are true."""

from __future__ import annotations

import re
import shlex
from typing import Any

import numpy as np
from ndtrain.kernels import KERNELS

from ndtrain.cli.kernels import kernels as command
from tests.kernels.kernel_cases import FOLDER

TEXT = (FOLDER / "README.md").read_text()


def test_the_table_has_every_kernel_and_its_targets() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    stated = {}
    for row in rows:
        names, *cells = row.strip("|").split("|")
        targets = tuple(t for t, c in zip(("trn1", "trn2", "trn3"), cells, strict=True)
                        if c.strip() == "simulated")  # fmt: skip
        for name in re.findall(r"`(\w+)`", names):
            stated[name] = targets
    assert stated == {kernel.name: kernel.targets for kernel in KERNELS.values()}


def test_its_commands_exist() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("ndtrain kernels ")]
    assert len(lines) == 3
    for line in lines:
        name, *arguments = shlex.split(line.partition("#")[0])[2:]
        command.commands[name].make_context(name, arguments)  # raises on an unknown option


def test_its_example_runs() -> None:
    example = TEXT.split("```python")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["out"].shape == (300, 1, 4, 64)
    assert np.isfinite(names["lse"]).all()
