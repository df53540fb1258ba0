// The look at the weights that comes before encoding: encoders rely on it.
#pragma once

#include "simd/lanes.hpp"

namespace quantpress {
namespace {

// The index of the first of n weights that is NaN or beyond +-limit; n if there is none.
inline std::size_t first_beyond(const float *x, std::size_t n, float limit) {
    Int within = broadcast(-1);
    for_lanes(x, n, 0.0f, [&](const Float &v, std::size_t) {
        within = within & ((absolute(v) < limit) | (absolute(v) == limit));  // neither holds for NaN
    });
    if (!any(within ^ -1)) return n;
    std::size_t i = 0;
    while (x[i] <= limit && x[i] >= -limit) ++i;
    return i;
}

}  // namespace
}  // namespace quantpress
