"""Names; the labels are what `parseGGUFQuantLabel` of `@huggingface/gguf` gives for these files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from quantpress.names import default_file, first_part, found_by_tag, hub_label, model_name, tag, variant_file
from quantpress.recipes import ALIASES, RECIPES


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/Qwen3-0.6B", "Qwen3-0.6B"),
        ("/models/Qwen3-0.6B-BF16.gguf", "Qwen3-0.6B"),
        ("/hub/models--Qwen--Qwen3-0.6B/snapshots/0123abcd", "Qwen3-0.6B"),
        ("/hub/models--Qwen--Qwen3-0.6B-BF16/snapshots/0123abcd/", "Qwen3-0.6B"),
        ("/hub/models--gpt2/snapshots/0123abcd", "gpt2"),
        ("/hub/models--acme--Tiny-GGUF/snapshots/0123abcd/Tiny-BF16.gguf", "Tiny"),
        ("/zfs/snapshots/2026-01-01", "2026-01-01"),
        ("gemma-bf16-00001-of-00003.gguf", "gemma"),
        ("gemma.f16.gguf", "gemma"),
        ("mistral-7b-v0.3.Q4.gguf", "mistral-7b-v0.3.Q4"),
    ],
)
def test_model_name(path: str, name: str) -> None:
    assert model_name(path) == name


def test_model_name_of_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    assert model_name(".") == "my-model"


def test_a_link_s_own_name_counts(tmp_path: Path) -> None:
    """As in a Hugging Face cache: snapshots/…/Tiny-BF16.gguf is a link to blobs/0123abcd."""
    (tmp_path / "0123abcd").touch()
    link = tmp_path / "Tiny-BF16.gguf"
    link.symlink_to("0123abcd")
    assert model_name(link) == "Tiny"


def test_variant_file() -> None:
    assert variant_file("out", "gemma", "Q4_K_M") == Path("out/gemma-Q4_K_M.gguf")


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("gemma-Q4_K_M.gguf", "Q4_K_M"),
        ("gemma-bf16.gguf", "BF16"),
        ("Q8_0/gemma-IQ3_XXS.gguf", "IQ3_XXS"),
        ("gemma-Q6_K_L.gguf", "Q6_K_L"),
        ("gemma-Q3_K_XL.gguf", "Q3_K_XL"),
        ("gemma-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("gemma-Q4_K_L.gguf", None),
        ("gemma-Q2_K_L.gguf", "Q2_K_L"),
        ("gemma-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("gemma-TQ1_0.gguf", "TQ1_0"),
        ("gemma-Q4_K_S-Q8_0.gguf", "Q8_0"),
        ("gemma-i1-MP-3.98BPW.gguf", None),
    ],
)
def test_hub_label_is_what_huggingface_gguf_reads(file: str, label: str | None) -> None:
    assert hub_label(file) == label


def test_settings_do_not_label_a_file() -> None:
    name = variant_file("out", "gemma", "MP:fraction=0.2,top=Q4_K,rest=Q8_0").name
    assert name.startswith("gemma-MP-")
    assert hub_label(name) is None
    assert name != variant_file("out", "gemma", "MP:fraction=0.3,top=Q4_K,rest=Q8_0").name


FILES = ["t-BF16.gguf", "t-F16.gguf", "t-MP.gguf", "t-Q4_K_M.gguf", "t-Q4_K_M_AUTO.gguf", "t-UD-Q4_K_XL.gguf"]
PARTS = [f"t-Q8_0/t-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]


@pytest.mark.parametrize(
    ("tag", "found"),
    [
        ("Q4_K_M", ["t-Q4_K_M.gguf"]),
        ("q4_k_m_auto", ["t-Q4_K_M_AUTO.gguf"]),
        ("F16", ["t-BF16.gguf", "t-F16.gguf"]),
        ("BF16", ["t-BF16.gguf"]),
        ("Q4_K_XL", ["t-UD-Q4_K_XL.gguf"]),
        ("Q8_0", PARTS[:1]),
        ("imatrix", []),
        ("Q4_K", []),
        ("t", [*FILES, PARTS[0]]),
    ],
)
def test_what_llama_server_finds_by_a_tag(tag: str, found: list[str]) -> None:
    """As `find_best_model` of llama.cpp's common/download.cpp chooses."""
    assert found_by_tag(tag, [*FILES, *PARTS, "t-imatrix.gguf", "mmproj-t-F16.gguf", "README.md"]) == found


