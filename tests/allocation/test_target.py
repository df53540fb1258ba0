"""What a plan is asked for: every form of it, what it comes to in bytes, and how much measuring it is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quantpress.allocation import target as module
from quantpress.allocation.candidates import Constraints, Group, bounds, choices, fixed_bytes
from quantpress.allocation.target import Spend, Target, is_automatic, parse_spend, parse_target
from quantpress.errors import PlanError
from quantpress.gguf import GGUF, Value, read
from quantpress.memory import footprint
from quantpress.metadata import ImatrixInfo
from quantpress.plan import Plan, from_types, plan
from tests.imatrix.moe import write_moe
from tests.oracle import models

INFO = ImatrixInfo("imatrix.gguf", "calibration.txt", 238, 128)
EXTRA = {"general.license": Value.string("mit")}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[GGUF]:
    with read(models.save(tmp_path / "Tiny-BF16.gguf")) as source:
        yield source


@pytest.mark.parametrize("before", ["", "auto:", "AUTO:", " auto: "])
@pytest.mark.parametrize(
    ("text", "expected", "name"),
    [
        ("3.98bpw", Target("bpw", "3.98bpw"), "AUTO-3.98bpw"),
        ("4 BPW", Target("bpw", "4bpw"), "AUTO-4bpw"),
        ("2.40GB", Target("size", "2.40GB"), "AUTO-2.40GB"),
        ("2.40 GiB ", Target("size", "2.40 GiB"), "AUTO-2.40GiB"),
        ("like:Q4_K_M", Target("like", "Q4_K_M"), "Q4_K_M_AUTO"),
        ("Like: q4_k", Target("like", "Q4_K_M"), "Q4_K_M_AUTO"),
        ("like:mp", Target("like", "MP"), "MP_AUTO"),
        ("fit:16GB", Target("fit", "16GB"), "AUTO-fit-16GB"),
    ],
)
def test_forms(before: str, text: str, expected: Target, name: str) -> None:
    assert parse_target(before + text) == expected
    assert expected.name == name


def test_what_fit_is_told_besides() -> None:
    assert parse_target("fit:16GB", context=16384, cache_type="Q8_0") == Target("fit", "16GB", 16384, "Q8_0")


@pytest.mark.parametrize("text", ["", " ", "auto:", "size:2GB", "auto:auto:4bpw", "fat:16GB", ":", ":4bpw"])
def test_what_is_no_form_at_all(text: str) -> None:
    with pytest.raises(PlanError, match=r"target: expected auto:3.98bpw, auto:2.40GB, auto:like:Q4_K_M or auto:fit"):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3.98", "size: expected a number with a unit"),
        ("-4bpw", "size: expected a number with a unit"),
        ("1e3bpw", "size: expected a number with a unit"),
        ("4bpws", "size: expected a number with a unit"),
        ("2.4XB", "size: expected a number with a unit"),
        ("0GB", "size: expected at least one byte"),
        ("fit:", "memory: expected a number with a unit"),
        ("fit:4bpw", "memory: expected a number with a unit"),
        ("like:", "recipe: expected one of .*Q4_K_M"),
        ("like:Q4_K_X", "recipe: expected one of .*Q4_K_M.* found Q4_K_X"),
    ],
)
def test_values_that_are_none(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_target(f"auto:{text}")


@pytest.mark.parametrize(
    ("text", "expected"), [("auto:4bpw", True), (" Auto:like:MP", True), ("Q4_K_M", False), ("automatic", False)]
)
def test_which_variants_are_automatic(text: str, expected: bool) -> None:
    assert is_automatic(text) is expected


def test_a_size_is_the_file_s(model: GGUF) -> None:
    groups = choices(model, covered=None)
    assert parse_target("2.40GB").file_bytes(model, groups, INFO, EXTRA) == 2_400_000_000
    assert parse_target("96KiB").limit(model, groups, INFO, EXTRA) == 96 * 1024


@pytest.mark.parametrize("info", [None, INFO])
def test_like_is_that_mix_s_file(model: GGUF, info: ImatrixInfo | None) -> None:
    groups = choices(model, covered=None)
    found = parse_target("like:Q4_K_M").file_bytes(model, groups, info, EXTRA)
    assert found == plan(model, type="Q4_K_M", imatrix=info, extra=EXTRA).bytes


@pytest.mark.parametrize("bits", ["3.9", "4.25", "6", "9.1"])
def test_bits_a_weight_are_those_of_the_plan(model: GGUF, bits: str) -> None:
    """The largest choice that the limit allows has no more than what was asked for, the next larger one has more."""
    groups = choices(model, covered=None, constraints=Constraints())
    limit = parse_target(f"{bits}bpw").limit(model, groups, INFO, EXTRA)
    fixed = fixed_bytes(model, groups, imatrix=INFO, extra=EXTRA)
    choice, left = [0] * len(groups), limit - bounds(groups, fixed)[0]
    for at, group in enumerate(groups):  # as far up as each goes, one after the other
        choice[at] = max(i for i, size in enumerate(group.nbytes) if size - group.nbytes[0] <= left)
        left -= group.nbytes[choice[at]] - group.nbytes[0]
    found = planned(model, groups, choice)
    assert found.bytes == limit - left
    assert found.bits_per_weight <= float(bits)
    padding = 8 * sum(model.alignment for _ in model.tensors) / found.weights
    for at, group in enumerate(groups):
        if choice[at] + 1 < len(group.types):
            larger = planned(model, groups, [*choice[:at], choice[at] + 1, *choice[at + 1 :]])
            assert larger.bytes > limit or larger.tensor_bytes == found.tensor_bytes
            assert larger.bits_per_weight > float(bits) - padding


def planned(model: GGUF, groups: list[Group], choice: list[int]) -> Plan:
    types = {name: tensor.type for name, tensor in model.tensors.items()}
    types |= {name: group.types[at] for group, at in zip(groups, choice, strict=True) for name in group.names}
    return from_types(model, types, recipe="auto", file_type=15, imatrix=INFO, extra=EXTRA)


def test_fit_fits(tmp_path: Path) -> None:
    """In what llama.cpp says that it allocates for a file of just that size."""
    with read(write_moe(tmp_path / "moe.gguf")) as source:
        groups = choices(source, covered=None)
        types = plan(source, type="Q5_0").tensors
        needed = footprint(source, types, context=256, cache_type="Q8_0", outputs=1).total
        target = replace(parse_target(f"fit:{needed}B"), context=256, cache_type="Q8_0")
        size = plan(source, type="Q5_0", imatrix=INFO, extra=EXTRA).bytes
        assert target.file_bytes(source, groups, INFO, EXTRA) == pytest.approx(size, abs=32 * len(types))
        assert target.file_bytes(source, groups, INFO, EXTRA) >= size
        with pytest.raises(PlanError, match=r"memory: expected more than .* a context of 512 tokens takes"):
            replace(target, context=512).file_bytes(source, groups, INFO, EXTRA)
        most = bounds(groups, fixed_bytes(source, groups, imatrix=INFO, extra=EXTRA))[1]
        assert parse_target("fit:16GB").limit(source, groups, INFO, EXTRA) == most


@pytest.mark.parametrize("text", ["1kB", "2GB", "0bpw", "1.5bpw", "16.5bpw", "like:F32"])
def test_out_of_reach(model: GGUF, text: str) -> None:
    groups = choices(model, covered=None)
    low, high = bounds(groups, fixed_bytes(model, groups, imatrix=INFO, extra=EXTRA))
    target = parse_target(text)
    with pytest.raises(PlanError, match=f"{target.text}: expected a file of {low:,} to {high:,} bytes") as caught:
        target.limit(model, groups, INFO, EXTRA)
    assert caught.value.path == model.path


def test_both_bounds_can_be_had(model: GGUF) -> None:
    groups = choices(model, covered=None)
    for size in bounds(groups, fixed_bytes(model, groups, imatrix=INFO)):
        assert parse_target(f"{size}B").limit(model, groups, INFO) == size


@pytest.mark.parametrize(
    ("text", "probes", "seconds"),
    [("10m", None, 600), ("90s", None, 90), ("1.5 H", None, 5400), ("200", 200, None), (" 7 ", 7, None)],
)
def test_spending(text: str, probes: int | None, seconds: float | None) -> None:
    found = parse_spend(text)
    assert (found.probes, found.seconds, found.done, found.none) == (probes, seconds, 0, False)


@pytest.mark.parametrize("text", ["0", "0m", "0.0s"])
def test_spending_nothing(text: str) -> None:
    assert parse_spend(text).none
    assert parse_spend(text).left() == 0


@pytest.mark.parametrize("text", ["", "m", "-3", "1.5", "10d", "10 m s", "1e3", "ten"])
def test_what_cannot_be_spent(text: str) -> None:
    with pytest.raises(PlanError, match=r"budget: expected a time .* or a number of probes"):
        parse_spend(text)


def test_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    probes, seconds, both = Spend(probes=5, started=now), Spend(seconds=60, started=now), Spend(5, 60, started=now)
    assert probes.left() == 5
    for spend in (probes, seconds, both):
        spend.done = 3
    now += 10
    assert (probes.left(), seconds.left(), both.left()) == (2, 15, 2)
    now += 49
    assert (probes.left(), seconds.left(), both.left()) == (2, 0, 0)
    probes.done = 9
    now += 100
    assert (probes.left(), seconds.left()) == (0, 0)
    assert Spend().left() > 1000
    again = both.restarted()
    assert (again.probes, again.seconds, again.done) == (5, 60, 0)
    assert again.started != both.started
