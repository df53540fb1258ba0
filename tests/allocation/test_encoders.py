"""The encoder as a part of a plan: what is left plain, by measurement, and that files are made so."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quantpress import gguf
from quantpress.allocation import Spend, allocate
from quantpress.allocation.encoders import plain_roles
from quantpress.errors import PlanError
from quantpress.evaluate import evaluate
from quantpress.imatrix import imatrix
from quantpress.plan import from_json, plan, read_plan
from quantpress.quantize import quantize

POSITIONS = 400


class Instrument:
    """A meter with a divergence of our own: each role adds or takes something if it is plain."""

    def __init__(self, change: Mapping[str, float]) -> None:
        self.change = change

    def scores(self, passage: Any, types: Mapping[str, str], plain: Collection[str] = ()) -> Any:
        noise = np.random.default_rng(len(plain)).normal(0, 0.01, POSITIONS)
        return SimpleNamespace(kld=0.1 + sum(self.change[name] for name in plain) + noise)


def problem() -> Any:
    groups = [SimpleNamespace(names=names) for names in (("a.up", "a.gate"), ("b.up", "b.gate"), ("a.down",))]
    names = ["a.up+a.gate", "b.up+b.gate", "a.down"]
    types = {name: "Q4_K" for group in groups for name in group.names}
    roles = dict(zip(names, ("up", "up", "down"), strict=True))
    return SimpleNamespace(groups=groups, names=names, roles=roles, types=lambda choice: types)


@pytest.mark.parametrize(
    ("up", "down", "left"),
    [
        (0.01, 0.01, set()),
        (-0.01, 0.01, {"a.up", "a.gate", "b.up", "b.gate"}),
        (0.01, -0.02, {"a.down"}),
        (0.01, -0.0001, set()),  # within the noise
    ],
)
def test_a_role_is_plain_if_that_is_better_beyond_the_noise(up: float, down: float, left: set[str]) -> None:
    change = {"a.up": up, "a.gate": up, "b.up": up, "b.gate": up, "a.down": down}
    found: Any = Instrument(change)
    best: Any = SimpleNamespace(choice=())
    assert set(plain_roles(problem(), best, found, None)) == left  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def given(bf16_gguf: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, prose = tmp_path_factory.mktemp("given"), (data / "prose.txt").read_text(encoding="utf-8")
    search, held_out = folder / "search.txt", folder / "gate.txt"
    search.write_text(prose[:12000])
    held_out.write_text(prose[12000:])
    out = imatrix(bf16_gguf, text=search, out=folder / "I.gguf", chunks=8, context=128, moments=True, threads=2)
    return {"model": bf16_gguf, "imatrix": out, "text": search, "held_out": held_out}


def test_a_plan_of_compensated_tensors(given: dict[str, Any], tmp_path: Path) -> None:
    how: dict[str, Any] = {"effort": "compensated", "threads": 2}
    limits: dict[str, Any] = {"budget": Spend(probes=3), "search_chunks": 1, "gate_chunks": 1}
    found = allocate(target="4.3bpw", **given, **how, **limits)
    assert found.gate is not None
    assert found.gate.plain is not None
    assert found.to_dict()["allocation"]["gate"]["worthwhile"] == (found.gate.plan.kld_mean < found.gate.plain.kld_mean)
    found.write(tmp_path / "plan.json")
    with gguf.read(given["model"]) as model:
        again = read_plan(tmp_path / "plan.json", model)
    assert again.plain == found.plan.plain
    (file,) = quantize(given["model"], out=tmp_path, plans=[found.plan], imatrix=given["imatrix"], **how)
    assert file.stat().st_size == found.plan.bytes
    measured = evaluate(given["model"], file, text=given["held_out"], chunks=1, threads=2)[0]
    expected = found.gate.plan if found.gate.worthwhile else found.gate.plain
    if found.gate.passed:
        assert measured.kld_mean == pytest.approx(expected.kld_mean, rel=1e-6)


def test_tensors_that_a_plan_leaves_plain_are_as_without_moments(given: dict[str, Any], tmp_path: Path) -> None:
    with gguf.read(given["model"]) as model:
        usual = plan(model, type="Q4_K_M", imatrix=given["imatrix"])
    left = [name for name in usual.matrices if "ffn_up" in name]
    mixed = replace(usual, plain=tuple(left), recipe="mixed")
    how: dict[str, Any] = {"imatrix": given["imatrix"], "threads": 2}
    both = quantize(given["model"], out=tmp_path / "both", plans=[usual, mixed], effort="compensated", **how)
    plainly = quantize(given["model"], out=tmp_path / "plain", plans=[usual], **how)
    with gguf.read(both[0]) as first, gguf.read(both[1]) as second, gguf.read(plainly[0]) as third:
        for name in usual.matrices:
            same = np.array_equal(second.data(name), (third if name in left else first).data(name))
            assert same, name
        assert any(not np.array_equal(first.data(name), third.data(name)) for name in left)


@pytest.mark.parametrize("odd", ["blk.0.ffn_up.weight", ["no such tensor"], [1]])
def test_an_odd_list_of_plain_tensors_is_refused(given: dict[str, Any], odd: Any) -> None:
    with gguf.read(given["model"]) as model:
        values = plan(model, type="Q4_K_M", imatrix=given["imatrix"]).to_dict()
        with pytest.raises(PlanError, match="plain: expected a list of the model's tensors"):
            from_json(json.dumps(values | {"plain": odd}), model)
