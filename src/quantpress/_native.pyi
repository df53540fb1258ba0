"""The C++ core (native/). NumPy in, NumPy out; the GIL is released; results do not depend on `threads` or `isa`.

`isa` is for tests: an instruction set of `isas()`; the empty string means the one in use. Rows of a float32 matrix may
be apart in memory, its columns must be adjacent; all other arrays are C-contiguous. A wrong dtype raises TypeError, a
wrong shape or an index out of range ValueError.
"""

import numpy as np
from numpy.typing import NDArray

def isa() -> str:
    """The instruction set in use: the best of `isas()`, or QUANTPRESS_ISA; ValueError if that is not available."""

def isas() -> list[str]:
    """The instruction sets that this machine can use, best first, of avx512, avx2 and baseline."""

def add_squares(
    x: NDArray[np.float32],
    sums: NDArray[np.float64],
    matrix: NDArray[np.int32] | None = None,
    *,
    threads: int = 1,
    isa: str = "",
) -> None:
    """sums[matrix[r], c] += x[r, c]² for x [rows, cols], sums [matrices, cols], matrix [rows] (None: all zero)."""

def packed_words(vocab: int) -> int:
    """Columns of a packed row, uint16."""

def score(
    logits: NDArray[np.float32], targets: NDArray[np.int32], *, threads: int = 1, isa: str = ""
) -> NDArray[np.float64]:
    """-ln p(target), float64 [rows], of logits [rows, vocab] and targets [rows]; NaN where a logit is NaN or +inf."""

def pack(
    logits: NDArray[np.float32],
    targets: NDArray[np.int32],
    packed: NDArray[np.uint16],
    *,
    threads: int = 1,
    isa: str = "",
) -> NDArray[np.float64]:
    """As `score`, and writes each row's distribution into packed [rows, packed_words(vocab)]."""

def compare(
    packed: NDArray[np.uint16],
    logits: NDArray[np.float32],
    targets: NDArray[np.int32],
    *,
    threads: int = 1,
    isa: str = "",
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Of logits [rows, vocab] against packed rows: -ln p(target); KL(packed ‖ logits) in nats; same top token.

    [rows] each; NaN, NaN, False where a row of either side is not a distribution. Packed rows are right to 2.4e-4 nats
    within 32 nats of the top token (native/kernels/divergence.hpp), which moves a divergence by about 1e-8.
    """
