from __future__ import annotations

from quantpress.card import _with_error, frontier, human_size


def test_frontier_keeps_what_nothing_beats() -> None:
    rows = [{"bytes": size, "kld_mean": kld} for size, kld in ((5, 0.1), (4, 0.2), (4, 0.15), (3, 0.12), (2, 0.5))]
    assert [row["bytes"] for row in frontier(rows)] == [5, 3, 2]


def test_sizes_are_decimal() -> None:
    assert [human_size(size) for size in (2_489_757_856, 13_623_968, 9_999, 7)] == [
        "2.49 GB",
        "13.62 MB",
        "10.00 kB",
        "7 B",
    ]


def test_a_value_has_the_decimals_of_its_error() -> None:
    assert _with_error(0.00018442, 0.000002008) == "0.0001844 ± 0.0000020"
    assert _with_error(43.3279, 1.2998) == "43.3 ± 1.3"
    assert _with_error(0.0, 0.0) == "0"
