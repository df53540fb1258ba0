// "Encoders" of the plain floats: the nearest value of each weight. There is nothing to search, so that
// importance and effort play no part.
#pragma once

#include "codec.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {

// Calls step(16 weights), which gives 16 words.
template <class Step> inline void encode_words(const Rows &rows, std::uint8_t *out, Step step) {
    const std::size_t n = rows.rows * rows.cols, whole = n / kLanes * kLanes;
    const auto words = [&](const Float &x) { return convert<std::uint16_t>(step(x)); };
    for (std::size_t i = 0; i < whole; i += kLanes) {
        const Short found = words(load(rows.x + i));
        std::memcpy(out + 2 * i, &found, sizeof found);
    }
    float last[kLanes] = {};
    std::memcpy(last, rows.x + whole, (n - whole) * sizeof *last);
    const Short found = words(load(last));
    std::memcpy(out + 2 * whole, &found, 2 * (n - whole));
}

inline void encode_f32(const Rows &rows, Effort, std::uint8_t *out) {
    std::memcpy(out, rows.x, rows.rows * rows.cols * sizeof *rows.x);
}

inline void encode_f16(const Rows &rows, Effort, std::uint8_t *out) {
    encode_words(rows, out, [](const Float &x) { return to_half(x); });
}

inline void encode_bf16(const Rows &rows, Effort, std::uint8_t *out) {
    encode_words(rows, out, [](const Float &x) { return to_bfloat(x); });
}

}  // namespace
}  // namespace quantpress
