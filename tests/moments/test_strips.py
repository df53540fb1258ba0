"""Packed upper triangles."""

import numpy as np
import pytest

from quantpress.strips import blocks_of, packed_size, strips, unpacked


@pytest.mark.parametrize("blocks", [(1,), (255,), (256,), (257,), (600,), (256, 40), (512, 256, 300)])
def test_packed_and_back(blocks: tuple[int, ...]) -> None:
    cols = sum(blocks)
    x = np.random.default_rng(0).standard_normal((9, cols)).astype(np.float32)
    whole = x.T @ x
    packed = np.empty(packed_size(blocks), np.float32)
    for strip in strips(blocks):
        packed[strip.start : strip.stop] = whole[strip.first : strip.last, strip.first : strip.end].reshape(-1)
    begin = 0
    for width, found in zip(blocks, unpacked(packed, blocks), strict=True):
        expected = whole[begin : begin + width, begin : begin + width]
        assert np.array_equal(np.triu(found), np.triu(expected))
        assert np.array_equal(found, found.T)
        begin += width


def test_half_the_room() -> None:
    assert packed_size((4096,)) == 16 * 17 // 2 * 256 * 256


@pytest.mark.parametrize(
    ("cols", "width", "expected"),
    [
        (1000, 1000, (1000,)),
        (1000, 999, (512, 488)),
        (21504, 16384, (10752, 10752)),
        (21504, 10000, (7168, 7168, 7168)),
        (769, 512, (512, 257)),
        (1025, 256, (256, 256, 256, 256, 1)),
    ],
)
def test_blocks(cols: int, width: int, expected: tuple[int, ...]) -> None:
    assert blocks_of(cols, width) == expected


def test_blocks_are_even_and_narrow_enough() -> None:
    for cols in range(300, 9000, 97):
        for width in (256, 300, 1000, 2048):
            blocks = blocks_of(cols, width)
            assert sum(blocks) == cols
            assert max(blocks) <= width
            if len(blocks) > 1:
                assert max(blocks[:-1]) - min(blocks[:-1]) <= 256
                assert not any(block % 256 for block in blocks[:-1])
