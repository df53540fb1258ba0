"""Numbers of bytes as people write them, to be read and to be shown: 16GB, 2.40 GB, 16GiB."""

from __future__ import annotations

import re
from decimal import Decimal

from quantpress.errors import PlanError

__all__ = ["DECIMAL", "human_size", "parse_bytes"]

DECIMAL = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))  # what sizes are shown in, as on the Hub

_UNITS = {"B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("B", 1000), ("IB", 1024))
}
_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z]+)\s*", re.ASCII)


def parse_bytes(text: str, field: str = "size") -> int:
    """Bytes, rounded down: decimal units for kB, MB, GB and TB, binary ones for KiB to TiB, in any case.

    Raises PlanError, which names `field`, for anything else: a bare number or `16G` may mean either.
    """
    found = _FORM.fullmatch(text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise PlanError(None, field, expected="a number with a unit, such as 16GB or 16GiB", found=repr(text))
    size = int(Decimal(found[1]) * unit)
    if size < 1:
        raise PlanError(None, field, expected="at least one byte", found=repr(text))
    return size


def human_size(nbytes: int) -> str:
    """Bytes in the largest decimal unit that they fill, as the Hub shows them: 2.49 GB."""
    unit, name = next(row for row in DECIMAL if nbytes >= row[0] or row[0] == 1)
    return f"{nbytes / unit:.2f} {name}" if unit > 1 else f"{nbytes} {name}"
