"""Groups, errors and bytes as a problem: against sums by hand and every choice that there is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quantpress.allocation.candidates import Constraints, Group, bounds, choices
from quantpress.allocation.damage import Scale, rounding
from quantpress.allocation.problem import problem_of
from quantpress.errors import PlanError
from quantpress.formats import TYPES
from quantpress.gguf import GGUF, read
from quantpress.recipes import Role
from quantpress.sensitivity import Error
from tests.allocation.synthetic import nbytes
from tests.oracle import models

TIED = Constraints(ties=(("attn_q", "attn_v"),), avoid=("iq",))


@pytest.fixture
def model(tmp_path: Path) -> Iterator[GGUF]:
    with read(models.save(tmp_path / "Tiny-BF16.gguf")) as source:
        yield source


def errors_of(model: GGUF, groups: list[Group]) -> dict[str, dict[str, Error]]:
    """For each type but a tensor's own, as `add_errors` gives them; nothing where there is no other."""
    draw = np.random.default_rng(0)
    found = {
        name: {
            type.name: Error(float(draw.uniform(0.1, 1) * 4**-type.bits_per_weight), 0)
            for type in group.types
            if type != model.tensors[name].type
        }
        for group in groups
        for name in group.names
    }
    return {name: one for name, one in found.items() if one}


def test_errors_of_tied_tensors_are_weighed_by_their_sizes(model: GGUF) -> None:
    groups = choices(model, covered=None, constraints=TIED)
    errors = errors_of(model, groups)
    problem = problem_of(model, groups, errors, 0)
    (at,) = [number for number, group in enumerate(groups) if group.names[0] == "blk.0.attn_q.weight"]
    assert groups[at].names == ("blk.0.attn_q.weight", "blk.0.attn_v.weight")
    query, value = (errors[name] for name in groups[at].names)  # 48 and 16 rows of 256
    for type, found in zip(groups[at].types[:-1], problem.errors[at], strict=False):
        expected = (48 * query[type.name].value + 16 * value[type.name].value) / 64
        assert found == pytest.approx(expected + rounding(type), rel=1e-12)


def test_the_source_s_own_type_has_no_error(model: GGUF) -> None:
    """Also of a tensor whose rows no other type divides: it has no errors at all."""
    groups = choices(model, covered=None)
    errors = errors_of(model, groups)
    assert "blk.0.attn_output.weight" not in errors
    problem = problem_of(model, groups, errors, 0)
    assert all(one[-1] == 0 for one in problem.errors)
    assert all((one[:-1] > 0).all() for one in problem.errors)


def test_an_error_that_is_missing_is_not_taken_for_none(model: GGUF) -> None:
    groups = choices(model, covered=None)
    errors = errors_of(model, groups)
    del errors["blk.0.attn_k.weight"]["Q4_K"]
    with pytest.raises(KeyError, match="Q4_K"):
        problem_of(model, groups, errors, 0)


def test_names_bytes_and_types(model: GGUF) -> None:
    groups = choices(model, covered=None, constraints=TIED)
    problem = problem_of(model, groups, errors_of(model, groups), 0)
    assert problem.names == tuple("+".join(group.names) for group in groups)
    assert problem.roles["output.weight"] is Role.OUTPUT
    assert problem.roles["token_embd.weight"] is Role.EMBEDDING
    choice = tuple(len(group.types) - 1 for group in groups)
    assert set(problem.types(choice).values()) == {"BF16"}
    assert list(problem.types(choice)) == [name for group in groups for name in group.names]
    assert nbytes(problem, choice) == bounds(groups)[1]
    lower = tuple(0 for _ in groups)
    assert problem.types(lower) == {name: group.types[0].name for group in groups for name in group.names}


def test_an_embedding_that_is_the_output_as_well(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in models.DENSE.items() if name != "output.weight"}
    with read(models.save(tmp_path / "tied.gguf", shapes)) as source:
        groups = choices(source, covered=None)
        assert problem_of(source, groups, errors_of(source, groups), 0).roles["token_embd.weight"] is Role.OUTPUT


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_solves_as_trying_them_all_does(model: GGUF, share: float) -> None:
    groups = choices(model, covered=None, constraints=Constraints(avoid=("iq", "legacy")))[2:6]
    low, high = bounds(groups)
    problem = problem_of(model, groups, errors_of(model, groups), int(low + share * (high - low)))
    damages = problem.damages({name: Scale(1.0 + number, 0.1) for number, name in enumerate(problem.names)})
    for number, (one, errors) in enumerate(zip(damages, problem.errors, strict=True)):
        np.testing.assert_allclose(one, (1.0 + number) * errors, rtol=1e-15)
    every = itertools.product(*(range(len(group.types)) for group in groups))
    fitting = [choice for choice in every if nbytes(problem, choice) <= problem.budget]
    best = min(problem.damage(choice, damages) for choice in fitting)
    found, gap = problem.solve(damages)
    assert (problem.damage(found, damages), gap) == (pytest.approx(best, rel=1e-12), 0)
    assert nbytes(problem, found) <= problem.budget


def test_nothing_to_choose(model: GGUF) -> None:
    with pytest.raises(PlanError, match="tensors: expected matrices to choose types for, found none"):
        problem_of(model, [], {}, 0)


def test_a_type_of_another_kind_of_float_is_no_free_choice(tmp_path: Path) -> None:
    with read(models.save(tmp_path / "m.gguf", type="F16")) as source:
        groups = choices(source, covered=None)
        problem = problem_of(source, groups, errors_of(source, groups), 0)
    assert all(group.types[-1] is TYPES["F16"] for group in problem.groups)
