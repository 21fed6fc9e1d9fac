"""`nl.tile_size`: hardware sizes of the selected generation."""

from __future__ import annotations

from ndtrain.nkisim.machine import current_target
from ndtrain.nkisim.objects import NKIObject
from ndtrain.nkisim.target import (
    BN_STATS_FREE,
    MATMUL_STATIONARY_FREE,
    MIN_ALIGN_BYTES,
    NUM_PARTITIONS,
    PSUM_BANK_BYTES,
    PSUM_NUM_BANKS,
)

_FLOAT32_BYTES = 4


class TileSize(NKIObject):
    """Sizes in elements unless the name says bytes; per partition unless it says total."""

    pmax = NUM_PARTITIONS
    psum_bank_fmax_bytes = PSUM_BANK_BYTES
    psum_bank_fmax = PSUM_BANK_BYTES // _FLOAT32_BYTES
    psum_fmax = psum_bank_fmax
    gemm_stationary_fmax = MATMUL_STATIONARY_FREE
    bn_stats_fmax = BN_STATS_FREE
    psum_min_align = MIN_ALIGN_BYTES
    sbuf_min_align = MIN_ALIGN_BYTES
    psum_num_banks = PSUM_NUM_BANKS

    @property
    def gemm_moving_fmax(self) -> int:
        # The documented constant: one PSUM bank of float32; gen4's larger limit is not in it.
        return PSUM_BANK_BYTES // _FLOAT32_BYTES

    @property
    def sbuf_fmax_bytes(self) -> int:
        return current_target().sbuf_bytes

    @property
    def sbuf_fmax(self) -> int:
        return self.sbuf_fmax_bytes // _FLOAT32_BYTES

    @property
    def sbuf_size_bytes(self) -> int:
        return self.sbuf_fmax_bytes * NUM_PARTITIONS

    @property
    def total_available_sbuf_size(self) -> int:
        return self.sbuf_fmax_bytes
