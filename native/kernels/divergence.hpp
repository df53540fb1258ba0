// Scores of a row of logits, a packed copy of its distribution, and the divergence of another row from that copy.
//
// A packed row, in 16-bit words (the layout is read and written by this file alone):
//
//   | step: float32 | top: int32 | code[0] code[1] ... code[vocab - 1] | pad to even |
//
//   code 0            less than e^-32 times as probable as the top token: dropped
//   code 1 ... 65535  ln p = ln p_top - (65535 - code) * step
//
// The distribution that a packed row stands for is these values renormalised, so the divergence is one between two
// real distributions and cannot be negative. 32 nats: the dropped tokens of a vocabulary of 262,144 weigh 3e-9
// together, and rounding, at most step / 2 = 2.4e-4 nats a token, moves a divergence by about step^2 / 24 = 1e-8.
// The top token is kept apart because rounding can give it a twin.
//
// A row that holds a NaN or +inf has no distribution: its results are NaN, for the caller to report.
#pragma once

#include "kernels/table.hpp"
#include "simd/math.hpp"

namespace quantpress {
namespace {

constexpr float kRange = 32.0f;  // nats
constexpr float kInfinity = __builtin_inff();
constexpr double kNaN = __builtin_nan("");
constexpr std::size_t kHeader = 4;  // words

struct Extremes {
    float top, bottom;  // the largest logit, and the smallest that is within reach of it
    bool valid;
};

inline Extremes extremes(const float *logits, std::size_t vocab) {
    Float top = broadcast(-kInfinity), bottom = broadcast(kInfinity);
    Int unordered = broadcast(0);
    for_lanes(logits, vocab, -kInfinity, [&](const Float &x, std::size_t) {
        unordered = unordered | (x != x);
        top = larger(x, top);
        bottom = select(x > -kInfinity, smaller(x, bottom), bottom);
    });
    const float highest = maximum(top), lowest = minimum(bottom);
    const bool valid = !any(unordered) && highest < kInfinity && highest > -kInfinity;
    return {highest, lowest > highest - kRange ? lowest : highest - kRange, valid};
}

inline std::int32_t index_of(const float *logits, float value) {
    std::int32_t i = 0;
    while (logits[i] != value) ++i;
    return i;
}

// -ln p(target), from the sum of e^(logit - top).
inline double surprise(double total, float target, float top) {
    return log_of_positive(total) - (static_cast<double>(target) - top);
}

inline double score(const float *logits, std::size_t vocab, std::int32_t target) {
    const Extremes found = extremes(logits, vocab);
    if (!found.valid) return kNaN;
    Double total = broadcast(0.0);
    for_lanes(logits, vocab, -kInfinity, [&](const Float &x, std::size_t) {
        total = total + convert<double>(exp_of_negative(x - found.top));
    });
    return surprise(sum(total), logits[target], found.top);
}

// As `score`, and writes the packed row.
inline double pack(const float *logits, std::size_t vocab, std::int32_t target, std::uint16_t *packed) {
    std::memset(packed, 0, packed_words(vocab) * sizeof *packed);
    const Extremes found = extremes(logits, vocab);
    if (!found.valid) return kNaN;
    const float step = (found.top - found.bottom) / 65534;
    const float per_step = step > 0 ? 1 / step : 0;
    const std::int32_t top = index_of(logits, found.top);
    std::memcpy(packed, &step, sizeof step);
    std::memcpy(packed + 2, &top, sizeof top);
    Double total = broadcast(0.0);
    for_lanes(logits, vocab, -kInfinity, [&](const Float &x, std::size_t i) {
        const Float below = x - found.top;
        total = total + convert<double>(exp_of_negative(below));
        const Float code = larger(below * per_step, broadcast(-65534.0f)) + 65535.5f;  // .5: conversion truncates
        const Float reachable = select(below < -kRange, broadcast(0.0f), code);
        const Short codes = convert<std::uint16_t>(convert<std::int32_t>(reachable));
        const std::size_t left = vocab - i;
        std::memcpy(packed + kHeader + i, &codes, sizeof(std::uint16_t) * (left < kLanes ? left : kLanes));
    });
    return surprise(sum(total), logits[target], found.top);
}

// KL(packed || logits) = sum p_i (a_i - b_i) - ln sum e^a + ln sum e^b, where a and b are the log-probabilities of both
// relative to their top tokens, and p = e^a / sum e^a. Differences are taken before the two sums come in, so that near
// the top, where the weight is, next to nothing cancels.
inline Comparison compare(const std::uint16_t *packed, const float *logits, std::size_t vocab, std::int32_t target) {
    const Extremes found = extremes(logits, vocab);
    float step;
    std::int32_t top;
    std::memcpy(&step, packed, sizeof step);
    std::memcpy(&top, packed + 2, sizeof top);
    const std::uint16_t *codes = packed + kHeader;
    if (!found.valid || static_cast<std::uint32_t>(top) >= vocab || codes[top] == 0) return {kNaN, kNaN, false};
    Double base = broadcast(0.0), total = broadcast(0.0), cross = broadcast(0.0);
    std::uint16_t last[kLanes] = {};
    const std::size_t whole = vocab / kLanes * kLanes;
    std::memcpy(last, codes + whole, (vocab - whole) * sizeof *codes);
    for_lanes(logits, vocab, -kInfinity, [&](const Float &x, std::size_t i) {
        const Float code = convert<float>(convert<std::int32_t>(load(i < whole ? codes + i : last)));
        const Int kept = code > 0.0f;
        const Float a = (code - 65535.0f) * step;
        const Float b = x - found.top;
        const Float weight = bits<float>(bits<std::int32_t>(exp_of_negative(a)) & kept);
        base = base + convert<double>(weight);
        total = total + convert<double>(exp_of_negative(b));
        cross = cross + convert<double>(select(kept, weight * (a - b), broadcast(0.0f)));
    });
    const double z = sum(base), zq = sum(total);
    const double divergence = sum(cross) / z - log_of_positive(z) + log_of_positive(zq);
    return {
        surprise(zq, logits[target], found.top),
        divergence > 0 ? divergence : 0,  // below zero by rounding only
        index_of(logits, found.top) == top,
    };
}

}  // namespace
}  // namespace quantpress
