// Blocks of 32 with a scale, or a scale and a minimum: Q4_0, Q5_0, Q4_1, Q5_1, Q8_0. The scales are those found by
// legacy_search.hpp; here are the codes for them, and their bytes.
#pragma once

#include "blocks.hpp"
#include "kernels/legacy_search.hpp"
#include "kernels/packing.hpp"

namespace quantpress {
namespace {
namespace legacy {

// The fifth bits of the codes, that of weight i as bit i.
inline Int fifths(const Int *code) {
    Int word = broadcast(0);
    UNROLL for (int i = 0; i < 32; ++i) word = word | (((code[i] >> 4) & 1) << i);
    return word;
}

// Members go straight to the bytes of their block: a block put together first would be stored and loaded once more.
inline void put_half(std::uint8_t *to, std::int32_t bits_of_half) {
    const Half half = static_cast<Half>(bits_of_half);
    std::memcpy(to, &half, sizeof half);
}

template <class Block, int half, bool weighted>
inline void encode_scaled(const Rows &rows, const ScalePlan &plan, std::uint8_t *out) {
    for_batches<32>(rows, [&](const Batch<32> &batch, std::size_t first, std::size_t count) {
        const Int d = fit_scale<weighted, half>(batch, plan);
        const Float per_step = reciprocal(from_half(d));
        Int code[32];
        UNROLL for (int i = 0; i < 32; ++i) {
            const Float q = clamp(nearest(batch.x[i] * per_step), -1.0f * half, half - 1.0f);
            code[i] = convert<std::int32_t>(q + 1.0f * half);
        }
        const Bytes low = nibbles(code);
        std::int32_t scale[kLanes], high[kLanes];
        store(scale, d);
        if constexpr (half == 16) store(high, fifths(code));
        for (std::size_t b = 0; b < count; ++b) {
            std::uint8_t *block = out + (first + b) * sizeof(Block);
            put_half(block + offsetof(Block, d), scale[b]);
            if constexpr (half == 16) std::memcpy(block + offsetof(Block, qh), &high[b], sizeof high[b]);
            std::memcpy(block + offsetof(Block, qs), low.of(b), 16);
        }
    });
}

template <class Block, int top, bool weighted>
inline void encode_ranged(const Rows &rows, const RangePlan &plan, std::uint8_t *out) {
    for_batches<32>(rows, [&](const Batch<32> &batch, std::size_t first, std::size_t count) {
        const StoredRange stored = fit_range<weighted, top>(batch, plan);
        const Float per_step = reciprocal(from_half(stored.d)), m = from_half(stored.m);
        Int code[32];
        UNROLL for (int i = 0; i < 32; ++i)
            code[i] = convert<std::int32_t>(clamp(nearest((batch.x[i] - m) * per_step), 0.0f, 1.0f * top));
        const Bytes low = nibbles(code);
        std::int32_t scale[kLanes], minimum[kLanes], high[kLanes];
        store(scale, stored.d);
        store(minimum, stored.m);
        if constexpr (top == 31) store(high, fifths(code));
        for (std::size_t b = 0; b < count; ++b) {
            std::uint8_t *block = out + (first + b) * sizeof(Block);
            put_half(block + offsetof(Block, d), scale[b]);
            put_half(block + offsetof(Block, m), minimum[b]);
            if constexpr (top == 31) std::memcpy(block + offsetof(Block, qh), &high[b], sizeof high[b]);
            std::memcpy(block + offsetof(Block, qs), low.of(b), 16);
        }
    });
}

template <bool weighted> inline void encode_bytes(const Rows &rows, const BytePlan &plan, std::uint8_t *out) {
    for_batches<32>(rows, [&](const Batch<32> &batch, std::size_t first, std::size_t count) {
        const Int d = fit_bytes<weighted>(batch, plan);
        const Float per_step = reciprocal(from_half(d));
        Int word[8];
        UNROLL for (int k = 0; k < 8; ++k) {
            word[k] = broadcast(0);
            UNROLL for (int i = 0; i < 4; ++i) {
                const Float q = clamp(nearest(batch.x[4 * k + i] * per_step), -128.0f, 127.0f);
                word[k] = word[k] | ((convert<std::int32_t>(q) & 255) << 8 * i);
            }
        }
        const Bytes lower(word), upper(word + 4);
        std::int32_t scale[kLanes];
        store(scale, d);
        for (std::size_t b = 0; b < count; ++b) {
            std::uint8_t *block = out + (first + b) * sizeof(Q8_0);
            put_half(block + offsetof(Q8_0, d), scale[b]);
            std::memcpy(block + offsetof(Q8_0, qs), lower.of(b), 16);
            std::memcpy(block + offsetof(Q8_0, qs) + 16, upper.of(b), 16);
        }
    });
}

inline void encode_q4_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    const ScalePlan &plan = kPlansQ4_0[rows.importance != nullptr][static_cast<int>(effort)];
    rows.importance ? encode_scaled<Q4_0, 8, true>(rows, plan, out) : encode_scaled<Q4_0, 8, false>(rows, plan, out);
}

inline void encode_q5_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    const ScalePlan &plan = kPlansQ5_0[rows.importance != nullptr][static_cast<int>(effort)];
    rows.importance ? encode_scaled<Q5_0, 16, true>(rows, plan, out) : encode_scaled<Q5_0, 16, false>(rows, plan, out);
}

inline void encode_q4_1(const Rows &rows, Effort effort, std::uint8_t *out) {
    const RangePlan &plan = kPlansQ4_1[rows.importance != nullptr][static_cast<int>(effort)];
    rows.importance ? encode_ranged<Q4_1, 15, true>(rows, plan, out) : encode_ranged<Q4_1, 15, false>(rows, plan, out);
}

inline void encode_q5_1(const Rows &rows, Effort effort, std::uint8_t *out) {
    const RangePlan &plan = kPlansQ5_1[rows.importance != nullptr][static_cast<int>(effort)];
    rows.importance ? encode_ranged<Q5_1, 31, true>(rows, plan, out) : encode_ranged<Q5_1, 31, false>(rows, plan, out);
}

inline void encode_q8_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    const BytePlan &plan = kPlansQ8_0[rows.importance != nullptr][static_cast<int>(effort)];
    rows.importance ? encode_bytes<true>(rows, plan, out) : encode_bytes<false>(rows, plan, out);
}

}  // namespace legacy

using legacy::encode_q4_0;
using legacy::encode_q4_1;
using legacy::encode_q5_0;
using legacy::encode_q5_1;
using legacy::encode_q8_0;

}  // namespace
}  // namespace quantpress
