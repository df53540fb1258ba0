"""The page against results.json: every table recomputed, and what is left out where nothing was measured."""

from __future__ import annotations

import html
import math
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import ModelCard

from quantpress.card import frontier
from quantpress.card.backends import BACKENDS, FAMILIES, REPACKED, matrix
from quantpress.card.numbers import rate, with_deviation, with_error
from quantpress.card.room import GB, MEMORIES, fits_in, picks, usable
from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Value, ValueType, Writer, read
from quantpress.sizes import human_size
from tests.oracle import models
from tests.release.cards import (
    MEASURED,
    SIZES,
    cells,
    code,
    links,
    measured,
    page,
    rendered,
    results,
    table,
    without_code,
)


def test_the_table_of_files_says_what_results_json_says(tmp_path: Path) -> None:
    values = measured()
    lines = table(page(tmp_path, values, repository="me/m-GGUF"), "file")
    assert [line["type"].removesuffix(" †") for line in lines] == list(SIZES)  # largest first
    for line in lines:
        row = values["variants"][line["type"].removesuffix(" †")]
        assert line["file"] == f"[{row['file']}](https://huggingface.co/me/m-GGUF/blob/main/{row['file']})"
        assert line["size"] == f"{row['bytes'] / 1e9:.2f} GB"
        assert line["split"] == "no"
        assert line["perplexity"] == f"{row['perplexity']:.4f}"
        mean, _, error = line["KLD mean"].partition(" ± ")
        assert math.isclose(float(mean), row["kld_mean"], rel_tol=0.01)
        assert math.isclose(float(error or 0), row["kld_error"], rel_tol=0.05)
        assert float(line["KLD 99 %"]) == row["kld_p99"]
        assert line["same top"] == "94.00 %"
        assert float(line["pp512, tokens/s"].replace(",", "")) == pytest.approx(
            row["speed"]["tests"][0]["mean"], rel=5e-3
        )
        assert float(line["tg128, tokens/s"]) == pytest.approx(row["speed"]["tests"][2]["mean"], rel=5e-3)


def test_fits_in_is_the_smallest_usual_memory_with_room_to_spare(tmp_path: Path) -> None:
    values = measured()
    for line in table(page(tmp_path, values), "file"):
        total = values["variants"][line["type"].removesuffix(" †")]["memory"]["total"]
        held = [memory for memory in MEMORIES if total + max(0.5, memory / 16) * 2**30 <= memory * 2**30]
        assert line["fits in"] == f"{held[0]} GB"
    assert fits_in(100) == 1
    assert fits_in(usable(8)) == 8
    assert fits_in(usable(8) + 1) == 12
    assert fits_in(2000 * GB) is None


def test_choice_by_memory_is_the_lowest_divergence_that_fits(tmp_path: Path) -> None:
    values = measured()
    lines = table(page(tmp_path, values), "memory")
    expected: dict[str, int] = {}
    for memory in MEMORIES:
        fitting = [
            (row["kld_mean"], name)
            for name, row in values["variants"].items()
            if row["memory"]["total"] + max(0.5, memory / 16) * 2**30 <= memory * 2**30
        ]
        if fitting:
            expected.setdefault(min(fitting)[1], memory)
    assert {line["file"].split("]")[0][1:]: line["memory"] for line in lines} == {
        name: f"≥ {memory} GB" for name, memory in expected.items()
    }
    assert [line["memory"] for line in lines] == ["≥ 6 GB", "≥ 12 GB", "≥ 24 GB"]
    assert lines[0]["takes"] == human_size(values["variants"]["Q4_K_M"]["memory"]["total"])
    assert picks([{**MEASURED, "bytes": 1}]) == []


def test_larger_and_worse_is_marked_beyond_both_errors(tmp_path: Path) -> None:
    values = measured()
    marked = {line["type"]: line["description"] for line in table(page(tmp_path, values), "file")}
    assert marked["Q4_1 †"].endswith(". † Q4_K_M is smaller and closer")
    assert sum("†" in name for name in marked) == 1
    values["variants"]["Q4_1"]["kld_error"] = values["variants"]["Q4_K_M"]["kld_error"] = 0.0011  # 0.012 and 0.010
    text = page(tmp_path, values)
    assert "†" not in text


