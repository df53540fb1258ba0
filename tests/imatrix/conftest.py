"""What llama-imatrix collected (see scripts/make_imatrix_reference.py), and what we collect from the same text."""

from pathlib import Path

import pytest

from quantpress.imatrix import imatrix


@pytest.fixture(scope="session")
def reference(data: Path) -> Path:
    return data / "imatrix"


@pytest.fixture(scope="session")
def own_demo(f32_gguf: Path, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As llama-imatrix, which leaves a tied output out, with and without --process-output."""
    out = tmp_path_factory.mktemp("own") / "demo.gguf"
    return imatrix(f32_gguf, text=[prose], out=out, process_output=False, threads=1)


@pytest.fixture(scope="session")
def own_moe(moe: Path, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "moe.gguf"
    return imatrix(moe, text=[prose], out=out, context=128, chunks=16, process_output=True, threads=1)
