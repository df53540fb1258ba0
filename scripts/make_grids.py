"""Writes native/grids.hpp, the grids of the IQ types, from the tables of the `gguf` package.

python scripts/make_grids.py > native/grids.hpp
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from gguf import quants

GRIDS = {  # name: (class, bits of a level in an entry)
    "IQ1": (quants.IQ1_S, 2),
    "IQ2XXS": (quants.IQ2_XXS, 2),
    "IQ2XS": (quants.IQ2_XS, 2),
    "IQ2S": (quants.IQ2_S, 2),
    "IQ3XXS": (quants.IQ3_XXS, 3),
    "IQ3S": (quants.IQ3_S, 3),
}
LEVELS = {
    "IQ1": quants.IQ1_S.grid_map,
    "IQ2": quants.IQ2_XXS.grid_map,
    "IQ3XXS": quants.IQ3_XXS.grid_map,
    "IQ3S": quants.IQ3_S.grid_map,
    "IQ4": quants.IQ4_NL.kvalues,
    "MXFP4": quants.MXFP4.kvalues,
}
HEAD = f"""\
// Made by scripts/make_grids.py from the gguf package {version("gguf")}.
//
// An entry of a grid is 8 (IQ1, IQ2: two bits each) or 4 (IQ3: three bits each) indices of levels, the first weight's
// in the lowest bits.
#pragma once

#include <cstdint>

namespace quantpress {{
"""


def entries(codec: type[quants.IQ1_S], bits: int) -> list[int]:
    """The grid's entries, each packed into an integer."""
    codec.init_grid()
    grid = codec.grid.reshape(codec.grid_shape)
    index = np.argmax(grid[:, :, None] == np.array(codec.grid_map, grid.dtype), axis=-1)
    return list((index << bits * np.arange(index.shape[1])).sum(axis=1))


def lines(values: list[int], width: int = 118) -> str:
    """Comma-separated, wrapped."""
    text, line = "", "   "
    for value in values:
        item = f" {value},"
        if len(line) + len(item) > width:
            text, line = f"{text}{line}\n", "   "
        line += item
    return f"{text}{line}\n"


def main() -> None:
    print(HEAD)
    for name, levels in LEVELS.items():
        print(f"inline constexpr std::int8_t kLevels{name}[{len(levels)}] = {{{', '.join(map(str, levels))}}};")
    for name, (codec, bits) in GRIDS.items():
        table = entries(codec, bits)
        print(f"\ninline constexpr std::uint16_t kGrid{name}[{len(table)}] = {{\n{lines(table)}}};")
    print("\n}  // namespace quantpress")


if __name__ == "__main__":
    main()
