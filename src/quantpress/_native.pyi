"""The C++ core (native/). NumPy in, NumPy out; the GIL is released; results do not depend on `threads` or `isa`.

`isa` is for tests: an instruction set of `isas()`; the empty string means the one in use. Rows of a float32 matrix may
be apart in memory, its columns must be adjacent; all other arrays are C-contiguous. A wrong dtype raises TypeError, a
wrong shape or an index out of range ValueError.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def isa() -> str:
    """The instruction set in use: the best of `isas()`, or QUANTPRESS_ISA; ValueError if that is not available."""

def isas() -> list[str]:
    """The instruction sets that this machine can use, best first, of avx512, avx2 and baseline."""

def types() -> list[str]:
    """The names of the tensor types that it encodes and decodes."""

def encode(
    data: NDArray[np.uint8],
    source: str,
    cols: int,
    types: list[str],
    out: Sequence[NDArray[np.uint8] | None],
    importance: NDArray[np.float32] | None = None,
    *,
    errors: NDArray[np.float64] | None = None,
    limit: float = ...,
    effort: int = 1,
    restore: bool = False,
    threads: int = 1,
    isa: str = "",
) -> int | None:
    """Encodes rows of type `source`, data [rows, bytes of a row], to each of `types`, in one pass.

    out: [rows, bytes of a row] a type, or None where the bytes are not wanted. errors [types, rows]: the squared error
    of each row, weighted by importance [cols]. effort: 0 fast, 1 normal, 2 best. restore: rows get back the size that
    rounding takes (native/kernels/size.hpp). Returns None, or the index (row * cols + column) of the first weight that
    is NaN or beyond ±limit; then nothing that was written has a meaning.
    isa "reference": the scalar encoders.
    """

def decode(data: NDArray[np.uint8], source: str, out: NDArray[np.float32], *, threads: int = 1, isa: str = "") -> None:
    """Decodes rows of type `source`, data [rows, bytes of a row], to out [rows, cols]."""

def code_widths() -> dict[str, int]:
    """The types that `compensate` encodes, and how many weights share a code of each: 1, 4 or 8."""

def compensate(
    x: NDArray[np.float32],
    type: str,
    out: NDArray[np.uint8],
    factor: NDArray[np.float32],
    diagonal: NDArray[np.float32],
    importance: NDArray[np.float32],
    order: NDArray[np.int32],
    *,
    rounds: int = 1,
    effort: int = 1,
    threads: int = 1,
    isa: str = "",
) -> None:
    """Encodes x [rows, cols] with feedback, to out [rows, bytes of a row]; native/compensate.hpp says how.

    order [cols]: the column taken at each place; blocks stay together, and groups of 8 where a code is of several.
    diagonal [cols]: D, in that order. factor: U in that order by panels of 256 columns, each with the rows above it and
    its own. importance [cols]: by column, for the search of scales. rounds: searches of the scales of a
        block, of `effort` in the last.
    """

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
