"""Names; the labels are what `parseGGUFQuantLabel` of `@huggingface/gguf` gives for these files."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantpress.names import hub_label, model_name, variant_file


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
