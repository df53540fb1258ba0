// float16 and bfloat16, 16 at a time and one by one: to the nearest, ties to even, with subnormals.
//
// In integers, so that the same bits come out where the processor has no such conversion.
#pragma once

#include "simd/lanes.hpp"

namespace quantpress {
namespace {

constexpr float kLargestHalf = 65504.0f;

// The bits of the float16 nearest to x, in the low half of each lane. Beyond kLargestHalf: infinity; NaN stays NaN.
[[gnu::always_inline]] inline Int to_half(const Float &x) {
    const Int word = bits<std::int32_t>(x), magnitude = word & 0x7fffffff;
    const Float value = bits<float>(magnitude);
    // 13 bits of mantissa go; the exponent's bias falls from 127 to 15
    const Int rounded = (magnitude + (0xfff - (112 << 23)) + ((magnitude >> 13) & 1)) >> 13;
    // 2^-24 is the smallest subnormal, and below 2^-14 the result is a multiple of it
    const Int tiny = convert<std::int32_t>(nearest(smaller(value, broadcast(0x1p-14f)) * 0x1p24f));
    Int half = select(value < 0x1p-14f, tiny, rounded);
    half = select(rounded > 0x7c00, broadcast(0x7c00), half);
    half = select(magnitude > 0x7f800000, broadcast(0x7e00), half);
    return half | ((word >> 16) & 0x8000);
}

// The float16 of these bits (the low half of each lane), exactly. No float operation here meets a subnormal float32,
// on which processors can be a hundred times slower.
[[gnu::always_inline]] inline Float from_half(const Int &half) {
    const Int magnitude = half & 0x7fff;
    const Float tiny = convert<float>(magnitude) * 0x1p-24f;
    const Int word = (magnitude << 13) + select(magnitude < 0x7c00, broadcast(112 << 23), broadcast(224 << 23));
    const Int value = select(magnitude < 0x0400, bits<std::int32_t>(tiny), word);
    return bits<float>(value | ((half & 0x8000) << 16));
}

// A scale as it is stored: never infinite.
inline Int to_scale(const Float &d) { return to_half(clamp(d, -kLargestHalf, kLargestHalf)); }

inline std::uint16_t to_scale(float d) {
    std::int32_t lane[kLanes];
    store(lane, to_scale(broadcast(d)));
    return static_cast<std::uint16_t>(lane[0]);
}

// The same for one; by masks, as which of the cases it is cannot be predicted where scales are near 2^-14.
inline float from_half(std::uint16_t half) {
    const std::uint32_t magnitude = half & 0x7fffu;
    const float tiny = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
    std::uint32_t word;
    std::memcpy(&word, &tiny, sizeof word);
    const std::uint32_t subnormal = -std::uint32_t{magnitude < 0x0400}, special = -std::uint32_t{magnitude > 0x7bff};
    const std::uint32_t normal = (magnitude << 13) + (112u << 23) + (special & 112u << 23);
    word = (subnormal & word) | (~subnormal & normal) | (half & 0x8000u) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

// The bits of the bfloat16 nearest to x, in the low half of each lane; NaN stays NaN.
[[gnu::always_inline]] inline Int to_bfloat(const Float &x) {
    const auto word = bits<std::uint32_t>(x);  // unsigned: that of a NaN may overflow
    const auto rounded = (word + ((word >> 16u) & 1u) + 0x7fffu) >> 16u, nan = (word >> 16u) | 64u;
    return select(x != x, bits<std::int32_t>(nan), bits<std::int32_t>(rounded));
}

}  // namespace
}  // namespace quantpress
