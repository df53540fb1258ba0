// Sums of squared activations, the raw material of an importance matrix.
//
// Accumulated in float64: the product of two float32 values is exact there, and the sum over millions of tokens does
// not stall as it does in float32.
#pragma once

#include "simd/lanes.hpp"

namespace quantpress {
namespace {

// sums[c] += x[c]^2 for `cols` columns.
inline void add_squares(const float *x, std::size_t cols, double *sums) {
    std::size_t c = 0;
    for (; c + kLanes <= cols; c += kLanes) {
        const Double wide = convert<double>(load(x + c));
        store(sums + c, load(sums + c) + wide * wide);
    }
    for (; c < cols; ++c) sums[c] += static_cast<double>(x[c]) * x[c];
}

}  // namespace
}  // namespace quantpress
