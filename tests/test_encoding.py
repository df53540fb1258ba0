"""The seam: decoding against the `gguf` package, encoding against its encoders, and what must be refused."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest

from quantpress import codec, encoding, formats
from quantpress.encoding import ENCODERS, Tile, check_finite, decode, encode_tile, encoder_named, tile_errors
from quantpress.engine import ggml
from quantpress.errors import EngineError, InputError, PlanError
from quantpress.formats import TYPES
from tests.oracle.models import encoded, weights

COLS = 512
BLOCKS = [name for name, type in TYPES.items() if type.quantized]
# The encoders that the gguf package has as well.
PEERS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]


def gguf_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType(TYPES[name].id)


def levels(data: np.ndarray, bits: int, block: int, values: list[int]) -> np.ndarray:
    """Blocks of a float16 scale and `block` indices of `bits` bits into `values`, low bits first."""
    blocks = data.reshape(-1, 2 + block * bits // 8)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    indices = blocks[:, 2:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & ((1 << bits) - 1)
    return scale * np.array(values, np.float32)[indices.reshape(-1, block)]


# What gguf 0.19 does not know yet, from the layouts in ggml-common.h.
OTHERS = {"Q1_0": (1, 128, [-1, 1]), "Q2_0": (2, 64, [-1, 0, 1, 2])}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return weights(7, 12, COLS)


@pytest.fixture(scope="module")
def importance() -> np.ndarray:
    return np.random.default_rng(8).exponential(size=COLS).astype(np.float32)


def tile_of(x: np.ndarray, type: str, *types: str, importance: np.ndarray | None = None) -> Tile:
    data = encoded(x, TYPES[type])
    return Tile("blk.3.ffn_up.weight", 40, data, TYPES[type], COLS, tuple(TYPES[name] for name in types), importance)


@pytest.mark.parametrize("name", BLOCKS)
def test_decodes_as_the_gguf_package_does(name: str) -> None:
    """Random bytes, which reach every index; without the blocks whose scales are no numbers."""
    type = TYPES[name]
    blocks = np.random.default_rng(0).integers(0, 256, (4096, type.bytes), np.uint8)
    decoded = decode(blocks, type, type.block)
    good = np.isfinite(decoded).all(1)
    assert good.sum() > 1000
    expected = (
        levels(blocks[good], *OTHERS[name]) if name in OTHERS else gguf.quants.dequantize(blocks[good], gguf_type(name))
    )
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded[good], expected)
    assert np.array_equal(decode(blocks[good].reshape(1, -1), type, decoded[good].size), expected.reshape(1, -1))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_decodes_every_bit_pattern(name: str) -> None:
    bits = np.arange(1 << 16, dtype="<u2").reshape(-1, 128)
    exponent = 0x7C00 if name == "F16" else 0x7F80
    finite = (bits & exponent) != exponent
    decoded = decode(bits.view(np.uint8), TYPES[name], 128)
    good = finite.all(1)
    assert np.array_equal(np.isfinite(decoded), finite)
    assert np.array_equal(decoded[good], gguf.quants.dequantize(bits[good].view(np.uint8), gguf_type(name)))


@pytest.mark.parametrize("name", PEERS)
def test_encodes_as_the_gguf_package_does(name: str, x: np.ndarray) -> None:
    expected = gguf.quants.quantize(x, gguf_type(name))
    assert np.array_equal(ggml.quantize(x, TYPES[name], None), expected.view(np.uint8))


@pytest.mark.parametrize("name", ["Q4_0", "Q5_K", "IQ4_XS", "IQ3_S"])
def test_importance_lowers_the_weighted_error(name: str, importance: np.ndarray) -> None:
    x = np.random.default_rng(1).standard_normal((8, COLS), np.float32)
    skewed = importance**4
    errors = [
        float((skewed * (x - decode(ggml.quantize(x, TYPES[name], given), TYPES[name], COLS)) ** 2).sum())
        for given in (skewed, None)
    ]
    assert errors[0] < 0.95 * errors[1]


@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
def test_a_tile_is_encoded_to_all_its_types(source: str, x: np.ndarray, importance: np.ndarray) -> None:
    names = ["Q4_K", source, "IQ2_XXS", "F16", "F32"]
    exact = decode(encoded(x, TYPES[source]), TYPES[source], COLS)
    tile = tile_of(x, source, *names, importance=importance)
    for name, ours, theirs in zip(names, encode_tile(tile), encode_tile(tile, "ggml"), strict=True):
        assert np.array_equal(theirs, ggml.quantize(exact, TYPES[name], importance)), name
        assert np.array_equal(ours, codec.encode(exact, name, importance)), name


def test_a_tile_of_a_block_type_is_decoded_first(x: np.ndarray) -> None:
    data = ggml.quantize(x, TYPES["Q8_0"], None)
    same, other = encode_tile(Tile("a.weight", 0, data, TYPES["Q8_0"], COLS, (TYPES["Q8_0"], TYPES["Q4_0"])))
    assert np.array_equal(same, data)
    assert np.array_equal(other, codec.encode(decode(data, TYPES["Q8_0"], COLS), "Q4_0"))


@pytest.mark.parametrize("name", ["Q1_0", "Q2_0", "NVFP4"])
def test_a_source_that_only_ggml_decodes(name: str, x: np.ndarray) -> None:
    data = ggml.quantize(x, TYPES[name], None)
    (found,) = encode_tile(Tile("a.weight", 0, data, TYPES[name], COLS, (TYPES["Q4_K"],)))
    assert np.array_equal(found, codec.encode(ggml.dequantize(data, TYPES[name], COLS), "Q4_K"))


def test_indices_are_copied() -> None:
    data = np.arange(4 * COLS, dtype="<i4").reshape(4, -1).view(np.uint8)
    tile = Tile("ids.weight", 0, data, TYPES["I32"], COLS, (TYPES["I32"],))
    assert np.array_equal(encode_tile(tile)[0], data)


def test_another_process_gives_the_same_bytes(x: np.ndarray, importance: np.ndarray) -> None:
    tile = tile_of(x, "BF16", "Q4_K", "IQ3_S", "BF16", importance=importance)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(encode_tile, tile).result(timeout=60)
    assert all(np.array_equal(a, b) for a, b in zip(there, encode_tile(tile), strict=True))
    assert pickle.loads(pickle.dumps(tile)).types == tile.types


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("wanted", ["IQ3_S", "Q4_K", "BF16", "F32"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_bad_weight_is_found_before_encoding(
    bad: float, source: str, wanted: str, encoder: str, x: np.ndarray
) -> None:
    broken = x.copy()
    broken[9, 300] = bad
    with pytest.raises(InputError, match=r"tensor blk\.3\.ffn_up\.weight, row 49, column 300: expected a finite"):
        encode_tile(tile_of(broken, source, wanted), encoder)


def test_a_signalling_nan_is_found() -> None:
    data = np.full((1, COLS), 0x7D00, "<u2").view(np.uint8)
    with pytest.raises(InputError, match="expected a finite weight, found nan"):
        encode_tile(Tile("a.weight", 0, data, TYPES["F16"], COLS, (TYPES["Q8_0"],)))


def test_a_broken_scale_in_the_source_is_found(x: np.ndarray) -> None:
    data = ggml.quantize(x, TYPES["Q8_0"], None)
    data[2, :2] = (0x00, 0x7E)
    with pytest.raises(InputError, match=r"tensor a\.weight, row 2, column 0: expected a finite weight"):
        encode_tile(Tile("a.weight", 0, data, TYPES["Q8_0"], COLS, (TYPES["Q8_0"],)))


@pytest.mark.parametrize("size", [3e38, 1e15])
@pytest.mark.parametrize("name", BLOCKS)
def test_weights_that_no_block_holds_are_refused(name: str, size: float, x: np.ndarray, importance: np.ndarray) -> None:
    """ggml would abort the process on some of these."""
    large = x.copy()
    large[6, 17] = -size
    with pytest.raises(InputError, match=r"tensor blk\.3\.ffn_up\.weight: expected weights up to 1e\+10, found"):
        encode_tile(tile_of(large, "BF16", name, importance=importance), "ggml")


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "IQ3_S", "IQ4_XS"])
def test_scales_that_overflow_are_refused(name: str, x: np.ndarray) -> None:
    large = x.copy()
    large[6, 17] = 1e9
    with pytest.raises(InputError, match=rf"rows 40 to 51: expected weights that {name} can hold"):
        encode_tile(tile_of(large, "BF16", name), "ggml")
    with pytest.raises(
        InputError, match=r"up\.weight, row 46, column 17: expected weights up to 65504, found 9.98244e\+08"
    ):
        encode_tile(tile_of(large, "BF16", name))
    assert encode_tile(tile_of(large, "BF16", "MXFP4"), "ggml")  # its scales are powers of two and reach that far


def test_overflow_of_f16_is_refused(x: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"rows 40 to 51: expected weights that F16 can hold"):
        encode_tile(tile_of(x * np.float32(1e7), "BF16", "F16"), "ggml")
    with pytest.raises(InputError, match=r"row 40, column \d+: expected weights up to 65520, .* Keep this tensor in"):
        encode_tile(tile_of(x * np.float32(1e7), "BF16", "F16"))
    assert encode_tile(tile_of(x * np.float32(1e7), "BF16", "F32"))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, 1e30])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_importance_that_would_abort_is_refused(
    bad: float, encoder: str, x: np.ndarray, importance: np.ndarray
) -> None:
    broken = importance.copy()
    broken[3] = bad
    with pytest.raises(InputError, match=r"importance of blk\.3\.ffn_up\.weight: expected values from 0"):
        encode_tile(tile_of(x, "BF16", "IQ3_S", importance=broken), encoder)


def test_what_cannot_be_encoded_is_a_plan_error(x: np.ndarray, importance: np.ndarray) -> None:
    with pytest.raises(PlanError, match="IQ2_XXS: expected an importance matrix"):
        encode_tile(tile_of(x, "BF16", "IQ2_XXS"), "ggml")
    with pytest.raises(PlanError, match=r"expected a type that can be encoded by quantpress, found I32$"):
        encode_tile(tile_of(x, "BF16", "I32"))
    with pytest.raises(PlanError, match="expected a type that can be encoded, found I32"):
        ggml.quantize(x, TYPES["I32"], None)
    with pytest.raises(PlanError, match="a row of type Q4_K: expected a multiple of 256, found 96"):
        ggml.quantize(x[:, :96], TYPES["Q4_K"], None)
    with pytest.raises(PlanError, match="importance: expected 512 columns"):
        ggml.quantize(x, TYPES["Q4_K"], importance[:256])
    with pytest.raises(PlanError, match="expected one of quantpress, ggml, found mine"):
        encode_tile(tile_of(x, "BF16", "Q4_K"), "mine")


def test_what_cannot_be_decoded_is_a_plan_error() -> None:
    data = np.zeros((2, 7), np.uint8)
    for name in ("F32", "BF16", "Q8_0", "I32"):
        with pytest.raises(PlanError, match=r"expected (uint8, )?rows of .*32"):
            decode(data, TYPES[name], 32)


def test_every_encoder_is_named() -> None:
    assert [encoder_named(name) for name in encoding.ENCODERS] == list(encoding.ENCODERS.values())


def test_check_finite_takes_good_weights(x: np.ndarray) -> None:
    check_finite(x, "a.weight")


def test_a_library_that_disagrees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = formats.TensorType("Q4_K", 12, 256, 145)
    monkeypatch.setattr(ggml, "TYPES", {**TYPES, "Q4_K": odd})
    ggml._library.cache_clear()
    with pytest.raises(EngineError, match=r"type 12: expected .*145.* found .*144"):
        ggml.valid(np.zeros((1, 34), np.uint8), TYPES["Q8_0"])


@pytest.mark.parametrize("content", [None, b"no library"])
def test_a_missing_library_is_an_engine_error(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / ggml.library_path().name).write_bytes(content)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    ggml._library.cache_clear()
    with pytest.raises(EngineError, match="einstall llama-cpp-python"):
        ggml.valid(np.zeros((1, 34), np.uint8), TYPES["Q8_0"])


def test_llama_cpp_itself_is_not_loaded() -> None:
    code = (
        "import sys, numpy as np, quantpress.quantize\n"
        "from quantpress.engine import ggml\n"
        "assert not ggml._library.cache_info().currsize\n"
        "ggml.quantize(np.ones((1, 32), np.float32), ggml.TYPES['Q8_0'], None)\n"
        "assert not {'llama_cpp', 'ctypes.util'} & sys.modules.keys()\n"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''\n"
        "assert 'libllama' not in maps\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "Q8_0", "IQ3_XXS", "F16", "F32"])
@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_errors_of_a_tile_are_those_of_its_bytes(
    encoder: str, name: str, x: np.ndarray, importance: np.ndarray
) -> None:
    """By the gguf package's decoder and float64, row by row."""
    tile = tile_of(x, "F32", name, "Q6_K", importance=importance)
    found = tile_errors(tile, encoder)
    assert (found.shape, found.dtype) == ((2, len(x)), np.float64)
    for type, data, errors in zip(tile.types, encode_tile(tile, encoder), found, strict=True):
        decoded = gguf.quants.dequantize(data, gguf_type(type.name)).astype(np.float64)
        np.testing.assert_allclose(errors, (x - decoded) ** 2 @ importance.astype(np.float64), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_errors_without_importance_and_of_the_own_type(encoder: str, x: np.ndarray) -> None:
    given, ones = (
        tile_errors(tile_of(x, "BF16", "Q5_K", "BF16", importance=one), encoder)
        for one in (None, np.ones(COLS, np.float32))
    )
    assert (given[1] == 0).all()
    rounded = decode(encoded(x, TYPES["BF16"]), TYPES["BF16"], COLS)
    (data,) = encode_tile(tile_of(x, "BF16", "Q5_K"), encoder)
    expected = ((rounded - decode(data, TYPES["Q5_K"], COLS)).astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(given[0], expected, rtol=1e-5, atol=1e-12)
    assert (ones[1] == 0).all()


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_errors_are_refused_where_encoding_is(encoder: str, x: np.ndarray) -> None:
    bad = x.copy()
    bad[3, 5] = np.nan
    with pytest.raises(InputError, match=r"tensor blk\.3\.ffn_up\.weight, row 43, column 5: expected a finite weight"):
        tile_errors(tile_of(bad, "F32", "Q4_K"), encoder)
    with pytest.raises(PlanError, match=r"tensor blk\.3\.ffn_up\.weight: expected a type that can be encoded"):
        tile_errors(tile_of(x, "F32", "I8"), encoder)
    with pytest.raises(PlanError, match="effort"):
        tile_errors(tile_of(x, "F32", "Q4_K"), encoder, "none")
