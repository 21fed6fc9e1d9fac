"""The names that kernels import: those of NKI's stubs, and which of them NKI 0.2 had.

Sources: the stubs under nki/api/nki of the Neuron SDK at releases 2.28 (NKI 0.2) and 2.32
(NKI 0.6), and names that kernels of nki-library use beyond the stubs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ndtrain.nkisim.errors import not_implemented

VERSIONS = ("0.2", "0.6")

_ROOT = "jit simulate language isa collectives typing"
_TYPING = "tensor"
_ISA = """
activate2 activation activation_reduce affine_select bn_aggr bn_stats core_barrier dge_mode
dma_compute dma_copy dma_engine dma_transpose dropout engine exponential get_nc_sub_version
get_nc_version gpsimd_engine iota local_gather matmul_perf_mode max8 memset nc_find_index8
nc_match_replace8 nc_matmul nc_matmul_mx nc_n_gather nc_stream_shuffle nc_transpose nc_version
NkiInstruction NkiValidationError nonzero_with_count oob_mode quantize_mx rand2 rand_get_state
rand_set_state range_select reciprocal reduce_cmd register_alloc register_load register_move
register_store rng scalar_engine scalar_tensor_tensor select_reduce sendrecv sequence_bounds
set_rng_seed tensor_copy tensor_copy_predicated tensor_engine tensor_partition_reduce
tensor_reduce tensor_scalar tensor_scalar_cumulative tensor_scalar_reduce tensor_tensor
tensor_tensor_scan topk unknown_engine vector_engine VirtualRegister
"""
_LANGUAGE = """
DType MemoryRegion NKIObject NkiTensor abs abs_max abs_min add affine_range all arctan average
bfloat16 bitwise_and bitwise_or bitwise_xor bool_ broadcast_to bypass ceil copy cos device_print
divide dropout ds dynamic_range empty_like equal erf erf_dx exp expand_dims float16 float32
float4_e2m1fn_x4 float8_e4m3 float8_e4m3fn float8_e4m3fn_x4 float8_e5m2 float8_e5m2_x4
float8_e8m0fnu floor fmod fori_loop full gather_flattened gelu gelu_apprx_sigmoid
gelu_apprx_sigmoid_dx gelu_apprx_tanh gelu_dx greater greater_equal hbm int16 int32 int8 invert
is_hbm is_on_chip is_psum is_sbuf left_shift less less_equal load load_transpose2d log logical_and
logical_not logical_or logical_xor matmul max maximum mean min minimum mish mod multiply ndarray
negative no_reorder not_equal num_programs ones power prelu private_hbm prod program_id
program_ndim psum rand random_seed reciprocal relu right_shift rms_norm rsqrt sbuf
sequential_range shared_constant shared_hbm shared_identity_matrix sigmoid sign silu silu_dx sin
softmax softplus sqrt square static_range store subtract sum tan tanh tfloat32 tile_size transpose
trunc uint16 uint32 uint8 var where while_loop zeros zeros_like
"""
_COLLECTIVES = """
ReplicaGroup all_gather all_gather_v all_reduce all_to_all all_to_all_v collective_permute
collective_permute_implicit collective_permute_implicit_current_processing_rank_id
collective_permute_implicit_reduce rank_id reduce_scatter
"""
_TENSOR = """
ap broadcast buffer dtype expand_dim flatten_dims get_pattern indirect is_contiguous is_indirect
name ndim offset permute rearrange reinterpret_cast reshape reshape_dim select shape size slice
squeeze_dim strides vector_select view
"""
PUBLIC: dict[str, tuple[str, ...]] = {
    "nki": tuple(_ROOT.split()),
    "nki.language": tuple(_LANGUAGE.split()),
    "nki.language.NkiTensor": tuple(_TENSOR.split()),
    "nki.isa": tuple(_ISA.split()),
    "nki.collectives": tuple(_COLLECTIVES.split()),
    "nki.typing": tuple(_TYPING.split()),
}
# Names that kernels use although the 0.6 stubs lack them (nki-library).
BEYOND: dict[str, tuple[str, ...]] = {
    "nki": ("dtype",),
    "nki.typing": ("mutable_tensor",),
    "nki.language": ("bool",),
    "nki.isa.constants": (
        "dge_mode", "dma_engine", "engine", "matmul_perf_mode", "nc_version", "oob_mode",
        "reduce_cmd",
    ),
}  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEW_SINCE_0_2: dict[str, frozenset[str]] = {
    "nki": _words("simulate typing"),
    "nki.typing": _words("tensor"),
    "nki.isa": _words(
        "activate2 get_nc_sub_version NkiInstruction NkiValidationError topk VirtualRegister"
    ),
    "nki.collectives": _words("all_gather_v all_to_all_v"),
    "nki.language": _words("""
        DType MemoryRegion NkiTensor abs_max abs_min all broadcast_to bypass ceil cos dropout
        dynamic_range empty_like expand_dims float8_e8m0fnu floor fmod fori_loop full
        gather_flattened is_hbm is_on_chip is_psum is_sbuf load load_transpose2d matmul max mean
        min mod negative no_reorder ones prelu prod rand random_seed rms_norm softmax store sum
        tan transpose trunc var where while_loop zeros_like
    """),
    "nki.language.NkiTensor": _words("""
        broadcast expand_dim flatten_dims get_pattern indirect is_contiguous is_indirect permute
        rearrange reinterpret_cast reshape_dim select slice squeeze_dim vector_select view
    """),
}


def in_version(module: str, name: str, version: str) -> bool:
    """True when NKI `version` has `name`."""
    return version != "0.2" or name not in _NEW_SINCE_0_2.get(module, frozenset())


def placeholder(module: str, name: str) -> Callable[..., Any]:
    """A callable under the public name that says so when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        raise not_implemented(f"{module}.{name}")

    call.__name__ = call.__qualname__ = name
    return call
