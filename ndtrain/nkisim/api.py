"""What the simulator does with each public name of NKI.

`names()` lists them: module, name, status, the first NeuronCore generation that has it, the first
NKI version.
"""

from __future__ import annotations

from dataclasses import dataclass

from ndtrain.nkisim.modules import implemented
from ndtrain.nkisim.public_names import BEYOND, PUBLIC, in_version

_GEN3 = frozenset({
    "core_barrier", "nonzero_with_count", "rand_get_state", "rand_set_state", "range_select",
    "sendrecv",
})  # fmt: skip
_GEN4 = frozenset({
    "abs_max", "abs_min", "activate2", "exponential", "float4_e2m1fn_x4", "float8_e4m3fn",
    "float8_e4m3fn_x4", "float8_e5m2_x4", "float8_e8m0fnu", "indirect", "nc_matmul_mx",
    "quantize_mx", "rand2",
})  # fmt: skip


@dataclass(frozen=True)
class Name:
    """One public name. status: "implemented" or "not implemented"."""

    module: str
    name: str
    status: str
    generation: int
    since: str


def names(version: str = "0.6") -> list[Name]:
    """Every public name of `version`, by module and name."""
    found = []
    for table in (PUBLIC, BEYOND):
        for module, members in table.items():
            have = implemented(module)
            for name in members:
                if not in_version(module, name, version):
                    continue
                since = "0.2" if in_version(module, name, "0.2") else "0.3 or later"
                status = "implemented" if name in have else "not implemented"
                generation = 4 if name in _GEN4 else 3 if name in _GEN3 else 2
                found.append(Name(module, name, status, generation, since))
    return sorted(found, key=lambda n: (n.module, n.name.lower()))
