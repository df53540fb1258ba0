"""What every test may use: the bundled checkpoint and the files made from it, once a run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantpress.convert import convert
from tests.imatrix.moe import write_moe

ROOT = Path(__file__).parents[1]

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would programs


@pytest.fixture(scope="session")
def demo() -> Path:
    """The bundled checkpoint."""
    return ROOT / "examples" / "demo-gemma3"


@pytest.fixture(scope="session")
def data() -> Path:
    """Stored references: see the scripts that made them."""
    return ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def bf16_gguf(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as a BF16 GGUF file."""
    return convert(demo, tmp_path_factory.mktemp("bf16") / "demo-gemma3-BF16.gguf")


@pytest.fixture(scope="session")
def f32_gguf(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as an F32 GGUF file."""
    return convert(demo, tmp_path_factory.mktemp("f32") / "demo-gemma3-F32.gguf", type="F32")


@pytest.fixture(scope="session")
def prose(data: Path) -> Path:
    """A text."""
    return data / "prose.txt"


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts."""
    return write_moe(tmp_path_factory.mktemp("moe") / "moe.gguf")


@pytest.fixture(scope="module")
def hub_session() -> Iterator[None]:
    """One connection to the Hub for all tests of a module: making it takes longer than they do."""
    from huggingface_hub.utils import close_session  # half a second that few tests need

    close_session()
    yield
    close_session()
