"""NKI 0.2 (Neuron 2.28): the argument lists that differ from 0.6, and what it refuses.

Clusters of trn1 are pinned to this version, so kernels for them have to keep to it. The lists are
those of the stubs at release 2.28 of the Neuron SDK.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ndtrain.nkisim import enums, ops
from ndtrain.nkisim.errors import ApiError

_REQUIRED = inspect.Parameter.empty
_UNKNOWN = enums.engine.unknown
Parameters = dict[str, Any]


def _of(names: str, **defaults: Any) -> Parameters:
    """Parameters in order: the names without a default, then those with one."""
    return {n: defaults.get(n, _REQUIRED) for n in (*names.split(), *defaults)}


SIGNATURES: dict[str, Parameters] = {
    "affine_select": _of(
        "dst pattern offset channel_multiplier on_true_tile on_false_value",
        cmp_op=ops.equal, name=None,
    ),
    "core_barrier": _of("data cores", engine=_UNKNOWN, name=None),
    "dma_compute": _of("dst srcs scales reduce_op", name=None),
    "dma_copy": _of(
        "dst src", dst_rmw_op=None, oob_mode=enums.oob_mode.error,
        dge_mode=enums.dge_mode.unknown, unique_indices=True, name=None,
    ),
    "dma_transpose": _of(
        "dst src", axes=None, dge_mode=enums.dge_mode.unknown, oob_mode=enums.oob_mode.error,
        name=None,
    ),
    "iota": _of("dst pattern offset", channel_multiplier=0, name=None),
    "nc_matmul": _of(
        "dst stationary moving", is_stationary_onezero=False, is_moving_onezero=False,
        is_transpose=False, tile_position=(), tile_size=(),
        perf_mode=enums.matmul_perf_mode.none, name=None,
    ),
    "nc_matmul_mx": _of(
        "dst stationary moving stationary_scale moving_scale", tile_position=None, tile_size=None,
        name=None,
    ),
    "register_move": _of("dst imm"),
    "sendrecv": _of("src dst send_to_rank recv_from_rank pipe_id", name=None),
    "tensor_scalar_cumulative": _of(
        "dst src op0 op1 imm0", imm1=None, reduce_cmd=enums.reduce_cmd.reset_reduce
    ),
    "tensor_scalar_reduce": _of(
        "dst data op0 operand0 reduce_op reduce_res", reverse0=False, name=None
    ),
    "all_reduce": _of("srcs dsts replica_group op"),
    "all_gather": _of("srcs dsts replica_group collective_dim"),
    "reduce_scatter": _of("srcs dsts replica_group collective_dim op"),
    "all_to_all": _of("srcs dsts replica_group collective_dim"),
    "collective_permute": _of("srcs dsts source_target_pairs"),
    "collective_permute_implicit": _of(
        "srcs_by_channel dsts_by_channel replica_group", channel_ids=(0,)
    ),
    "collective_permute_implicit_current_processing_rank_id": _of(
        "iteration_id replica_group", channel_id=0, num_channels=1
    ),
    "rank_id": {},
    "program_id": _of("axis"),
    "sequential_range": _of("start stop step"),
    "zeros": _of("shape dtype", buffer=None, name=""),
    "shared_constant": _of("constant", dtype=None),
    "shared_identity_matrix": _of("n", dtype="uint8"),
}  # fmt: skip
_RENAMED = {"register_move": {"imm": "src"}}
# Arguments of 0.2 that 0.6 no longer has: only their default can be simulated.
_GONE: dict[str, Parameters] = {
    "dma_copy": {"dst_rmw_op": None, "unique_indices": True},
    "collective_permute_implicit_current_processing_rank_id": {"num_channels": None},
    "core_barrier": {"engine": _UNKNOWN},
    "shared_constant": {"dtype": None},
    "zeros": {"buffer": None},
}


def adapt(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the argument list that NKI 0.2 gave it."""
    parameters = SIGNATURES.get(name)
    if parameters is None:
        return function
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(n, kind, default=d) for n, d in parameters.items()]
    )

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ApiError(
                f"{name}: {error} in NKI 0.2", _caller(), f"NKI 0.2 has {name}{signature}"
            ) from None
        arguments = dict(bound.arguments)
        for key, default in _GONE.get(name, {}).items():
            given = arguments.get(key, default)
            if given == default or (default is None and key == "num_channels"):
                arguments.pop(key, None)
        for old, new in _RENAMED.get(name, {}).items():
            arguments[new] = arguments.pop(old)
        return function(**arguments)

    return call


def _caller() -> str:
    frame = inspect.currentframe()
    back = frame.f_back.f_back if frame and frame.f_back else None
    return f"{back.f_code.co_filename}:{back.f_lineno}" if back else ""
