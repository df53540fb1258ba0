"""The picture of what an importance matrix saw: every cell in the step of its tokens, experts in their shares."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from quantpress.cli import app
from quantpress.errors import ImatrixError, InputError, OutputError
from quantpress.imatrix import Audit, Imatrix, audit, read, show
from quantpress.plots import coverage
from tests.imatrix.moe import EXPERTS, LAYERS, write_moe
from tests.test_plots import box, ids, texts

STEPS = ("none", "few", "x1", "x4", "x16", "x64")
ROLES = "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down".split()
EXPERT = "blk.0.ffn_up_exps.weight"


def drawn(path: Path) -> dict[str, list[str]]:
    """Tensors and the steps that are drawn of them, in the order of drawing; `missing` is one too."""
    found: dict[str, list[str]] = {}
    for name in ids(path):
        step, _, tensor = name.partition("-")
        if step in (*STEPS, "missing") and tensor:
            found.setdefault(tensor, []).append(step)
    return found


def fill(path: Path, name: str) -> str:
    text = path.read_text(encoding="utf-8")
    found = re.search(r"fill: (#[0-9a-f]{6})", text[text.index(f'<g id="{name}">') :])
    assert found
    return found[1]


def saw(tokens: dict[str, list[int]], **more: Any) -> Audit:
    """An audit of an importance matrix whose matrices saw as many tokens."""
    sums = {name: np.ones((len(seen), 4), np.float32) for name, seen in tokens.items()}
    return audit(Imatrix(sums, {name: np.array(seen) for name, seen in tokens.items()}), **more)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moe(tmp_path_factory.mktemp("moe") / "moe.gguf")


def test_a_dense_model_with_a_bare_output(data: Path, f32_gguf: Path, tmp_path: Path) -> None:
    found = show(data / "imatrix" / "demo.gguf", model=f32_gguf)
    path = coverage(found, tmp_path / "coverage.svg", title="demo-imatrix.gguf")
    names = {f"blk.{layer}.{role}.weight" for layer in range(6) for role in ROLES}
    assert drawn(path) == {name: ["x4"] for name in names} | {"token_embd.weight": ["missing"]}
    assert {"demo-imatrix.gguf", "7,674 tokens · prose.txt", "7,674", "1 to 511", "from 8,192"} <= set(texts(path))
    assert "no entry for a weight of the model: token_embd.weight" in texts(path)
    assert fill(path, "x4-blk.3.attn_q.weight") == fill(path, "step-x4")
    tops = [box(ids(path)[f"x4-blk.0.{role}.weight"])[1] for role in ROLES]
    assert tops == sorted(set(tops))


def test_experts_have_their_shares(data: Path, moe: Path, tmp_path: Path) -> None:
    imatrix = data / "imatrix" / "moe.gguf"
    counts = read(imatrix).counts
    seen = counts[EXPERT].tolist()
    least = sorted(seen)[EXPERTS // 2]
    path = coverage(show(imatrix, model=moe, min_tokens=least), tmp_path / "coverage.svg", title="moe")
    few, groups = sum(tokens < least for tokens in seen), ids(path)
    assert drawn(path)[EXPERT] == ["x1", "few"]
    whole, starved = (box(groups[f"{step}-{EXPERT}"]) for step in ("x1", "few"))
    assert whole[3] == starved[3]  # from the bottom
    assert (starved[3] - starved[1]) / (whole[3] - whole[1]) == pytest.approx(few / EXPERTS, abs=1e-3)
    all_few = sum(int((counts[EXPERT.replace("0", str(layer))] < least).sum()) for layer in range(LAYERS))
    assert f"{all_few} of {EXPERTS * LAYERS}" in texts(path)
    assert "no entry: none, every weight of the model is covered" in texts(path)


def test_one_starved_expert_of_many_shows(tmp_path: Path) -> None:
    path = coverage(saw({EXPERT: [0, 511, *[40_000] * 510]}), tmp_path / "coverage.svg", title="moe")
    assert drawn(path)[EXPERT] == ["x64", "few", "none"]
    whole, few, none = (box(ids(path)[f"{step}-{EXPERT}"]) for step in ("x64", "few", "none"))
    assert (none[3] - none[1], few[3] - few[1]) == pytest.approx((2, 4), abs=1e-3)  # above the others' share
    assert whole[3] - whole[1] > 40
    assert "2 of 512" in texts(path)


@pytest.mark.parametrize(
    ("tokens", "step"),
    [(0, "none"), (1, "few"), (99, "few"), (100, "x1"), (399, "x1"), (400, "x4"), (1600, "x16"), (6400, "x64")],
)
def test_steps_are_of_the_fewest_that_are_enough(tokens: int, step: str, tmp_path: Path) -> None:
    name = "blk.0.attn_q.weight"
    path = coverage(saw({name: [tokens]}, min_tokens=100), tmp_path / "coverage.svg", title="a")
    assert drawn(path) == {name: [step]}
    assert {"1 to 99", "from 100", "below 100", "± 14.1 %", "± 1.8 %"} <= set(texts(path))


@pytest.mark.parametrize("least", [-3, 0, 1])
def test_any_token_is_enough(least: int, tmp_path: Path) -> None:
    found = saw({"output.weight": [1], "blk.0.attn_q.weight": [0]}, min_tokens=least)
    path = coverage(found, tmp_path / "coverage.svg", title="a")
    assert drawn(path) == {"output.weight": ["x1"], "blk.0.attn_q.weight": ["none"]}
    assert "step-few" not in ids(path)


def test_without_a_model_nothing_is_known_to_be_missing(data: Path, tmp_path: Path) -> None:
    path = coverage(show(data / "imatrix" / "demo.gguf"), tmp_path / "coverage.svg", title="demo")
    assert "missing" not in {step for steps in drawn(path).values() for step in steps}
    assert "no entry: not known without the model" in texts(path)


def test_an_entry_of_another_size_is_none(tmp_path: Path) -> None:
    found = replace(saw({"token_embd.weight": [512], "blk.0.attn_q.weight": [512]}), missing=("token_embd.weight",))
    path = coverage(found, tmp_path / "coverage.svg", title="a")
    assert drawn(path) == {"token_embd.weight": ["missing"], "blk.0.attn_q.weight": ["x1"]}


def test_texts_are_named_without_their_folders(tmp_path: Path) -> None:
    found = replace(saw({"output.weight": [9]}), datasets=("/home/someone/<b>.txt", "b.txt", "c.txt"))
    path = coverage(found, tmp_path / "coverage.svg", title="a -- b")
    assert "&lt;b&gt;.txt and 2 more" in next(text for text in texts(path) if text.startswith("9 tokens"))
    assert "someone" not in path.read_text(encoding="utf-8")


def test_steps_are_told_apart_by_their_lightness(tmp_path: Path) -> None:
    """As someone sees who sees no colours: CIE L*, of which 10 is a clear step."""
    path = coverage(saw({"output.weight": [9]}), tmp_path / "coverage.svg", title="a")
    values = np.array([[int(fill(path, f"step-{step}")[i : i + 2], 16) / 255 for i in (1, 3, 5)] for step in STEPS])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert np.diff(np.sort(lightness)).min() > 10
    assert np.argsort(lightness).tolist() == [0, 5, 4, 3, 2, 1]


def test_same_bytes_twice_and_a_png_beside(data: Path, tmp_path: Path) -> None:
    found = show(data / "imatrix" / "moe.gguf")
    first = coverage(found, tmp_path / "a.svg", title="moe", png=True).read_bytes()
    assert coverage(found, tmp_path / "b.svg", title="moe").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.svg"]


def test_nothing_to_draw_and_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected entries to draw, found none"):
        coverage(saw({}), tmp_path / "coverage.svg", title="a")
    with pytest.raises(OutputError, match=r"coverage\.svg"):
        coverage(saw({"output.weight": [9]}), tmp_path / "no" / "coverage.svg", title="a")


def test_the_command_draws_what_it_shows(data: Path, moe: Path, tmp_path: Path) -> None:
    imatrix, picture = data / "imatrix" / "moe.gguf", tmp_path / "coverage.svg"
    arguments = ["imatrix", "show", str(imatrix), "--model", str(moe), "--min-tokens", "300", "--plot", str(picture)]
    found = CliRunner().invoke(app, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["tokens"] == {name: read(imatrix).tokens(name).tolist() for name in read(imatrix).names}
    assert told["datasets"] == ["prose.txt"]
    assert drawn(picture).keys() == told["tokens"].keys()
    assert {"moe.gguf", "below 300"} <= set(texts(picture))


def test_no_picture_of_another_models(data: Path, moe: Path, tmp_path: Path) -> None:
    arguments = ["imatrix", "show", str(data / "imatrix" / "demo.gguf"), "--model", str(moe), "--plot"]
    found = CliRunner().invoke(app, [*arguments, str(tmp_path / "coverage.svg")])
    assert isinstance(found.exception, ImatrixError)
    assert not list(tmp_path.iterdir())