@pytest.mark.parametrize(
    ("files", "default"),
    [
        ([*FILES, *PARTS], "t-Q4_K_M.gguf"),
        ([*PARTS, "t-Q2_K.gguf"], PARTS[0]),
        (["t-IQ3_M.gguf", "t-BF16.gguf", "a-imatrix.gguf"], "t-BF16.gguf"),
        (["mmproj-t.gguf"], None),
    ],
)
def test_the_default_file(files: list[str], default: str | None) -> None:
    assert default_file(files) == default


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("t-Q4_K_M.gguf", "Q4_K_M"),
        ("t-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        (PARTS[0], "Q8_0"),
        ("t-MP.gguf", "MP"),
        ("t-AUTO-3.98bpw.gguf", "AUTO-3.98bpw"),
        ("other-AUTO.gguf", "other-AUTO"),
    ],
)
def test_tag(file: str, expected: str) -> None:
    assert tag(file, "t") == expected


def test_first_part() -> None:
    assert first_part(PARTS[1]) == PARTS[0]
    assert first_part("t-00002-of-00002.txt") == "t-00002-of-00002.txt"
    assert first_part("t-Q4_K_M.gguf") == "t-Q4_K_M.gguf"


PACKAGE = "@huggingface/gguf@0.4.6"
SCRIPT = """
import { createInterface } from "node:readline";
import { parseGGUFQuantLabel } from "@huggingface/gguf";
const lines = createInterface({ input: process.stdin });
for await (const line of lines) console.log(parseGGUFQuantLabel(line) ?? "");
"""


@pytest.fixture(scope="module")
def hugging_face(request: pytest.FixtureRequest) -> Path:
    """A folder where Node finds Hugging Face's own parser: installed once, kept in pytest's cache."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Hugging Face's parser needs Node.js with npm")
    kept = Path(request.config.cache.mkdir("huggingface-gguf"))  # type: ignore[union-attr]
    folder = kept / PACKAGE.rpartition("@")[2]
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=kept) as made:
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=20000"]
            command = [npm, "install", "--prefix", f"{made}/whole", *options, PACKAGE]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            except subprocess.TimeoutExpired:
                pytest.skip(f"npm did not install {PACKAGE} in two minutes")
            if done.returncode != 0:
                pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr.strip()[:300]}")
            Path(made, "whole", "labels.mjs").write_text(SCRIPT)
            Path(made, "whole").rename(folder)
    return folder


def test_labels_are_those_of_hugging_face(hugging_face: Path) -> None:
    forms = [
        "{}",
        "m-{}",
        "m.{}",
        "m-UD-{}",
        "m-i1-{}",
        "m-{}_AUTO",
        "m-AUTO-{}",
        "m-{}-00001-of-00002",
        "{}/m",
        "F16/m-{}",
    ]
    types = [
        *RECIPES,
        *ALIASES,
        "AUTO-3.98bpw",
        "AUTO-fit-16GB",
        "Q4_0_4_4",
        "Q8_K_XL",
        "TQ2_0",
        "MXFP4",
        "NVFP4",
        "Q9_0",
    ]
    names = [form.format(name) + ".gguf" for form in forms for name in types]
    names += [name.lower() for name in names]
    names += [
        "model.gguf",
        "Mistral-7B-v0.3.gguf",
        "straße-q8_0.gguf",
        "m-Q6_K_L-abc_Q4_K_S_XL.gguf",
        "m-q4_k_m_v2.gguf",
    ]
    done = subprocess.run(
        [shutil.which("node") or "node", "labels.mjs"],
        cwd=hugging_face,
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = done.stdout.split("\n")[: len(names)]
    assert len(names) > 700
    assert {name: hub_label(name) or "" for name in names} == dict(zip(names, theirs, strict=True))
