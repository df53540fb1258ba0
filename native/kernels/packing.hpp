// What encoders share once the codes are chosen: their bytes, and the indices of entries in a grid.
#pragma once

#include "kernels/batch.hpp"

namespace quantpress {
namespace {

// 16 bytes of each of 16 blocks (or sub-blocks), from four vectors: word k of each block.
class Bytes {
public:
    explicit Bytes(const Int *words) {
        Float rows[4];
        UNROLL for (int k = 0; k < 4; ++k) rows[k] = bits<float>(words[k]);
        transpose_fours(rows, rows);
        UNROLL for (int k = 0; k < 4; ++k) std::memcpy(block_[k], &rows[k], sizeof rows[k]);
    }
    // The bytes of block b, as two words.
    const std::uint64_t *of(std::size_t b) const { return block_[b % 4][b / 4]; }

    // The bits of blocks first, first + step, ...
    void write(std::uint8_t *to, std::size_t first, std::size_t step, int count) const {
        UNROLL for (int k = 0; k < 2; ++k) {
            std::uint64_t word = 0;
            UNROLL for (int i = 0; i < count; ++i) word |= of(first + i * step)[k];
            std::memcpy(to + 8 * k, &word, sizeof word);
        }
    }

private:
    alignas(64) std::uint64_t block_[4][4][2];  // [b % 4][b / 4]
};

// The low four bits of the codes of 32 weights: byte i has weight i and, above it, weight 16 + i.
inline Bytes nibbles(const Int *code) {
    Int word[4];
    UNROLL for (int k = 0; k < 4; ++k) {
        word[k] = broadcast(0);
        UNROLL for (int i = 0; i < 4; ++i) {
            const Int low = code[4 * k + i] & 15, high = code[16 + 4 * k + i] & 15;
            word[k] = word[k] | (low << 8 * i) | (high << (8 * i + 4));
        }
    }
    return Bytes(word);
}

// The index of each entry of a grid, by the name that a search gives it.
template <std::size_t names> struct Indices {
    std::uint16_t of[names] = {};

    template <class Grid, class Name> constexpr Indices(const Grid &grid, Name name) {
        std::uint16_t index = 0;
        for (const int entry : grid) of[name(entry)] = index++;
    }
};

}  // namespace
}  // namespace quantpress
