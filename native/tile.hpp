// The seam of quantization: rows of one matrix, read once, to any number of types.
#pragma once

#include <vector>

#include "dispatch.hpp"

namespace quantpress {

struct Tile {
    const std::uint8_t *data;  // [rows, cols] in the source's type
    Codec source;
    std::size_t rows, cols;
    const float *importance;  // [cols], or nullptr
    float limit;              // the largest magnitude that every target can hold
};

struct Target {
    Codec codec;
    std::uint8_t *out;  // the encoded rows; nullptr: not wanted
    double *errors;     // the weighted squared error of each row; nullptr: not wanted
    bool restore;       // whether rows get back the size that rounding has taken (kernels/size.hpp)
};

inline std::size_t row_bytes(const Codec &codec, std::size_t cols) { return cols / codec.block * codec.bytes; }

constexpr std::size_t kGood = ~std::size_t{0};

// Encodes all rows to all targets. Returns kGood, or the index (row * cols + column) of the first weight that is NaN or
// beyond the limit; then the targets hold no meaning.
std::size_t encode(const Kernels &use, const Tile &tile, const std::vector<Target> &targets, Effort effort, int threads);

// Decodes rows to float32 [rows, cols].
void decode(const Codec &source, const std::uint8_t *data, std::size_t rows, std::size_t cols, float *x, int threads);

// Encodes float32 rows with feedback; 64 rows are a piece of work.
void compensate(const Kernels &use, const Compensation &how, const Rows &rows, std::uint8_t *out, int threads);

}  // namespace quantpress
