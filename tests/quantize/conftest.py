"""A model of a few layers, and its importance matrix."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantpress.imatrix import Imatrix
from tests.oracle import models


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("dense") / "Tiny-BF16.gguf")


@pytest.fixture(scope="module")
def dense_imatrix(dense: Path) -> Imatrix:
    return models.importance(dense, dense.with_name("Tiny-imatrix.gguf"))
