"""The pictures: well-formed, the same bytes every time, complete, and in the right places."""

from __future__ import annotations

import math
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantpress import gguf
from quantpress.card.numbers import with_error
from quantpress.errors import InputError, OutputError
from quantpress.formats import TYPES
from quantpress.plan import Plan, from_types, plan
from quantpress.plots import Point, Speed, frontier, plan_map, speed
from quantpress.plots.grid import role_and_layer
from tests.recipes import shapes

SVG = "{http://www.w3.org/2000/svg}"
MIXES = [
    Point("Q2_K", 1_800_000_000, 0.038, 0.001, "mix"),
    Point("Q4_K_M", 2_490_000_000, 0.0038, 0.0001, "mix"),
    Point("Q6_K", 3_190_000_000, 0.0006, 0.0007, "mix"),  # an error larger than the value
]
FAST = [
    Speed("Q8_0", 4_300_000_000, "mix", {"tg128": (20.5, 0.25), "pp512": (1000.0, 40.0)}),
    Speed("IQ2_M", 1_500_000_000, "mix", {"tg128": (41.0, 0.5)}),
    Speed("auto:4bpw", 2_400_000_000, "auto", {"tg128": (30.75, 0.0), "pp512": (2000.0, 10.0)}, repacked=True),
]
TESTS = {"tg128": "writing", "pp512": "reading a prompt"}
AUTO = [Point(f"auto:{i}", 1_790_000_000 + 350_000_000 * i, 0.03 / 3**i, 0.0001, "auto") for i in range(5)]


def ids(path: Path) -> dict[str, ET.Element]:
    return {found.attrib["id"]: found for found in ET.parse(path).iter() if "id" in found.attrib}  # noqa: S314 (our own file)


def texts(path: Path) -> list[str]:
    """Text is drawn as paths: matplotlib says in a comment what it is."""
    return [found.strip() for found in re.findall(r"<!--(.*?)-->", path.read_text(encoding="utf-8"), re.DOTALL)]


def place(group: ET.Element) -> tuple[float, float]:
    """Where a marker is."""
    (use,) = group.iter(f"{SVG}use")
    return float(use.attrib["x"]), float(use.attrib["y"])


