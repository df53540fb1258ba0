// The error that encoders keep small, of a row: sum_j importance[j] (x[j] - y[j])^2.
//
// In float64, where the difference of two float32 is as good as exact; in 16 partial sums, so that the order of the
// additions, hence every bit of the result, is the same on all instruction sets.
#pragma once

#include <cstddef>

#include "simd/lanes.hpp"

namespace quantpress {
namespace {

inline Double squared_difference(const Float &x, const Float &y) {
    const Double difference = convert<double>(x) - convert<double>(y);
    return difference * difference;
}

// Values [i, i + 16) of n, zeros past the end.
inline Float lanes_at(const float *values, std::size_t i, std::size_t n) {
    if (i + kLanes <= n) return load(values + i);
    float last[kLanes] = {};
    std::memcpy(last, values + i, (n - i) * sizeof *values);
    return load(last);
}

// importance may be nullptr: all columns weigh 1.
inline double weighted_error(const float *x, const float *y, const float *importance, std::size_t cols) {
    Double total = broadcast(0.0);
    for (std::size_t i = 0; i < cols; i += kLanes) {
        const Double squared = squared_difference(lanes_at(x, i, cols), lanes_at(y, i, cols));
        total = total + (importance ? convert<double>(lanes_at(importance, i, cols)) * squared : squared);
    }
    return sum(total);
}

}  // namespace
}  // namespace quantpress
