// The matrix products of feedback: targets += errors * factor, in a fixed order.
//
// A lane is a row of weights, so that an entry of the factor serves 16 rows by one multiply-add; a register tile of
// rows and columns makes one load serve several. Sums run over `kDepth` errors at a time, which stay in the first-level
// cache with their part of the factor.
#pragma once

#include "simd/lanes.hpp"

namespace quantpress {
namespace {

constexpr int kTileGroups = VECTOR_BYTES == 64 ? 4 : 1, kTileColumns = VECTOR_BYTES == 16 ? 2 : 4;
constexpr std::size_t kDepth = 64;

template <int groups, int columns>
inline void add_tile(Float *const *target, const Float *const *error, const float *factor, std::size_t stride,
                     std::size_t first, std::size_t last, std::size_t column) {
    Float sum[groups][columns];
    UNROLL for (int g = 0; g < groups; ++g)
        UNROLL for (int k = 0; k < columns; ++k) sum[g][k] = target[g][column + k];
    for (std::size_t j = first; j < last; ++j) {
        const float *row = factor + j * stride + column;
        UNROLL for (int k = 0; k < columns; ++k) {
            const Float u = broadcast(row[k]);
            UNROLL for (int g = 0; g < groups; ++g) sum[g][k] = fused(sum[g][k], error[g][j], u);
        }
    }
    UNROLL for (int g = 0; g < groups; ++g)
        UNROLL for (int k = 0; k < columns; ++k) target[g][column + k] = sum[g][k];
}

template <int groups>
inline void add_to_groups(Float *const *target, const Float *const *error, const float *factor, std::size_t stride,
                          std::size_t count, std::size_t columns) {
    constexpr int kWide = kTileColumns * kTileGroups / groups;  // as many sums for any number of groups
    for (std::size_t first = 0; first < count; first += kDepth) {
        const std::size_t last = first + kDepth < count ? first + kDepth : count;
        std::size_t column = 0;
        for (; column + kWide <= columns; column += kWide)
            add_tile<groups, kWide>(target, error, factor, stride, first, last, column);
        for (; column < columns; ++column) add_tile<groups, 1>(target, error, factor, stride, first, last, column);
    }
}

// target[g][k] += sum_j error[g][j] * factor[j * stride + k], for j < count and k < columns.
inline void add_products(Float *const *target, const Float *const *error, std::size_t groups, const float *factor,
                         std::size_t stride, std::size_t count, std::size_t columns) {
    std::size_t g = 0;
    for (; g + kTileGroups <= groups; g += kTileGroups)
        add_to_groups<kTileGroups>(target + g, error + g, factor, stride, count, columns);
    for (; g < groups; ++g) add_to_groups<1>(target + g, error + g, factor, stride, count, columns);
}

}  // namespace
}  // namespace quantpress
