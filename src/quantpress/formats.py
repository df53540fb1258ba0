"""THE table of tensor types. Bits a weight, row sizes, fallbacks and imatrix needs are all derived from it.

Block sizes and numbers: `ggml.h` and the GGUF specification; fallbacks: `tensor_type_fallback` in llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from quantpress.errors import PlanError

__all__ = ["TYPES", "TYPES_BY_ID", "TensorType", "fitting_type", "tensor_type"]


@dataclass(frozen=True, slots=True)
class TensorType:
    """One type of tensor data: `block` weights are stored in `bytes` bytes."""

    name: str
    id: int
    block: int
    bytes: int
    kind: str = "quantized"  # or "float", "integer"
    needs_imatrix: bool = False
    fallback: str | None = None  # where a row is no multiple of `block`
    encodable: bool = True  # ggml can encode it; False: read only
    trained: bool = False  # models are trained in it: a checkpoint that has it is the original

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.bytes / self.block

    @property
    def quantized(self) -> bool:
        """Whether it is a block format (not a plain float or integer)."""
        return self.kind == "quantized"

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` weights; `cols` must be a multiple of `block`."""
        if cols % self.block:
            raise PlanError(None, f"a row of type {self.name}", expected=f"a multiple of {self.block}", found=cols)
        return cols // self.block * self.bytes


_TABLE = (
    TensorType("F32", 0, 1, 4, "float"),
    TensorType("F16", 1, 1, 2, "float"),
    TensorType("BF16", 30, 1, 2, "float"),
    TensorType("Q4_0", 2, 32, 18),
    TensorType("Q4_1", 3, 32, 20),
    TensorType("Q5_0", 6, 32, 22),
    TensorType("Q5_1", 7, 32, 24),
    TensorType("Q8_0", 8, 32, 34),
    TensorType("Q2_K", 10, 256, 84, fallback="Q4_0"),
    TensorType("Q3_K", 11, 256, 110, fallback="Q4_0"),
    TensorType("Q4_K", 12, 256, 144, fallback="Q5_0"),
    TensorType("Q5_K", 13, 256, 176, fallback="Q5_1"),
    TensorType("Q6_K", 14, 256, 210, fallback="Q8_0"),
    TensorType("IQ1_S", 19, 256, 50, needs_imatrix=True, fallback="IQ4_NL"),
    TensorType("IQ1_M", 29, 256, 56, needs_imatrix=True, fallback="IQ4_NL"),
    TensorType("IQ2_XXS", 16, 256, 66, needs_imatrix=True, fallback="IQ4_NL"),
    TensorType("IQ2_XS", 17, 256, 74, needs_imatrix=True, fallback="IQ4_NL"),
    TensorType("IQ2_S", 22, 256, 82, needs_imatrix=True, fallback="IQ4_NL"),
    TensorType("IQ3_XXS", 18, 256, 98, needs_imatrix=True, fallback="IQ4_NL"),
    TensorType("IQ3_S", 21, 256, 110, fallback="IQ4_NL"),
    TensorType("IQ4_NL", 20, 32, 18),
    TensorType("IQ4_XS", 23, 256, 136, fallback="IQ4_NL"),
    TensorType("TQ1_0", 34, 256, 54, fallback="Q4_0"),
    TensorType("TQ2_0", 35, 256, 66, fallback="Q4_0"),
    TensorType("MXFP4", 39, 32, 17, trained=True),
    TensorType("NVFP4", 40, 64, 36),
    TensorType("Q1_0", 41, 128, 18),
    TensorType("Q2_0", 42, 64, 18, fallback="Q4_0"),
    TensorType("I8", 24, 1, 1, "integer", encodable=False),
    TensorType("I16", 25, 1, 2, "integer", encodable=False),
    TensorType("I32", 26, 1, 4, "integer", encodable=False),
    TensorType("I64", 27, 1, 8, "integer", encodable=False),
    TensorType("F64", 28, 1, 8, "float", encodable=False),
)

TYPES = MappingProxyType({t.name: t for t in _TABLE})
TYPES_BY_ID = MappingProxyType({t.id: t for t in _TABLE})


def tensor_type(name: str) -> TensorType:
    """The type of that name, in any case; raises PlanError that lists the known ones."""
    found = TYPES.get(name.upper())
    if found is None:
        raise PlanError(None, "tensor type", expected=f"one of {', '.join(TYPES)}", found=name)
    return found


def fitting_type(wanted: TensorType, cols: int) -> TensorType:
    """`wanted`, or the type that llama.cpp falls back to where `cols` is no multiple of its block; at last F16."""
    if cols % wanted.block == 0:
        return wanted
    fallback = TYPES[wanted.fallback] if wanted.fallback else wanted
    return fallback if cols % fallback.block == 0 else TYPES["F16"]
