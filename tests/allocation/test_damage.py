"""Scales from probes: between what is known beforehand and what was measured, by their variances."""

from __future__ import annotations

import pytest

from quantpress.allocation.damage import rounding, scales
from quantpress.formats import TYPES
from quantpress.recipes import Role
from quantpress.sensitivity import Observation

ROLES = {f"blk.{layer}.{part}": role for layer in range(6) for part, role in (("up", Role.UP), ("down", Role.DOWN))}
BEFORE = {name: scale.value for name, scale in scales(ROLES, {}).items()}
UPS = [name for name, role in ROLES.items() if role is Role.UP]
ONE = UPS[0]


def precise(slope: float, count: int) -> list[Observation]:
    return [Observation(slope, 1e-9 * abs(slope))] * count


def test_without_probes_the_roles_tell() -> None:
    known = {"a": Role.OUTPUT, "b": Role.EMBEDDING, "c": Role.QUERY, "d": Role.OTHER, "e": Role.OUTPUT}
    found = scales(known, {})
    assert list(found) == list(known)
    assert found["a"] == found["e"]
    assert found["a"].value / found["b"].value == pytest.approx(12)
    assert found["b"].value > found["d"].value > found["c"].value > 0
    assert all(0.5 < one.uncertainty / one.value < 0.8 for one in found.values())


@pytest.mark.parametrize("factor", [0.02, 0.3, 1, 4, 50])
def test_many_precise_probes_win(factor: float) -> None:
    """Of a tensor, its own; of a tensor without any, those of its role; and no other role's."""
    slope = factor * BEFORE[ONE]
    found = scales(ROLES, {name: precise(slope, 40) for name in UPS[:-1]})
    floor = 0.1 * BEFORE[ONE]
    assert found[ONE].value == pytest.approx(slope, rel=0.05)
    assert found[UPS[-1]].value == pytest.approx(max(slope, floor), rel=0.1)
    assert all(found[name].value == BEFORE[name] for name in ROLES if name not in UPS)


@pytest.mark.parametrize("factor", [0.3, 1, 4])
def test_noisy_probes_shrink_to_the_role_s_mean(factor: float) -> None:
    slope = factor * BEFORE[ONE]
    noisy = {ONE: [Observation(20 * slope, 500 * slope)]}
    found = scales(ROLES, {name: precise(slope, 40) for name in UPS[1:]} | noisy)
    assert found[ONE].value == pytest.approx(slope, rel=0.1)
    assert found[ONE].uncertainty > 2 * found[UPS[1]].uncertainty


def test_between_the_two_the_more_precise_is_nearer() -> None:
    mean, slope = BEFORE[ONE], 3 * BEFORE[ONE]
    values = [scales(ROLES, {ONE: [Observation(slope, error * slope)]})[ONE].value for error in (0.01, 0.3, 1, 10)]
    assert slope > values[0] > values[1] > values[2] > values[3] > mean


@pytest.mark.parametrize("slope", [-1e-6, -0.02, -10.0, 0.0])
@pytest.mark.parametrize("count", [1, 100])
def test_no_scale_is_negative_or_zero(slope: float, count: int) -> None:
    found = scales(ROLES, {name: [Observation(slope, 1e-4)] * count for name in UPS})
    assert all(0 < one.value <= BEFORE[ONE] for one in (found[name] for name in UPS))


def test_the_order_of_probes_does_not_matter() -> None:
    observed = [*precise(0.01, 2), *precise(0.05, 3)]
    one, other = (scales(ROLES, {ONE: seen})[ONE] for seen in (observed, observed[::-1]))
    assert one.value == pytest.approx(other.value, rel=1e-12)


def test_rounding_of_what_meets_a_weight() -> None:
    """The variance of rounding to 8 bits, of normal values in blocks of 32 and 256."""
    assert rounding(TYPES["Q6_K"]) == rounding(TYPES["IQ2_XXS"]) > rounding(TYPES["Q8_0"]) > 0
    assert rounding(TYPES["Q4_0"]) == rounding(TYPES["Q8_0"])
    assert all(rounding(TYPES[name]) == 0 for name in ("F32", "F16", "BF16"))