def box(group: ET.Element) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a rectangle."""
    (path,) = group.iter(f"{SVG}path")
    numbers = [float(found) for found in re.findall(r"-?[\d.]+", path.attrib["d"])]
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def mixed(path: Path) -> Plan:
    """A plan with many types."""
    with gguf.read(path) as model:
        base = plan(model, type="Q4_K_M")
        several = ["IQ3_XXS", "Q3_K", "IQ4_XS", "Q5_K", "Q8_0"]
        types = base.types | {name: TYPES[several[i % 5]] for i, name in enumerate(base.matrices)}
        return from_types(model, types, recipe="auto:4bpw", file_type=base.file_type)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots")
    return shapes.llama(folder / "small.gguf", layers=4, hidden=1024, ffn_size=2048, heads=8, kv_heads=2)


def test_every_matrix_has_a_cell_and_every_type_a_name(small: Path, tmp_path: Path) -> None:
    found = mixed(small)
    path = plan_map(found, tmp_path / "plan.svg")
    assert {name[5:] for name in ids(path) if name.startswith("cell-")} == set(found.matrices)
    drawn = texts(path)
    for type in set(found.tensors.values()):
        assert any(type in text for text in drawn), type
    assert {f"type-{found.tensors[name]}" for name in found.matrices} <= ids(path).keys()
    assert sum(text in TYPES for text in drawn) == len(found.matrices)  # wide cells: a name in each
    assert "small · auto:4bpw" in drawn
    assert any(f"{found.bits_per_weight:.2f} bits a weight" in text for text in drawn)


def test_columns_are_layers_and_rows_are_roles(small: Path, tmp_path: Path) -> None:
    groups = ids(plan_map(mixed(small), tmp_path / "plan.svg"))
    lefts = [box(groups[f"cell-blk.{layer}.ffn_up.weight"])[0] for layer in range(4)]
    assert lefts == sorted(set(lefts))
    roles = "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down".split()
    names = ["token_embd", "output", *(f"blk.0.{role}" for role in roles)]
    tops = [box(groups[f"cell-{name}.weight"])[1] for name in names]
    assert tops == sorted(set(tops))


def test_bars_are_shares_of_the_bytes(small: Path, tmp_path: Path) -> None:
    found = mixed(small)
    with gguf.read(small) as model:
        path = plan_map(found, tmp_path / "plan.svg", model=model)
        sizes: dict[str, float] = {}
        for name in found.matrices:
            type, (cols, rows) = found.types[name], model.tensors[name].shape
            role = role_and_layer(name)[0]
            sizes[role] = sizes.get(role, 0) + rows * type.row_bytes(cols)
    left, _, right, _ = zip(*(box(ids(path)[f"share-{role}"]) for role in sizes), strict=True)
    lengths = [b - a for a, b in zip(left, right, strict=True)]
    shares = [size / max(sizes.values()) for size in sizes.values()]
    assert lengths == pytest.approx([max(0.8, 70 * share) for share in shares], abs=1e-3)
    assert sum(float(t[:-2]) for t in texts(path) if t.endswith(" %")) == pytest.approx(100, abs=1)


def test_eighty_layers_join_equal_neighbours(tmp_path: Path) -> None:
    model = shapes.llama(tmp_path / "l.gguf", layers=80, hidden=1024, ffn_size=2048, heads=8, kv_heads=2)
    path = plan_map(plan(model, type="Q4_K_S"), tmp_path / "plan.svg")
    named = [text for text in texts(path) if text in TYPES]
    assert len([name for name in ids(path) if name.startswith("cell-")]) == 80 * 7 + 2
    assert len(named) < 40
    assert "layer-70" in ids(path)


def test_a_plan_with_one_tensor(tmp_path: Path) -> None:
    keys = {"block_count": 1, "attention.head_count": 1}
    inside = shapes.write(tmp_path / "a.gguf", "llama", {"blk.7.attn_q.weight": (256, 256)}, keys)
    outside = shapes.write(tmp_path / "b.gguf", "llama", {"token_embd.weight": (256, 256)}, keys)
    vector = shapes.write(tmp_path / "c.gguf", "llama", {"output_norm.weight": (256,)}, keys)
    for path in (inside, outside, vector):
        with gguf.read(path) as model:
            drawn = texts(plan_map(plan(model, type="Q4_K_S"), tmp_path / "plan.svg", model=model))
        assert any(text.startswith("a tensor") for text in drawn)
    assert "F32" in drawn  # nothing to quantize: the plan is drawn all the same


def test_any_architecture(tmp_path: Path) -> None:
    path = shapes.zoo(tmp_path / "zoo.gguf", "llama", layers=2)
    with gguf.read(path) as model:
        found = plan(model, type="Q8_0")
        groups = ids(plan_map(found, tmp_path / "plan.svg", model=model))
    assert {name[5:] for name in groups if name.startswith("cell-")} == set(found.matrices)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blk.17.ffn_down_exps.weight", ("ffn_down_exps", 17)),
        ("token_embd.weight", ("token_embd", None)),
        ("enc.blk.3.attn_q.weight", ("enc.attn_q", 3)),
        ("blk.0.ffn_gate.3.weight", ("ffn_gate.3", 0)),
        ("mm.2.weight", ("mm", 2)),
    ],
)
def test_role_and_layer(name: str, expected: tuple[str, int | None]) -> None:
    assert role_and_layer(name) == expected


@pytest.mark.parametrize(
    "odd", ['<b>&amp;"x"', "a -- b", "$x^2$ \\frac", "a\x00\x1b\n\udc80", "模型", "x" * 200, "]]>"]
)
def test_names_with_odd_characters(odd: str, small: Path, tmp_path: Path) -> None:
    path = plan_map(mixed(small), tmp_path / "plan.svg", title=odd)
    assert "title" in ids(path)
    speed([replace(FAST[0], name=odd)], TESTS, tmp_path / "speed.svg", title=odd, note=odd)
    path = frontier([Point(odd, 10**9, 0.01, 0.001, "auto")], tmp_path / "frontier.svg", title=odd)
    assert any(name.startswith("point-0-") for name in ids(path))


def test_same_bytes_twice_whatever_the_settings(small: Path, tmp_path: Path) -> None:
    import matplotlib

    found = mixed(small)
    first = plan_map(found, tmp_path / "a.svg").read_bytes(), frontier(MIXES + AUTO, tmp_path / "b.svg").read_bytes()
    with matplotlib.rc_context(
        {"font.family": ["serif"], "svg.fonttype": "none", "axes.grid": True, "lines.marker": "x"}
    ):
        again = (
            plan_map(found, tmp_path / "a.svg").read_bytes(),
            frontier(MIXES + AUTO, tmp_path / "b.svg").read_bytes(),
        )
        assert matplotlib.rcParams["svg.fonttype"] == "none"
    assert first == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.svg"]


def test_points_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    points = MIXES + AUTO
    groups = ids(frontier(points, tmp_path / "frontier.svg", title="Model"))
    spots = [place(groups[f"point-{i}-{point.name}"]) for i, point in enumerate(points)]
    xs, ys = zip(*spots, strict=True)
    by_size = sorted(range(len(points)), key=lambda i: points[i].bytes)
    by_kld = sorted(range(len(points)), key=lambda i: -points[i].kld)
    assert [xs[i] for i in by_size] == sorted(xs)
    assert [ys[i] for i in by_kld] == sorted(ys)  # y grows downwards
    steps = [ys[3 + i + 1] - ys[3 + i] for i in range(4)]
    assert steps == pytest.approx([steps[0]] * 4, rel=1e-3)  # thirds are equal steps on a log axis
    drawn = texts(tmp_path / "frontier.svg")
    assert {point.name for point in points} | {"Model", "stock mixes", "automatic plans"} <= set(drawn)
    assert "other files" not in drawn


def test_names_of_points_do_not_cover_each_other(tmp_path: Path) -> None:
    from quantpress.plots.frontier import _candidates, _covered

    taken: list[tuple[float, float, float, float]] = [(395, 295, 405, 305)]
    for _ in range(12):  # all at one point
        box = min(_candidates(400, 300, 50, taken, [], below=False))[2]
        assert all(_covered(box, np.array([other])) < 60 for other in taken)
        taken.append(box)


def test_a_name_is_nearer_to_its_point_than_to_another() -> None:
    from quantpress.plots.frontier import _candidates, _nearest

    near, far = (400.0, 300.0), (408.0, 300.0)
    _, distance, box = min(
        _candidates(*near, 50, [(x - 5, y - 5, x + 5, y + 5) for x, y in (near, far)], [far], below=False)
    )
    assert distance > 16 or math.dist(_nearest(box, *near), near) < math.dist(_nearest(box, *far), far)


def test_beaten_points_are_crossed_out(tmp_path: Path) -> None:
    points = [MIXES[0], replace(MIXES[1], beaten=True), *AUTO]
    path = frontier(points, tmp_path / "frontier.svg")
    groups = ids(path)
    assert [name for name in groups if name.startswith("beaten-")] == ["beaten-1-Q4_K_M"]
    assert place(groups["beaten-1-Q4_K_M"]) == place(groups["point-1-Q4_K_M"])
    assert "larger and worse than another file" in texts(path)
    assert "larger and worse than another file" not in texts(frontier(MIXES, path))


def test_bars_are_speeds(tmp_path: Path) -> None:
    path = speed(FAST, TESTS, tmp_path / "speed.svg", title="Model", note="where")
    boxes = {name: box(found) for name, found in ids(path).items() if name.startswith("bar-")}
    rows = [boxes[f"bar-tg128-{name}"] for name in ("Q8_0", "auto:4bpw", "IQ2_M")]
    assert [top for _, top, _, _ in rows] == sorted(top for _, top, _, _ in rows)  # the largest file first
    lengths = [right - left for left, _, right, _ in rows]
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 1.5, 2], abs=1e-3)
    prompts = [boxes[f"bar-pp512-{name}"] for name in ("Q8_0", "auto:4bpw")]
    assert [right - left for left, _, right, _ in prompts][1] / (prompts[0][2] - prompts[0][0]) == pytest.approx(
        2, abs=1e-3
    )
    assert "bar-pp512-IQ2_M" not in boxes
    drawn = texts(path)
    assert {
        "Model",
        "where",
        "writing",
        "reading a prompt",
        with_error(20.5, 0.25),
        with_error(1000.0, 40.0),
        "4.30 GB",
    } <= set(drawn)
    assert any(text.endswith("auto:4bpw") and text.startswith("repacked") for text in drawn)
    with pytest.raises(InputError, match="pp1024"):
        speed(FAST, {"pp1024": "reading"}, path, title="Model")


def test_a_png_beside_each_svg(small: Path, tmp_path: Path) -> None:
    draw: dict[str, Callable[[Path], Path]] = {
        "a": lambda path: frontier(MIXES + AUTO, path, png=True),
        "b": lambda path: speed(FAST, TESTS, path, title="Model", png=True),
        "c": lambda path: plan_map(mixed(small), path, png=True),
    }
    for name, function in draw.items():
        path = function(tmp_path / f"{name}.svg")
        png = path.with_suffix(".png")
        first = png.read_bytes()
        width, height = struct.unpack(">II", first[16:24])
        root = ET.parse(path).getroot()  # noqa: S314 (our own file)
        assert (width, height) == pytest.approx(
            [2 * float(root.attrib[side][:-2]) for side in ("width", "height")], abs=2
        )
        kinds = re.findall(rb"(IHDR|PLTE|IDAT|IEND|tEXt|iTXt|zTXt|tIME|eXIf)", first)
        assert not set(kinds) & {b"tEXt", b"iTXt", b"zTXt", b"tIME", b"eXIf"}  # no date, no version
        function(path)
        assert png.read_bytes() == first


@pytest.mark.parametrize("kld", [0.0, -1e-9, float("nan"), float("inf")])
def test_points_without_a_divergence_are_named_below(kld: float, tmp_path: Path) -> None:
    path = frontier([Point("BF16", 8 * 10**9, kld, 0.0, "other"), *MIXES], tmp_path / "frontier.svg")
    assert not any("BF16" in name for name in ids(path))
    assert any("BF16 (8.00 GB)" in text for text in texts(path))
    with pytest.raises(InputError, match="divergence above 0"):
        frontier([Point("BF16", 8, kld, 0.0, "other")], tmp_path / "none.svg")


def test_nowhere_to_write(small: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"plan\.svg"):
        plan_map(mixed(small), tmp_path / "no" / "plan.svg")


def test_matplotlib_is_imported_when_a_picture_is_drawn(tmp_path: Path) -> None:
    code = "import sys, quantpress.plots; assert not {'matplotlib', 'PIL'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys, pathlib; from quantpress.plots import *\n"
        "frontier([Point('a', 10**9, 0.1, 0, 'mix')], pathlib.Path(sys.argv[1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.svg")], check=True)
