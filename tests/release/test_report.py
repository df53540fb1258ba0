"""report.html: what is in it, that nothing else can be, and what it answers when someone moves the slider."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantpress.card.room import MEMORIES, fits_in
from quantpress.card.rows import make_rows
from quantpress.report import write_report
from tests import browser

GIB = 2**30
TEMPLATES = files("quantpress") / "templates"
SPEEDS = {"AUTO-4bpw": (39.25, 9000.0), "Q8_0": (20.5, 8000.0), "Q4_K_M": (40.0, 9500.0), "IQ2_M": (45.0, 6000.0)}


def measured(name: str, nbytes: int, kld: float, **others: Any) -> dict[str, Any]:
    """A row of results.json; half a GB beside the weights."""
    row = {
        "variant": name, "file": f"m-{name}.gguf", "split": False, "bytes": nbytes, "sha256": ["0"],
        "bits_per_weight": 4.0, "perplexity": 10 + kld, "perplexity_error": 0.1, "kld_mean": kld,
        "kld_error": kld / 50, "kld_p99": 8 * kld, "kld_p999": 20 * kld, "same_top": 1 - 3 * kld, "tokens": 4080,
        "memory": {"context": 4096, "cache_type": "F16", "weights": nbytes, "total": nbytes + 500_000_123},
    }  # fmt: skip
    if name in SPEEDS:
        row["speed"] = {
            "tests": [
                {"test": test, "tokens": int(test[2:]), "mean": mean, "deviation": mean / 100, "repeats": 3}
                for test, mean in zip(("tg128", "pp512"), SPEEDS[name], strict=True)
            ],
            "repacked": False,
        }
    return row | others


def results() -> dict[str, Any]:
    rows = [
        measured("BF16", 8_000_000_000, 0.0),
        measured("Q8_0", 4_300_000_000, 0.0002, split=True, file="m-Q8_0/m-Q8_0-00001-of-00002.gguf"),
        measured("Q4_K_M", 2_500_000_000, 0.0044),
        measured("AUTO-4bpw", 2_400_000_000, 0.003, allocation={"reference": "IQ4_XS", "gate": None}),
        measured("IQ2_M", 1_500_000_000, 0.046),
    ]
    machine = {"cpu": "A CPU", "threads": 2, "backend": "CPU", "features": [], "gpu_layers": 0}
    variants = {row["variant"]: row for row in rows}
    return {"version": 1, "model": "m", "base": rows[0], "machine": machine, "variants": variants}


def report(folder: Path, values: dict[str, Any], pictures: dict[str, str] | None = None) -> Path:
    facts = {"quantpress": "0.1", "settings": {"repository": "user/m-GGUF"}}
    return write_report(folder, values, facts, pictures or {})


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the content of its scripts and styles."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.inside.append(data)

    @property
    def data(self) -> dict[str, Any]:
        """What the page carries as JSON: after the style, before the script."""
        found: dict[str, Any] = json.loads(self.inside[1])
        return found


def test_the_data_are_those_of_results_json(tmp_path: Path) -> None:
    values = results()
    data = Tags(report(tmp_path, values)).data
    assert [file["name"] for file in data["files"]] == ["BF16", "Q8_0", "Q4_K_M", "AUTO-4bpw", "IQ2_M"]
    keys = {
        "bytes": "bytes", "kld": "kld_mean", "error": "kld_error", "p99": "kld_p99", "top": "same_top", "file": "file",
        "perplexity": "perplexity",
    }  # fmt: skip
    for file, shown in zip(data["files"], make_rows(values), strict=True):
        row = values["variants"][file["name"]]
        assert {key: file[key] for key in keys} == {key: row[other] for key, other in keys.items()}
        assert file["takes"] == row["memory"]["total"]
        assert {name: (rate["mean"], rate["deviation"]) for name, rate in file["rates"].items()} == {
            test["test"]: (test["mean"], test["deviation"]) for test in row.get("speed", {}).get("tests", [])
        }
        assert file["text"]["kld"] == shown["kld"]
        assert file["wants"] - max(2**29, file["wants"] // 16) - file["takes"] in (0, 1)
        assert fits_in(file["takes"]) == next(
            size for size in MEMORIES if size * GIB >= file["wants"]
        )  # as on the card
    assert [file["better"] for file in data["files"]] == [None, None, "AUTO-4bpw", None, None]
    assert data["files"][1]["command"] == "hf download user/m-GGUF --include 'm-Q8_0/*' --local-dir ."
    assert [file["kind"] for file in data["files"]] == ["mix", "mix", "mix", "auto", "mix"]


def test_nothing_is_loaded_and_no_other_script_runs(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    pictures = {"AUTO-4bpw": "a.svg", "frontier": "none.svg", "speed": "none.svg"}
    page = Tags(report(tmp_path, results(), pictures))
    addresses = [value for _, names in page.tags for key, value in names.items() if key in ("src", "href", "srcset")]
    assert addresses == [f"data:image/svg+xml;base64,{base64.b64encode((tmp_path / 'a.svg').read_bytes()).decode()}"]
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "a"}
    assert not any(key.startswith("on") or key == "style" for _, names in page.tags for key in names)
    style, _, script = page.inside
    assert not re.search(r"url\(|@import|image-set", style)
    assert not re.search(r"fetch|XMLHttp|import\(|WebSocket|innerHTML|eval", script)
    policy = next(names["content"] for tag, names in page.tags if names.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    )  # fmt: skip


def hostile() -> dict[str, Any]:
    """Names that try to end what they stand in."""
    odd = [
        "</script><script>document.title='bad'</script>", "<img src=x onerror=\"document.title='bad'\">",
        "\"'><svg onload=alert(1)>{{ 7 * 7 }}", "<!--<script>", "a\u2028b{name}",
    ]  # fmt: skip
    values = results()
    values["model"] = odd[0]
    values["machine"]["cpu"] = odd[1]
    rows = list(values["variants"].values())
    for row, name in zip(rows, odd, strict=True):
        row |= {"variant": name, "file": f"{name}.gguf"}
    values["variants"] = {row["variant"]: row for row in rows}
    return values


def test_hostile_names_are_text(tmp_path: Path) -> None:
    values = hostile()
    plain, page = Tags(report(tmp_path, results())), Tags(report(tmp_path, values))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [set(names) for _, names in page.tags] == [set(names) for _, names in plain.tags]
    assert {file["name"] for file in page.data["files"]} == set(values["variants"])
    assert len(page.inside) == 3


def test_languages_have_the_same_phrases_and_the_page_uses_all() -> None:
    tables = {file.name: yaml.safe_load(file.read_text("utf-8")) for file in (TEMPLATES / "report").iterdir()}
    english = tables["en.yaml"]
    for name, table in tables.items():
        for key in english.keys() | table.keys():
            holes = [sorted(re.findall(r"\{\w+\}", found[key])) for found in (english, table)]
            assert holes[0] == holes[1], (name, key)
    users = "".join((TEMPLATES / name).read_text("utf-8") for name in ("report.html.j2", "report.js"))
    for key in english.keys() - {"mix", "auto", "other", "test_tg", "test_pp", "language"}:
        assert f'"{key}"' in users, key


def test_a_release_without_speeds_and_memory(tmp_path: Path) -> None:
    values = results()
    del values["machine"]
    for row in values["variants"].values():
        row.pop("speed", None)
        del row["memory"]
    page = Tags(report(tmp_path, values))
    assert not any(names.get("id") == "speed-plot" for _, names in page.tags)
    assert [file["takes"] for file in page.data["files"]][:1] == [10_000_000_000]
    assert "as nobody measured them" in (tmp_path / "report.html").read_text()


def test_speeds_that_differ_from_run_to_run_are_called_so(tmp_path: Path) -> None:
    values = results()
    page = report(tmp_path, values)
    assert not Tags(page).data["noisy"]
    assert "The runs differ widely" not in page.read_text().partition('id="data"')[0]
    for row in values["variants"].values():
        for test in row.get("speed", {}).get("tests", ()):
            test["deviation"] = test["mean"] / 2
    page = report(tmp_path, values)
    assert Tags(page).data["noisy"]
    assert "The runs differ widely" in page.read_text().partition('id="data"')[0]


@pytest.mark.parametrize("count", [1, 2])
def test_few_files(count: int, tmp_path: Path) -> None:
    values = results()
    values["variants"] = dict(list(values["variants"].items())[1 : 1 + count])
    slider = Tags(report(tmp_path, values)).data["slider"]
    assert slider["low"] < slider["start"] < slider["high"]
    assert (slider["high"] - slider["low"]) % slider["step"] == 0


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Page]:
    with browser.page() as page:
        yield page


@pytest.fixture
def opened(chromium: browser.Page, tmp_path: Path) -> Iterator[browser.Page]:
    chromium.open(report(tmp_path, results()))
    yield chromium
    assert not chromium.complaints
    assert all(url.startswith(("file:", "data:")) for url in chromium.requested)


def text(page: browser.Page, selector: str) -> str:
    return str(page.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def in_memory(nbytes: int, rounding: str = ROUND_HALF_UP) -> str:
    """As the page writes it."""
    unit, name, digits = (GIB, "GiB", "0.01") if nbytes >= GIB else (2**20, "MiB", "0.1")
    return f"{(Decimal(nbytes) / unit).quantize(Decimal(digits), rounding)} {name}"


def expected(memory: int) -> tuple[str, str | None, set[str]]:
    """The file to take, what it leaves, and the files that do not fit; from results.json alone."""
    room = memory - max(2**29, memory // 16)
    rows = results()["variants"]
    fitting = [row for row in rows.values() if row["memory"]["total"] <= room]
    over = rows.keys() - {row["variant"] for row in fitting}
    if not fitting:
        return "No file fits", None, over
    best = min(fitting, key=lambda row: float(row["kld_mean"]))
    return f"Take {best['variant']}", in_memory(room - best["memory"]["total"]), over


def check(page: browser.Page) -> str:
    """Compare what the page says with what follows from the slider's position; returns it."""
    memory = int(page.run("slider.value"))
    title, rest, over = expected(memory)
    assert text(page, "#amount") == in_memory(memory)
    assert text(page, "#result strong") == title
    if rest is not None:
        assert rest in text(page, "#result dl").split("\n")
        name = title.removeprefix("Take ")
        file = results()["variants"][name]["file"]
        assert text(page, "#command") == (
            f"hf download user/m-GGUF --include {repr('m-Q8_0/*') if name == 'Q8_0' else file} --local-dir ."
        )
        assert page.run("document.querySelector('tr.best small').innerText") == file
    dimmed = page.run("[...document.querySelectorAll('tr.over')].map(row => files[row.dataset.index].name)")
    assert set(dimmed) == over
    drawn = page.run("[...document.querySelectorAll('#size-plot .over')].map(mark => files[mark.dataset.index].name)")
    assert set(drawn) == over - {"BF16"}  # which has no divergence
    return title


