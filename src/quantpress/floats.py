"""BF16 as numpy has it not: the upper half of a float32, rounded to nearest, ties to even.

Rounding adds 0x7fff, and one more where the bit that will be the last is set, then cuts: the carry does the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "bf16_to_float32", "float32_to_bf16"]

Floats = NDArray[np.float32]


def bf16_to_float32(bits: NDArray[np.uint16]) -> Floats:
    """The float32 values of BF16 bit patterns, exactly; same shape."""
    upper: NDArray[np.uint32] = bits.astype(np.uint32) << np.uint32(16)
    return upper.view(np.float32)


def float32_to_bf16(values: Floats) -> NDArray[np.uint16]:
    """The BF16 bit patterns nearest to finite float32 values; same shape. What is beyond the range becomes infinite."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: NDArray[np.uint32] = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)  # in place: fresh memory would cost more than the sums
    rounded += bits
    rounded >>= np.uint32(16)
    return rounded.astype(np.uint16)
