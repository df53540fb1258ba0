// What an encoder and a decoder of a tensor type is, for the kernels and for the scalar reference alike.
//
// An encoder writes, for each block, the bytes whose decoded weights y keep sum_j importance[j] (x[j] - y[j])^2 small;
// without importance all columns weigh the same. Blocks do not depend on each other, so that a matrix can be cut
// between any two rows. Weights are finite and up to 65504, importance is finite and not negative.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quantpress {

// How much time to spend on a smaller error.
enum class Effort : int { kFast, kNormal, kBest };

struct Rows {
    const float *x;           // [rows, cols], adjacent
    const float *importance;  // [cols], or nullptr
    std::size_t rows, cols;   // cols: a multiple of the type's block
};

using Encode = void (*)(const Rows &rows, Effort effort, std::uint8_t *out);
using Decode = void (*)(const std::uint8_t *in, std::size_t blocks, float *x);

struct Codec {
    const char *type;
    std::size_t block, bytes;  // weights and bytes of a block
    Encode encode;
    Decode decode;
};

}  // namespace quantpress