def test_speeds_are_compared_with_q4_0(tmp_path: Path) -> None:
    values = measured()
    text = page(tmp_path, values, pictures={"speed": "plots/speed.svg"})
    lines = table_of_speeds(text)
    assert list(lines[0]) == ["type", "size", "pp512", "pp1024", "tg128", "repacked"]
    for line in lines:
        for test in values["variants"][line["type"]]["speed"]["tests"]:
            number, _, rest = line[test["test"]].partition(" ± ")
            deviation, _, share = rest.partition(" ")
            assert float(number) == pytest.approx(test["mean"], rel=5e-4)
            assert float(deviation) == pytest.approx(test["deviation"], rel=0.1)
            reference = next(
                one["mean"] for one in values["variants"]["Q4_0"]["speed"]["tests"] if one["test"] == test["test"]
            )
            assert share == f"({100 * test['mean'] / reference:.0f} %)"
        assert line["repacked"] == ("yes" if line["type"] == "Q4_0" else "no")
    assert r"Test \| CPU, 8 threads, back end CPU" in text
    assert "AVX2, FMA" in text
    assert "![Prompt and generation speed of every file](plots/speed.svg)" in text
    del values["variants"]["Q4_0"]
    assert "%)" not in str(table_of_speeds(page(tmp_path, values)))


def test_speeds_that_differ_from_run_to_run_are_called_so(tmp_path: Path) -> None:
    values = measured()
    assert "The runs differ widely" not in page(tmp_path, values)
    for row in values["variants"].values():
        for test in row["speed"]["tests"]:
            test["deviation"] = test["mean"] / 2
    assert page(tmp_path, values).count("The runs differ widely") == 2  # below the table of files, and above the speeds


def table_of_speeds(text: str) -> list[dict[str, str]]:
    return table(text[text.index("\n## Speed\n") :], "type")


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    values = results(Q8_0={"bytes": 8_000_000}, Q4_K_M={})
    text = page(tmp_path, values)
    assert list(table(text, "file")[0]) == [
        "file", "type", "size", "split", "perplexity", "KLD mean", "KLD 99 %", "same top", "description",
    ]  # fmt: skip
    for word in (
        "tokens/s**",
        "fits in",
        "## Speed",
        "| memory |",
        "report.html",
        "Mixed plans",
        "utomatic",
        "Licence",
    ):
        assert word not in text, word
    (tmp_path / "report.html").touch()
    assert "[report.html](report.html)" in page(tmp_path, values)


def test_without_a_repository_nothing_points_to_one(tmp_path: Path) -> None:
    text = page(tmp_path, measured())
    targets = [link for link in links(text) if not link.startswith("https://")]
    assert {"README.zh.md", "m-Q8_0.gguf", "results.json", "release.json", "m-imatrix.gguf"} <= set(targets)
    for word in ("USER", "hf download", "-hf", "ollama", "lms get", "quantpress pull", "hf.co", "None"):
        assert word not in text, word
    assert "llama-server -m m-Q4_K_M.gguf" in code(text)


def test_with_a_repository_the_commands_name_it(tmp_path: Path) -> None:
    lines = "\n".join(code(page(tmp_path, measured(), repository="me/m-GGUF", base_model="them/m"))).splitlines()
    for line in (
        "hf download me/m-GGUF --include m-Q4_K_M.gguf --local-dir .",
        "llama-server -hf me/m-GGUF:Q4_K_M",
        "ollama run hf.co/me/m-GGUF:Q4_K_M",
        "lms get https://huggingface.co/me/m-GGUF@Q4_K_M",
        "quantpress pull me/m-GGUF --include m-Q4_K_M.gguf",
        "quantpress choose me/m-GGUF",
        "quantpress serve m-GGUF/m-Q4_K_M.gguf",
    ):
        assert line in lines, line


def test_a_tag_that_means_two_files_is_not_used(tmp_path: Path) -> None:
    values = results(Q4_K_M={"file": "m-Q4_K_M.gguf"}, MP={"file": "Q4_K_M-m-MP.gguf"})
    assert "llama-server -m m-Q4_K_M.gguf" in code(page(tmp_path, values, repository="me/m-GGUF"))


