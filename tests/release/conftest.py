"""A small checkpoint to release, with a text beside it."""

from pathlib import Path

import pytest

from tests import checkpoints


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint; its folder has text.txt, to calibrate and measure on."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "text.txt").write_text((data / "prose.txt").read_text()[:8000])
    return checkpoints.tiny(folder / "tiny", {"intermediate_size": 512, "num_hidden_layers": 4})
