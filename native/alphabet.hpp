// What the codes of a type stand for, and how they are packed: for encoders that choose codes one after another, under
// scales that are there already.
//
// A weight is offset + step * level, where offset and step belong to a sub-block and level to the code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quantpress {

enum class Signs { kNone, kFree, kEven };  // of 8 weights: in the code, one bit each, an even number of negative ones

// The entries of a grid by their heads, the levels of the first half of the weights: as digits they are the head's
// number. Tails, the levels of the other half, by sixteens, each filled up with its last.
struct Grid {
    const float *levels;          // [3] of a width of 8, or [8]
    const std::uint16_t *starts;  // [heads + 1]: the first sixteen of each head
    const float *tails;           // [sixteens][width / 2][16]
    const float *codes;           // [sixteens][16]
};

struct Alphabet {
    const char *type;
    int block, width;  // weights of a block, and of a code: 1, 4 or 8
    int size;          // number of codes
    Signs signs;
    // Of codes of one weight: ascending levels, or nullptr where they are 0, 1, ... size - 1.
    const float *levels;
    // Of codes of several: [width][size], the level of each weight of each code.
    const float *entries;
    const Grid *grid;
    // Puts the codes [block / width] and, for signs of their own, a byte of signs for 8 weights into a block, whose
    // scales stay as they are.
    void (*write)(const std::uint16_t *codes, const std::uint8_t *signs, std::uint8_t *block);
};

// nullptr for a type without codes (F32, F16, BF16) and for one that is not known.
const Alphabet *alphabet(const char *type);

}  // namespace quantpress