def test_split_files_are_folders(tmp_path: Path) -> None:
    parts = {"file": "m-Q8_0/m-Q8_0-00001-of-00003.gguf", "split": True, "sha256": ["0"] * 3, "bytes": 10**11}
    text = page(tmp_path, results(Q8_0=parts, Q4_K_M={}), repository="me/m-GGUF")
    line = table(text, "file")[0]
    assert line["file"] == "[m-Q8_0/](https://huggingface.co/me/m-GGUF/tree/main/m-Q8_0)"
    assert line["split"] == "3 parts"
    assert "hf download me/m-GGUF --include 'm-Q8_0/*' --local-dir ." in code(text)
    assert "Ollama takes no file in parts: Q8_0." in text
    alone = page(tmp_path, results(Q8_0=parts), repository="me/m-GGUF")
    assert "ollama run" not in alone
    assert "quantpress serve m-GGUF/m-Q8_0/m-Q8_0-00001-of-00003.gguf" in "\n".join(code(alone))


def test_one_variant_alone(tmp_path: Path) -> None:
    text = page(tmp_path, results(IQ3_M={}), repository="me/m-GGUF")
    assert len(table(text, "file")) == 1
    assert "llama-server -hf me/m-GGUF:IQ3_M" in code(text)
    assert "1 files" not in text


def test_enlarged_ends_stand_beside_their_mix(tmp_path: Path) -> None:
    text = page(tmp_path, results(Q6_K_L={"bytes": 7_000_000}, Q4_K_L={"bytes": 5_000_000}, Q4_K_M={}))
    section = text[text.index("## Embedding and output weights") :]
    lines = [cells(line) for line in section.splitlines() if line.startswith(("| Q6_K_L", "| Q4_K_L"))]
    assert [line[3] for line in lines] == ["the mix is not in this release", "Q4_K_M"]
    assert lines[1][4] == "4.00\u00a0MB"
    assert "ZeroWw" in text
    assert "ZeroWw" not in page(tmp_path, results(Q4_K_M={}))


def test_names_that_hugging_face_does_not_read_are_told(tmp_path: Path) -> None:
    text = page(tmp_path, results(MP={}, Q4_K_M={}), repository="me/m-GGUF")
    assert "no quantization label from the name of m-MP.gguf:" in text
    assert "label" not in page(tmp_path, results(Q4_K_M={}))


ODD = "a|b *c* [d] `e` <f> & _g_ (h) 名 %20"


def test_odd_names_break_nothing(tmp_path: Path) -> None:
    values = results(Q4_K_M={"file": f"{ODD}-Q4_K_M.gguf"}, Q8_0={"file": f"{ODD}-Q8_0.gguf", "bytes": 9_000_000})
    text = page(tmp_path, {**values, "model": ODD}, repository="me/m-GGUF")
    assert r"# a\|b \*c\* \[d\] \`e\` \<f> &amp; \_g\_ (h) 名 %20 GGUF" in text
    assert len(table(text, "file")) == 2
    prefix = "https://huggingface.co/me/m-GGUF/blob/main/"
    written = [line.split("](")[1].split(") |")[0] for line in text.splitlines() if line.startswith("| [")]
    assert [unquote(link.removeprefix(prefix)) for link in written[:2]] == [f"{ODD}-Q8_0.gguf", f"{ODD}-Q4_K_M.gguf"]
    shown = re.findall(r"<td><a [^>]*>(.*?)</a></td>", rendered(text))
    assert [html.unescape(name) for name in shown][:2] == [f"{ODD}-Q8_0.gguf", f"{ODD}-Q4_K_M.gguf"]
    words = shlex.split(next(line for line in "\n".join(code(text)).splitlines() if line.startswith("hf download")))
    assert words[4] == f"{ODD}-Q4_K_M.gguf"


def with_metadata(path: Path, **metadata: Value) -> Path:
    """A model with no weights to speak of and this metadata."""
    with read(models.save(path.with_suffix(".plain"))) as source:
        held = {**source.metadata, **{key.replace("__", "."): value for key, value in metadata.items()}}
        specs = [TensorSpec(name, tensor.shape, tensor.type) for name, tensor in source.tensors.items()]
        with Writer(path, held, specs) as writer:
            for name in source.tensors:
                writer.write(name, 0, source.data(name))
    return path


def test_a_model_without_a_chat_template_gets_no_chat(tmp_path: Path) -> None:
    text = page(tmp_path, results(Q4_K_M={}), repository="me/m-GGUF")
    assert "Prompt format" not in text
    assert "Hermes" not in text
    assert "conversational" not in ModelCard(text).data.tags


