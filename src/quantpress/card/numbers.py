"""Numbers as the page shows them: a measured value to the digits that its error allows."""

from __future__ import annotations

import math

__all__ = ["percent", "rate", "short_count", "with_deviation", "with_error"]

_TINY = 1e-6


def with_error(value: float, error: float) -> str:
    """A value to the decimals of its error's second digit: 0.0001844 ± 0.0000020."""
    if not error or abs(value) < _TINY:
        return f"{value:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def rate(value: float) -> str:
    """Tokens a second, to three digits: 5,812, 39.1, 0.812."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"


def with_deviation(value: float, deviation: float) -> str:
    """Tokens a second to four digits, and the deviation to the same decimals: 812.3 ± 4.1, 5525 ± 12."""
    decimals = max(0, 3 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{decimals}f} ± {deviation:.{decimals}f}"


def percent(share: float, decimals: int = 2) -> str:
    """A share of one: 94.58 %."""
    return f"{100 * share:.{decimals}f} %"


def short_count(number: int) -> str:
    """Weights: 3.88 B, 6.76 M, 12,345."""
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,}"