def test_the_slider_finds_the_file_that_fits(opened: browser.Page) -> None:
    said = [check(opened)]
    box = opened.run("(box => [box.x, box.y, box.width, box.height])(slider.getBoundingClientRect())")
    for share in (0.1, 0.22, 0.35, 0.6, 0.8, 0.95):
        opened.mouse(box[0] + share * box[2], box[1] + box[3] / 2, click=True)
        said.append(check(opened))
    before = int(opened.run("slider.value"))
    opened.press("ArrowLeft", 37)
    assert before - int(opened.run("slider.value")) == opened.run("data.slider.step")
    check(opened)
    opened.press("Home", 36)
    said.append(check(opened))
    smallest = in_memory(2_000_000_123 + GIB // 2, ROUND_CEILING)
    assert f"wants a memory of {smallest}" in text(opened, "#result")  # never less than it needs
    opened.press("End", 35)
    said.append(check(opened))
    assert set(said) == {"No file fits", *(f"Take {name}" for name in ("IQ2_M", "AUTO-4bpw", "Q8_0", "BF16"))}
    assert opened.run("slider.getAttribute('aria-valuetext')") == text(opened, "#amount")
    assert opened.run("document.querySelector('#result').getAttribute('aria-live')") == "polite"


def test_memory_can_be_typed(opened: browser.Page) -> None:
    opened.run("exact.focus(); exact.select()")
    opened.send("Input.insertText", text="24")
    assert text(opened, "#amount") == "24.00 GiB"
    assert text(opened, "#result strong") == "Take BF16"
    left = 24 * GIB - 24 * GIB // 16 - results()["variants"]["BF16"]["memory"]["total"]
    assert in_memory(left) in text(opened, "#result dl")


def test_the_file_to_take_is_named_in_the_plots_however_crowded(chromium: browser.Page, tmp_path: Path) -> None:
    values = results()
    crowd = [measured(f"X{i:02}", 2_500_000_000 + i * 1_000_000, 0.0044 - i * 1e-5) for i in range(20)]
    values["variants"] |= {row["variant"]: row for row in crowd}
    del values["variants"]["AUTO-4bpw"]
    chromium.open(report(tmp_path, values))
    for name in ("X03", "X10", "X19", "X04"):
        chromium.run(f"set(files.find((file) => file.name === '{name}').wants)")
        assert text(chromium, "#result strong") == f"Take {name}"
        named = chromium.run("[...document.querySelectorAll('#size-plot .point text')].map((text) => text.textContent)")
        assert name in named
        assert len(named) == len(set(named)) < 20
    assert not chromium.complaints


def test_points_say_what_they_are(opened: browser.Page) -> None:
    place = "(mark => (box => [box.x + box.width / 2, box.y + box.height / 2])(mark.getBoundingClientRect()))"
    opened.run("document.querySelector('#speed-plot').scrollIntoView()")
    x, y = opened.run(f"{place}(document.querySelector('#speed-plot .point[data-index=\"2\"] .shape'))")
    opened.mouse(x, y)
    row = results()["variants"]["Q4_K_M"]
    [shown] = [found for found in make_rows(results()) if found["variant"] == "Q4_K_M"]
    tip = text(opened, "#tip")
    for part in (
        "Q4_K_M · 2.50 GB",
        row["file"],
        shown["kld"],
        shown["p99"],
        shown["top"],
        shown["rates"]["tg128"]["text"],
    ):
        assert part in tip
    assert in_memory(row["memory"]["total"]) in tip
    assert "larger and worse than AUTO-4bpw" in tip
    opened.mouse(1, 1)
    assert opened.run("tip.hidden")
    opened.run("document.querySelector('#size-plot .point').focus()")
    opened.press("ArrowRight", 39)
    assert text(opened, "#tip").startswith("AUTO-4bpw · 2.40 GB")
    assert opened.run("document.querySelector('#speed-plot .point:not([tabindex=\"-1\"])') !== null")


def test_points_stand_in_the_order_of_their_numbers(opened: browser.Page) -> None:
    spots = "[...document.querySelectorAll('#{} .point')].map(p => [p.dataset.index, p.querySelector('.shape').getBoundingClientRect()]).map(([i, b]) => [files[i].name, b.x, b.y])"  # noqa: E501
    rows = results()["variants"]
    for plot, key in (("size-plot", lambda name: rows[name]["bytes"]), ("speed-plot", lambda name: SPEEDS[name][0])):
        found = {name: (x, y) for name, x, y in opened.run(spots.format(plot))}
        assert set(found) == set(SPEEDS)
        assert sorted(found, key=lambda name: found[name][0]) == sorted(found, key=key)
        assert sorted(found, key=lambda name: -found[name][1]) == sorted(found, key=lambda n: rows[n]["kld_mean"])


def test_the_table_is_sorted_and_the_language_chosen(opened: browser.Page) -> None:
    names = "[...document.querySelectorAll('#files tbody tr')].map(row => files[row.dataset.index].name)"
    opened.run("document.querySelector('[data-key=tg128] button').click()")
    assert opened.run(names) == ["BF16", "Q8_0", "AUTO-4bpw", "Q4_K_M", "IQ2_M"]
    opened.run("document.querySelector('[data-key=tg128] button').click()")
    assert opened.run(names)[0] == "IQ2_M"
    assert opened.run("document.querySelector('[data-key=tg128]').getAttribute('aria-sort')") == "descending"
    opened.run("document.querySelector('[data-language=zh]').click()")
    chinese = yaml.safe_load((TEMPLATES / "report" / "zh.yaml").read_text("utf-8"))
    assert text(opened, "#size-plot h2") == chinese["size_plot"]
    assert text(opened, "#result strong").startswith(chinese["take"].format(name=""))
    assert opened.run("document.documentElement.lang") == "zh"


@pytest.mark.parametrize("width", [420, 1280])
def test_the_page_is_not_wider_than_the_screen(width: int, opened: browser.Page, tmp_path: Path) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.send("Emulation.setDeviceMetricsOverride", **size)
    opened.open(tmp_path / "report.html")
    assert opened.run("document.documentElement.scrollWidth") == width
    opened.send("Emulation.clearDeviceMetricsOverride")


def test_hostile_names_do_nothing(chromium: browser.Page, tmp_path: Path) -> None:
    values = hostile()
    chromium.open(report(tmp_path, copy.deepcopy(values)))
    assert chromium.run("document.title") == f"{values['model']}: which file?"
    chromium.run("document.querySelector('[data-language=zh]').click()")
    names = chromium.run("[...document.querySelectorAll('#files tbody th')].map(cell => cell.firstChild.textContent)")
    assert set(names) == set(values["variants"])
    assert chromium.run("document.querySelectorAll('main img, main script').length") == 0
    assert not chromium.complaints
