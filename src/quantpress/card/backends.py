"""Which of llama.cpp's back ends multiply with which tensor types, and which types the CPU rearranges on loading.

Read from llama.cpp at commit 0c1e57098 (version 0.5.0-dev, ggml 0.25.3): each back end's `supports_op` for
`GGML_OP_MUL_MAT` (in `ggml/src/ggml-cuda`, `-metal`, `-vulkan`, `-sycl`, `-opencl`, `-webgpu`, `-cann`; HIP compiles
CUDA's), and for the CPU `ggml_repack_get_optimal_repack_type` in `ggml-cpu/repack.cpp` and `qtype_has_amx_kernels`. A
tensor that a back end cannot multiply with stays with the CPU: it works, but slowly.
"""

from __future__ import annotations

__all__ = ["BACKENDS", "FAMILIES", "READ_FROM", "REPACKED", "matrix"]

READ_FROM = "0.5.0-dev (0c1e57098)"

FAMILIES = {
    "F16, BF16": ("F16", "BF16"),
    "Q4_0 … Q8_0": ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    "Q2_K … Q6_K": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    "IQ4_NL, IQ4_XS": ("IQ4_NL", "IQ4_XS"),
    "IQ1 … IQ3": ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
    "MXFP4": ("MXFP4",),
    "TQ1_0, TQ2_0": ("TQ1_0", "TQ2_0"),
}

_ALL = frozenset(type for types in FAMILIES.values() for type in types)
_TERNARY = frozenset(FAMILIES["TQ1_0, TQ2_0"])

BACKENDS = {
    "CPU": _ALL,
    "CUDA (NVIDIA)": _ALL - _TERNARY,
    "HIP (AMD)": _ALL - _TERNARY,
    "Metal (Apple)": _ALL - {"TQ1_0"},
    "Vulkan": _ALL,
    "SYCL (Intel)": _ALL - _TERNARY,
    "OpenCL (Adreno)": frozenset(
        "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K IQ4_NL MXFP4".split(),
    ),
    "WebGPU": _ALL - _TERNARY - {"BF16"},
    "CANN (Ascend)": frozenset({"F16", "BF16", "Q4_0", "Q8_0"}),
}

REPACKED = {
    "x86, AVX2": ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4"),
    "x86, AVX-512": ("Q2_K", "Q4_0", "Q4_K", "IQ4_NL", "MXFP4"),
    "x86, AMX": ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"),
    "ARM, NEON + dotprod": ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"),
}


def matrix() -> list[tuple[str, list[str]]]:
    """A line a back end: its name, and by family ✓ for all types, – for none, or the types that it has."""
    return [(name, [_cell(family, types) for family in FAMILIES.values()]) for name, types in BACKENDS.items()]


def _cell(family: tuple[str, ...], types: frozenset[str]) -> str:
    held = [type for type in family if type in types]
    return "✓" if len(held) == len(family) else ", ".join(held) or "–"
