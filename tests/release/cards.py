"""results.json and release.json of releases that nobody made, their pages, and a reader of Markdown tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from quantpress.card import write_card
from quantpress.gguf import read
from tests.oracle import models

MEASURED = {
    "perplexity": 41.61, "perplexity_error": 1.2, "kld_mean": 0.004, "kld_error": 0.0001, "kld_p99": 0.03,
    "kld_p999": 0.1, "same_top": 0.94, "tokens": 4080, "sha256": ["0" * 64],
}  # fmt: skip
TEXT = {"by_model": False, "sha256": [["c.txt", "c" * 64]], "files": ["calibration.txt"]}


def results(**variants: dict[str, Any]) -> dict[str, Any]:
    """results.json with these rows over MEASURED; `-` in a name is written `__`."""
    rows = {}
    for key, row in variants.items():
        name = key.replace("__", "-")
        rows[name] = {**MEASURED, "file": f"m-{name}.gguf", "bytes": 4_000_000, "split": False, **row}
        rows[name]["bits_per_weight"] = 4.5
    return {"model": "m", "base": {**MEASURED, "kld_mean": 0.0, "kld_error": 0.0}, "variants": rows}


SIZES = {"BF16": (16.0, 0.0), "Q8_0": (8.5, 0.001), "Q4_1": (5.0, 0.012), "Q4_K_M": (4.9, 0.01), "Q4_0": (4.5, 0.02)}


def measured(**more: Any) -> dict[str, Any]:
    """A release of a model of 8 G weights with memory and speeds."""
    rows = {}
    for name, (bits, kld) in SIZES.items():
        tests = [
            {"test": test, "tokens": tokens, "mean": speed / bits, "deviation": 0.01 * speed / bits, "repeats": 5}
            for test, tokens, speed in (("pp512", 512, 4000.0), ("pp1024", 1024, 3900.0), ("tg128", 128, 160.0))
        ]
        weights = int(bits * 10**9)
        memory = {"context": 4096, "cache_type": "F16", "weights": weights, "cache": 5 * 10**8, "compute": 10**8}
        memory |= {"output": 10**6, "total": weights + 601 * 10**6}
        rows[name] = {
            "bytes": weights, "kld_mean": kld, "kld_error": kld / 50, "memory": memory,
            "speed": {"tests": tests, "repacked": name == "Q4_0"},
        }  # fmt: skip
    machine = {"cpu": "Test | CPU", "threads": 8, "backend": "CPU", "features": ["AVX2", "FMA"], "gpu_layers": 0}
    return {**results(**rows), "machine": machine, **more}


def facts(values: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """release.json beside its files."""
    given = {
        "variants": list(values["variants"]), "targets": [], "budget": "10m", "chat": False, "encoder": "quantpress",
        "effort": "normal", "context": 512, "calibration_tokens": 32768, "evaluation_tokens": 16384,
        "evaluation_chunks": 128, "seed": 0, "split_bytes": 50 * 10**9, "repository": None,
    }  # fmt: skip
    evaluation = {**TEXT, "sha256": [["e.txt", "e" * 64]], "files": ["evaluation.txt"]}
    return {
        "quantpress": "0.1.0",
        "engine": {"llama_cpp_python": "0.3.36", "llama_cpp": "0.5.0"},
        "settings": {**given, **settings},
        "source": {"path": "m", "sha256": []},
        "texts": {"calibration": TEXT, "evaluation": evaluation},
    }


def page(folder: Path, values: dict[str, Any], base: Path | None = None, **options: Any) -> str:
    """README.md of a release with these results; `options` are settings, `pictures` and `base_model`."""
    words = {"pictures": options.pop("pictures", {}), "base_model": options.pop("base_model", None)}
    release = facts(values, **options)
    with read(base or models.save(folder / "m.gguf")) as model:
        pages = write_card(folder, values, release, model, imatrix="m-imatrix.gguf", **words)
    assert [path.name for path in pages] == ["README.md", "README.zh.md"]
    return pages[0].read_text(encoding="utf-8")


def body(text: str) -> str:
    """A page without its front matter."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def cells(line: str) -> list[str]:
    """The cells of a table's line, as Markdown cuts them."""
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page: lines of cells; the first is the head, the ruler is checked and left out."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", without_code(text), flags=re.MULTILINE):
        lines = [cells(line) for line in block.splitlines()]
        assert all(re.fullmatch(r":?-+:?", cell) for cell in lines[1]), lines[1]
        assert {len(line) for line in lines} == {len(lines[0])}, block
        found.append([lines[0], *lines[2:]])
    return found


def table(text: str, head: str) -> list[dict[str, str]]:
    """The table whose first column is called that, as a mapping a line; non-breaking spaces are spaces."""
    found = next(lines for lines in tables(body(text)) if lines[0][0] == head)
    names = [name.replace("&nbsp;", "") for name in found[0]]
    return [dict(zip(names, [cell.replace("\u00a0", " ") for cell in line], strict=True)) for line in found[1:]]


def without_code(text: str) -> str:
    """The page with a word in place of each code block."""
    return re.sub(r"^(`{3,})\w*\n.*?^\1$", "CODE", text, flags=re.MULTILINE | re.DOTALL)


def code(text: str) -> list[str]:
    """The code blocks."""
    return [found[1] for found in re.findall(r"^(`{3,})\w*\n(.*?)\n\1$", text, flags=re.MULTILINE | re.DOTALL)]


def rendered(text: str) -> str:
    """The page as HTML, by a parser that is not ours."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(body(text)))


def links(text: str) -> list[str]:
    """Where links and pictures lead."""
    return re.findall(r"\]\(([^)]*)\)", without_code(text))
