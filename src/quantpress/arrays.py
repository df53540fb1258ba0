"""Names for the arrays that pass between modules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bytes", "Floats"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
