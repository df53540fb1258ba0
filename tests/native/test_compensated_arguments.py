"""What the core's `compensate` refuses: arrays of other sizes, orders that tear blocks apart, unknown names."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quantpress import _native
from quantpress.formats import TYPES
from tests.native.test_compensated import moments, panels, rows_of


def call(name: str, **changed: object) -> None:
    """Encodes three rows of 512 with what is right, but for `changed`."""
    given, x = moments("IQ2_S", 512, 5), rows_of(3, 512)
    arguments: dict[str, object] = {
        "x": x,
        "type": name,
        "out": np.empty((3, TYPES.get(name, TYPES["IQ2_S"]).row_bytes(512)), np.uint8),
        "factor": panels(given.upper),
        "diagonal": given.diagonal.astype(np.float32),
        "importance": given.importance,
        "order": given.order,
    }
    _native.compensate(**(arguments | changed))  # type: ignore[arg-type]


def swapped(a: int, b: int) -> NDArray[np.int32]:
    order = np.arange(512, dtype=np.int32)
    order[[a, b]] = order[[b, a]]
    return order


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("F16", {}, "type: expected one that has codes, found F16"),
        ("Q9_K", {}, "type: expected one that has codes, found Q9_K"),
        ("IQ2_S", {"out": np.empty((2, 164), np.uint8)}, "out: expected as many rows as x"),
        ("IQ2_S", {"out": np.empty((3, 165), np.uint8)}, "out: "),
        ("IQ2_S", {"factor": np.zeros(512 * 512, np.float32)}, "factor: expected panels of 256 columns"),
        ("IQ2_S", {"factor": np.zeros(0, np.float32)}, "factor: "),
        ("IQ2_S", {"diagonal": np.ones(511, np.float32)}, "diagonal"),
        ("IQ2_S", {"importance": np.ones(513, np.float32)}, "importance"),
        ("IQ2_S", {"order": np.arange(511, dtype=np.int32)}, "order: "),
        ("IQ2_S", {"order": np.zeros(512, np.int32)}, "order: "),
        ("IQ2_S", {"order": np.arange(1, 513, dtype=np.int32)}, "order: "),
        ("IQ2_S", {"order": np.arange(-1, 511, dtype=np.int32)}, "order: "),
        (
            "Q4_K",
            {"order": np.where(np.arange(512) == 9, 8, np.arange(512)).astype(np.int32)},
            "order: .*each column once",
        ),
        ("Q4_K", {"order": swapped(255, 256)}, "order: expected whole blocks"),
        ("Q4_0", {"order": swapped(31, 32)}, "order: expected whole blocks"),
        ("IQ2_S", {"order": swapped(7, 8)}, "order: expected whole groups of eight"),
        ("IQ3_XXS", {"order": swapped(0, 1)}, "order: expected whole groups of eight"),
        ("IQ2_S", {"rounds": 0}, "rounds"),
        ("IQ2_S", {"effort": 3}, "effort"),
        ("IQ2_S", {"isa": "mmx"}, "isa"),
    ],
)
def test_wrong_arguments(name: str, changed: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(name, **changed)


def test_orders_that_are_right() -> None:
    for name, order in (("Q4_K", swapped(0, 255)), ("Q4_0", swapped(0, 31)), ("IQ2_S", np.roll(np.arange(512), 256))):
        call(name, order=order.astype(np.int32))


def test_a_width_that_blocks_do_not_divide() -> None:
    given, x = moments("Q4_0", 320), rows_of(1, 320)
    with pytest.raises(ValueError, match="256"):
        call("Q4_K", x=x, out=np.empty((1, 180), np.uint8), factor=panels(given.upper), order=given.order)