def test_the_prompt_format_is_the_models_own(tmp_path: Path, bf16_gguf: Path) -> None:
    text = page(tmp_path, results(Q4_K_M={}), base=bf16_gguf, repository="me/m-GGUF")
    assert any("{system_prompt}" in block and "<start_of_turn>user" in block for block in code(text))
    hermes = next(block for block in code(text) if "hermes" in block).splitlines()
    assert hermes[0] == "llama-server -hf me/m-GGUF:Q4_K_M"
    assert hermes[-2] == "hermes config set model.default me/m-GGUF:Q4_K_M"
    assert "conversational" in ModelCard(text).data.tags


def test_a_prompt_with_a_fence_of_its_own_stays_inside(tmp_path: Path) -> None:
    template = "```\n{{ messages[0]['content'] }}\n```\n# not a heading"
    base = with_metadata(
        tmp_path / "chat.gguf",
        tokenizer__chat_template=Value.string(template),
        tokenizer__ggml__tokens=Value.array(ValueType.STRING, ["a", "b"]),
    )
    text = page(tmp_path, results(Q4_K_M={}), base=base)
    assert any(block.endswith("# not a heading") for block in code(text))
    assert "# not a heading" not in without_code(text)


def test_front_matter_is_what_the_hub_expects(tmp_path: Path) -> None:
    base = with_metadata(
        tmp_path / "no.gguf",
        general__languages=Value.array(ValueType.STRING, ["no", "en"]),
        general__license=Value.string("other"),
        general__license__name=Value.string("Terms: of use"),
        general__license__link=Value.string("https://example.org/terms"),
    )
    text = page(tmp_path, results(MP={}), base=base, base_model="them/m")
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.library_name, data.base_model) == ("text-generation", "gguf", "them/m")
    assert data.language == ["no", "en"]  # Norwegian, not false
    assert (data.license, data.license_name, data.license_link) == (
        "other",
        "Terms: of use",
        "https://example.org/terms",
    )
    assert data.to_dict()["quantized_by"] == "quantpress"
    assert data.to_dict()["base_model_relation"] == "quantized"
    assert {"gguf", "imatrix", "mixed-precision", "llama"} <= set(data.tags)
    assert "[Terms: of use](https://example.org/terms), as the original model." in text
    assert "base_model" not in ModelCard(page(tmp_path, results(MP={}))).data.to_dict()


def test_frontier_keeps_what_nothing_beats() -> None:
    rows = [{"bytes": size, "kld_mean": kld} for size, kld in ((5, 0.1), (4, 0.2), (4, 0.15), (3, 0.12), (2, 0.5))]
    assert [row["bytes"] for row in frontier(rows)] == [5, 3, 2]


def test_back_ends_and_their_types() -> None:
    known = {type for types in FAMILIES.values() for type in types}
    assert known <= set(TYPES)
    assert all(types <= known for types in BACKENDS.values())
    assert all(set(types) <= known for types in REPACKED.values())
    assert {type for name, type in TYPES.items() if type.needs_imatrix} <= {TYPES[name] for name in known}
    found = dict(matrix())
    assert found["CPU"] == ["✓"] * len(FAMILIES)
    assert found["OpenCL (Adreno)"][2:5] == ["Q4_K, Q5_K, Q6_K", "IQ4_NL", "–"]


def test_sizes_are_decimal() -> None:
    sizes = [human_size(size) for size in (2_489_757_856, 13_623_968, 9_999, 7)]
    assert sizes == ["2.49 GB", "13.62 MB", "10.00 kB", "7 B"]


def test_a_value_has_the_decimals_of_its_error() -> None:
    assert with_error(0.00018442, 0.000002008) == "0.0001844 ± 0.0000020"
    assert with_error(43.3279, 1.2998) == "43.3 ± 1.3"
    assert with_error(0.0, 0.0) == "0"
    assert [rate(value) for value in (5812.4, 812.34, 39.14, 0.8124, 0.0)] == ["5,812", "812", "39.1", "0.812", "0"]
    assert with_deviation(812.34, 4.14) == "812.3 ± 4.1"
    assert with_deviation(5812.4, 12.3) == "5812 ± 12"
