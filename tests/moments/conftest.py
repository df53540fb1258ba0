"""A mixture of experts, its text, and the moments of it in one pass."""

from pathlib import Path
from typing import Any

import pytest

from quantpress.imatrix import imatrix

SETTINGS: dict[str, Any] = {"context": 128, "chunks": 20, "every": 1, "threads": 1}  # batches of 16 and 4 chunks


@pytest.fixture(scope="session")
def collected(moe: Path, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """I.gguf, with I.moments.gguf beside it."""
    out = tmp_path_factory.mktemp("collected") / "I.gguf"
    return imatrix(moe, text=prose, out=out, moments=True, **SETTINGS)
