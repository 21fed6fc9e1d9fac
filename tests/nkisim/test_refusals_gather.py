"""Refused gathers of GpSimd inside SBUF: one kernel for each limit."""

from collections.abc import Callable
from typing import Any

import pytest

from .kernels import nisa, refuses, sbuf, t

BF = "bfloat16"
Case = tuple[str, Callable[[], Any], str, str]


def gather(places: Any, width: int = 8, dst: Any = None, **how: Any) -> None:
    """A local_gather from a (16, width) tile."""
    nisa.local_gather(sbuf((16, 16)) if dst is None else dst, t(16, width), places, **how)


def places(value: int = 0, dtype: Any = "uint16", partitions: int = 16) -> Any:
    return t(partitions, 1, value=value, dtype=dtype)


GATHERS: list[Case] = [
    (
        "signed indices",
        lambda: nisa.nc_n_gather(sbuf((4, 2)), t(4, 8), t(4, 2, dtype="int32")),
        "trn2",
        r"nc_n_gather: `indices` is int32 \(uint32\)",
    ),
    (
        "gathered type",
        lambda: nisa.nc_n_gather(sbuf((4, 2), BF), t(4, 8), t(4, 2, dtype="uint32")),
        "trn2",
        r"nc_n_gather: .* `dst` is bfloat16, `data` is float32 \(equal types\)",
    ),
    (
        "index beyond the row",
        lambda: nisa.nc_n_gather(sbuf((4, 2)), t(4, 8), t(4, 2, dtype="uint32", value=8)),
        "trn2",
        "nc_n_gather: `indices` holds 8; `data` has 8 elements per partition",
    ),
    (
        "32-bit local indices",
        lambda: gather(places(dtype="uint32")),
        "trn2",
        r"local_gather: `index` \[16, 1\] uint32: a multiple of 16 partitions of uint16",
    ),
    (
        "8 partitions",
        lambda: nisa.local_gather(sbuf((8, 16)), t(8, 8), places(partitions=8)),
        "trn2",
        r"local_gather: `index` \[8, 1\] uint16: a multiple of 16 partitions",
    ),
    (
        "three elements for an index",
        lambda: gather(places(), num_elem_per_idx=3),
        "trn2",
        r"local_gather: `num_elem_per_idx` 3; use \(1, 2, 4, 8, 16, 32\)",
    ),
    (
        "half an element group",
        lambda: gather(places(), width=7, num_elem_per_idx=2),
        "trn2",
        "local_gather: `src_buffer` has 7 elements per partition, no multiple of 2",
    ),
    (
        "17 of 16 indices",
        lambda: gather(places(), num_valid_indices=17),
        "trn2",
        "local_gather: 17 valid indices; `index` holds 16 for a GpSimd core",
    ),
    (
        "no index",
        lambda: gather(places(), num_valid_indices=0),
        "trn2",
        "local_gather: 0 valid indices",
    ),
    (
        "4112 indices",
        lambda: gather(t(16, 257, dtype="uint16"), dst=sbuf((16, 4112))),
        "trn2",
        "local_gather: 4112 valid indices; .* takes up to 4096",
    ),
    (
        "local result size",
        lambda: gather(places(), dst=sbuf((16, 15))),
        "trn2",
        r"local_gather: `dst` \[16, 15\] float32 does not hold 16 x 1 of float32",
    ),
    (
        "local index beyond the row",
        lambda: gather(places(value=4), num_elem_per_idx=2, dst=sbuf((16, 32))),
        "trn2",
        "local_gather: `index` holds 4; `src_buffer` has 4 x 2 elements per partition",
    ),
    (
        "no room for the count",
        lambda: nisa.nonzero_with_count(sbuf((16, 8), "int32"), t(16, 8)),
        "trn2",
        "nonzero_with_count: `dst` has 8 elements, `src` 8: one more",
    ),
    (
        "nonzero of bf16",
        lambda: nisa.nonzero_with_count(sbuf((16, 9), "int32"), t(16, 8, dtype=BF)),
        "trn2",
        r"nonzero_with_count: `src` is bfloat16 \(float32, int32\)",
    ),
    (
        "bounds of two rows",
        lambda: nisa.sequence_bounds(sbuf((2, 2, 8)), t(2, 8)),
        "trn2",
        r"sequence_bounds: `segment_ids` \[2, 8\].*\[1, n\] and \[1, 2, n\]",
    ),
    (
        "bounds into two rows",
        lambda: nisa.sequence_bounds(sbuf((2, 2, 8)), t(1, 8)),
        "trn2",
        r"sequence_bounds: .* `dst` \[2, 2, 8\]",
    ),
    (
        "bounds of bf16",
        lambda: nisa.sequence_bounds(sbuf((1, 2, 8)), t(1, 8, dtype=BF)),
        "trn2",
        "sequence_bounds: `segment_ids` is bfloat16, `dst` float32: float32 or int32",
    ),
]


@pytest.mark.parametrize(
    ("body", "target", "words"), [c[1:] for c in GATHERS], ids=[c[0] for c in GATHERS]
)
def test_refused(body: Callable[[], Any], target: str, words: str) -> None:
    refuses(body, target, words)
