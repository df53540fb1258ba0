"""Our mixes against llama.cpp's: every type of every tensor, on the demo and on shapes without weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from quantpress import gguf
from quantpress.errors import PlanError
from quantpress.formats import TYPES
from quantpress.gguf import GGUF, TensorSpec
from quantpress.plan import assign
from quantpress.recipes import MIXES, RECIPES, VARIANTS, ModelFacts, Recipe, Role, Site, choose, recipe
from tests.recipes import shapes
from tests.recipes.oracle import Choice, Job, dry_runs, file_type_names

MIXTRAL = {"layers": 32, "hidden": 4096, "expert": 14336, "experts": 8, "heads": 32, "kv_heads": 8}
QWEN3_MOE = {"layers": 48, "hidden": 2048, "expert": 768, "experts": 128, "heads": 32, "kv_heads": 4}
QWEN2_MOE = {"layers": 24, "hidden": 2048, "expert": 1408, "experts": 60, "heads": 16, "kv_heads": 16, "shared": 5632}
MODELS: dict[str, Callable[[Path], Path]] = {
    "gemma-3-4b": shapes.gemma3_4b,
    "llama-3-8b": shapes.llama,
    "mixtral-8x7b": partial(shapes.mixture, architecture="llama", **MIXTRAL),
    "qwen3-30b-a3b": partial(shapes.mixture, architecture="qwen3moe", **QWEN3_MOE),
    "shared-expert": partial(shapes.mixture, architecture="qwen2moe", **QWEN2_MOE),
    "rows-of-32": partial(shapes.llama, layers=26, hidden=3200, ffn_size=8640, kv_heads=32, vocabulary=32000),
    "rows-of-8": partial(shapes.llama, layers=9, hidden=1040, ffn_size=4104, heads=8, kv_heads=2, tied=True),
    "falcon": shapes.falcon,
}
ZOO = ("glm5-next", "bailingmoe3", "nanbeige", "graniteswitch")
MODELS |= {name: partial(shapes.zoo, architecture=name) for name in ZOO}
STANDARD = [recipe for recipe in RECIPES.values() if not recipe.ranked]


def job(recipe: Recipe, *, imatrix: bool) -> Job:
    """How one asks `llama_model_quantize` for a recipe."""
    ends = "Q8_0" if recipe.name in VARIANTS else None
    return Job(recipe.file_type, imatrix, ends, ends)


def assert_equal(source: GGUF, recipe: Recipe, choice: Choice, *, imatrix: bool) -> None:
    what = f"{recipe.name} {'with' if imatrix else 'without'} imatrix"
    if choice.error:
        assert "no tensor type fallback is defined" in choice.error, what
        with pytest.raises(PlanError, match="no fallback"):
            assign(source, recipe, imatrix=imatrix)
        return
    types, fallbacks = assign(source, recipe, imatrix=imatrix)
    assert {name: type.name for name, type in types.items()} == choice.tensors, what
    assert len(fallbacks) == choice.fallbacks, what
    specs = [TensorSpec(name, tensor.shape, types[name]) for name, tensor in source.tensors.items()]
    bits = 8 * sum(spec.nbytes for spec in specs) / sum(spec.weights for spec in specs)
    assert bits == pytest.approx(choice.bits, abs=0.00501), what


@pytest.mark.parametrize("model", MODELS)
def test_types_are_those_of_llama_cpp(model: str, tmp_path: Path) -> None:
    path = MODELS[model](tmp_path / f"{model}.gguf")
    # llama.cpp gives rows of 1040 the type Q8_0 if it is told to, unchecked, and would write rows that are cut short
    recipes = [recipe for recipe in STANDARD if model != "rows-of-8" or recipe.name not in VARIANTS]
    both = (True,) if model in ZOO else (False, True)
    runs = [(recipe, imatrix) for recipe in recipes for imatrix in both]
    choices = dry_runs(path, [job(recipe, imatrix=imatrix) for recipe, imatrix in runs])
    with gguf.read(path) as source:
        for (recipe, imatrix), choice in zip(runs, choices, strict=True):
            assert_equal(source, recipe, choice, imatrix=imatrix)


def test_types_of_the_demo_are_those_of_llama_cpp(bf16_gguf: Path) -> None:
    runs = [(recipe, imatrix) for recipe in STANDARD for imatrix in (False, True)]
    choices = dry_runs(bf16_gguf, [job(recipe, imatrix=imatrix) for recipe, imatrix in runs])
    with gguf.read(bf16_gguf) as source:
        for (recipe, imatrix), choice in zip(runs, choices, strict=True):
            assert_equal(source, recipe, choice, imatrix=imatrix)


@pytest.mark.parametrize(
    ("architecture", "layers", "kv_heads", "other"),
    [
        ("llama", 80, 8, {}),
        ("llama", 80, 64, {}),  # the first 65B: no shared values, no special case
        ("llama", 80, 64, {"attention.head_count_kv": [64] + [8] * 79}),  # the first layer speaks for all
        ("llama", 81, 8, {"nextn_predict_layers": 1}),
        ("qwen2", 80, 64, {}),
        ("jais2", 68, 64, {"attention.layer_norm_epsilon": 1e-6}),
    ],
)
def test_what_llama_cpp_calls_a_70b_model(
    architecture: str, layers: int, kv_heads: int, other: dict[str, int], tmp_path: Path
) -> None:
    path = shapes.llama(
        tmp_path / "70b.gguf", architecture=architecture, layers=layers, hidden=8192, ffn_size=28672, heads=64,
        kv_heads=kv_heads, other=other,
    )  # fmt: skip
    names = (
        list(MIXES) if (architecture, layers, kv_heads) == ("llama", 80, 8) else ["Q3_K_S", "Q4_K_M", "IQ3_M", "IQ2_M"]
    )
    choices = dry_runs(path, [job(MIXES[name], imatrix=True) for name in names])
    with gguf.read(path) as source:
        for name, choice in zip(names, choices, strict=True):
            assert_equal(source, MIXES[name], choice, imatrix=True)


def test_every_file_type_of_llama_cpp_is_there() -> None:
    """All that have a name in llama.cpp, but NVFP4, which `llama-quantize` does not make."""
    known = {number: name for number, name in enumerate(file_type_names(100)) if not re.search("unknown|NVFP4", name)}
    assert {mix.file_type for mix in MIXES.values()} == known.keys()
    for mix in MIXES.values():
        first = "all F32" if mix.name == "F32" else mix.name.split("_")[0]
        assert known[mix.file_type].startswith(first), mix.name


def test_names_are_found_in_any_case_and_by_alias() -> None:
    assert recipe("q4_k_m") is recipe("Q4_K") is MIXES["Q4_K_M"]
    assert recipe("Q3_k").name == "Q3_K_M"
    assert recipe("Q5_K").name == "Q5_K_M"
    with pytest.raises(PlanError, match=r"expected one of .*IQ3_XS.*Q3_K_XL.*MP.*found Q4_K_X"):
        recipe("Q4_K_X")


def test_every_recipe_says_what_it_is_made_of() -> None:
    named = re.compile(rf"\b({'|'.join(TYPES)})\b")
    for name, found in RECIPES.items():
        assert 10 < len(found.description) < 110, name
        assert found.description[-1] != ".", name
        assert set(named.findall(found.description)) <= {found.base, *(rule.type for rule in found.rules)}, name
    assert len({found.description for found in RECIPES.values()}) == len(RECIPES)


def test_a_layer_that_the_model_does_not_have_is_an_error() -> None:
    model = ModelFacts("llama", layers=4, heads_per_kv=4, experts=8, seventy=False, values=4)
    site = Site(model, "blk.4.ffn_down_exps.weight", (256, 256, 8), Role.DOWN, index=0)
    with pytest.raises(PlanError, match=r"blk\.4\.ffn_down_exps\.weight.*blk\.3\."):
        choose(MIXES["Q4_K_M"], site)
