"""The NeuronCore generations and their limits, and how one is selected.

Sources: trainium_inferentia2_arch.rst, trainium2_arch.rst and trainium3_arch.rst of the Neuron SDK
(nki/guides/architecture), and the docstrings of nki.isa 0.6. `platform_target()` reads the same
environment variable as nki: NEURON_PLATFORM_TARGET_OVERRIDE.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ndtrain.nkisim.errors import ApiError

NUM_PARTITIONS = 128
QUADRANT = 32
PSUM_BANK_BYTES = 2048
PSUM_NUM_BANKS = 8
PSUM_BYTES = PSUM_BANK_BYTES * PSUM_NUM_BANKS
MATMUL_STATIONARY_FREE = 128
BN_STATS_FREE = 512
MIN_ALIGN_BYTES = 4
MAX_VIEW_DIMS = 5
KIB = 1024


@dataclass(frozen=True)
class Target:
    """One generation. Sizes are per NeuronCore and per partition."""

    name: str
    generation: int
    sbuf_bytes: int
    moving_free: int
    """Most free elements of a moving operand into a float32 result."""
    moving_free_16bit: int
    """The same into a bfloat16 result (only gen4 writes one)."""
    matmul_row_tile: int
    """Smallest row tile of the systolic array."""
    platforms: tuple[str, ...]

    @property
    def matmul_banks(self) -> int:
        """PSUM banks that one matmul may write."""
        return PSUM_NUM_BANKS if self.generation >= 4 else 1


GEN2 = Target("gen2", 2, 192 * KIB, 512, 512, 64, ("trn1", "inf2"))
GEN3 = Target("gen3", 3, 224 * KIB, 512, 512, 32, ("trn2",))
GEN4 = Target("gen4", 4, 256 * KIB, 4096, 8192, 32, ("trn3",))
TARGETS = (GEN2, GEN3, GEN4)
_BY_NAME = {name: t for t in TARGETS for name in (t.name, *t.platforms)}
DEFAULT = GEN4  # what nki.simulate assumes without a chip (nki/guides/nki_simulator.rst)
OVERRIDE_VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"


def target_named(name: str, where: str = "") -> Target:
    """The generation called `name`: a generation or a platform, e.g. "gen3" or "trn2".

    where: who gave the name, for the ApiError that refuses it.
    """
    found = _BY_NAME.get(name.strip().lower())
    if found is None:
        raise ApiError(f"unknown target {name!r}", where, "use one of " + ", ".join(_BY_NAME))
    return found


def platform_target() -> Target:
    """The generation that the environment selects, gen4 when it says nothing."""
    name = os.environ.get(OVERRIDE_VARIABLE)
    return target_named(name, OVERRIDE_VARIABLE) if name else DEFAULT
