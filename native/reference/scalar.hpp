// What the scalar references share: rounding, float16, and the weights of squared errors.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "blocks.hpp"
#include "codec.hpp"

namespace quantpress::reference {

// To the nearest integer, ties to even, for |x| <= 2^22: at 1.5 * 2^23 a float32 has no fraction.
inline float nearest(float x) {
    constexpr float kRound = 12582912.0f;
    return x + kRound - kRound;
}

inline float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// The float16 nearest to d, ties to even, and never infinite.
inline Half to_scale(float d) {
    const float value = clamp(std::fabs(d), 0.0f, 65504.0f);
    const std::uint32_t sign = std::signbit(d) ? 0x8000u : 0u;
    if (value < 0x1p-14f) return static_cast<Half>(sign | static_cast<std::uint32_t>(nearest(value * 0x1p24f)));
    // 13 bits of mantissa go; the exponent's bias falls from 127 to 15
    const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
    return static_cast<Half>(sign | ((word + ((word >> 13) & 1) + 0xfff - (112u << 23)) >> 13));
}

inline float from_half(Half half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const float mantissa = static_cast<float>(exponent ? 1024 + fraction : fraction);
    const float value = std::ldexp(mantissa, (exponent ? exponent : 1) - 25);
    return half & 0x8000 ? -value : value;
}

// The weights w of the n squared errors of a block or super-block: its importance, so that the largest is 1; all 1
// without importance, or where all of it is 0.
inline void normalise(const float *importance, int n, float *w) {
    float largest = 0.0f;
    for (int i = 0; importance && i < n; ++i) largest = importance[i] > largest ? importance[i] : largest;
    const bool none = largest < 1e-30f;
    const float factor = 1.0f / (none ? 1.0f : largest);
    for (int i = 0; i < n; ++i) w[i] = none ? 1.0f : importance[i] * factor;
}

// The importance of the weights from `offset` on in rows.x (the columns of every row have the same), or nullptr.
inline const float *importance_at(const Rows &rows, std::size_t offset) {
    return rows.importance ? rows.importance + offset % rows.cols : nullptr;
}

// Writes a block where alignment is not given.
template <class Block> inline void put(std::uint8_t *out, std::size_t index, const Block &block) {
    std::memcpy(out + index * sizeof block, &block, sizeof block);
}

}  // namespace quantpress::reference
