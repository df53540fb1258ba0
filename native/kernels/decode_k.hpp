// Decoders of the K types: super-blocks of 256 weights, integer scales of their sub-blocks. What is equal bit for bit,
// and why: decode.hpp.
#pragma once

#include "kernels/decode_read.hpp"

namespace quantpress {
namespace {

inline void decode_q2_k(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q2_K, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const Byte packed = load(block + offsetof(Q2_K, scales));
        float scale[kLanes], minimum[kLanes];
        store(scale, to_float(low_half(packed)) * read_half(block + offsetof(Q2_K, d)));
        store(minimum, to_float(high_half(packed)) * read_half(block + offsetof(Q2_K, dmin)));
        const std::uint8_t *qs = block + offsetof(Q2_K, qs);
        for (int i = 0; i < 256; i += 128, qs += 32)
            UNROLL for (int j = 0; j < 32; j += kLanes) {
                const Byte bytes = load(qs + j);
                UNROLL for (int k = 0; k < 4; ++k) {
                    const int at = i + 32 * k + j;
                    store(x + at, to_float(bits_at(bytes, 2 * k, 2)) * scale[at / 16] - broadcast(minimum[at / 16]));
                }
            }
    });
}

// The 16 scales of Q3_K, times d.
inline Float scales_of_q3_k(const std::uint8_t *scales, float d) {
    constexpr std::uint64_t kLower = 0x0f0f0f0f0f0f0f0f, kUpper = 0x0303030303030303;
    const auto low = read<std::uint64_t>(scales);
    const std::uint64_t four = read<std::uint32_t>(scales + 8), high = four | four << 32;
    // sub-blocks 4 ... 7 have their upper bits two places above those of 0 ... 3
    const std::uint64_t spread = (high & 0x00000000ffffffff) | (high >> 2 & 0x3fffffff00000000);
    const std::uint64_t first = (low & kLower) | (spread & kUpper) << 4;
    const std::uint64_t second = (low >> 4 & kLower) | (spread >> 4 & kUpper) << 4;
    return to_float(minus(bytes_of(first, second), 32)) * d;
}

inline void decode_q3_k(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q3_K, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        float scale[kLanes];
        store(scale, scales_of_q3_k(block + offsetof(Q3_K, scales), read_half(block + offsetof(Q3_K, d))));
        const std::uint8_t *qs = block + offsetof(Q3_K, qs), *hmask = block + offsetof(Q3_K, hmask);
        UNROLL for (int i = 0; i < 2; ++i)
            UNROLL for (int j = 0; j < 32; j += kLanes) {
                const Byte low = load(qs + 32 * i + j), high = load(hmask + j);
                UNROLL for (int k = 0; k < 4; ++k) {
                    const int at = 128 * i + 32 * k + j;
                    const Byte q = bits_at(low, 2 * k, 2) | bits_at(high, 4 * i + k, 1) << std::uint8_t{2};
                    store(x + at, to_float(minus(q, 4)) * scale[at / 16]);
                }
            }
    });
}

// The 8 scales of Q4_K and Q5_K, then their 8 minima, six bits each, as bytes.
inline Byte scales_of_q4_k(const std::uint8_t *scales) {
    const auto first = read<std::uint32_t>(scales), second = read<std::uint32_t>(scales + 4);
    const auto third = read<std::uint32_t>(scales + 8);
    const std::uint32_t fifth = (third & 0x0f0f0f0f) | (first >> 2 & 0x30303030);
    const std::uint32_t last = (third >> 4 & 0x0f0f0f0f) | (second >> 2 & 0x30303030);
    return bytes_of(joined(first & 0x3f3f3f3f, fifth), joined(second & 0x3f3f3f3f, last));
}

// d * scale, 8 times, then dmin * minimum, 8 times.
inline void factors_of_q4_k(const std::uint8_t *scales, float d, float dmin, float (&factor)[kLanes]) {
    float per_lane[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) per_lane[lane] = lane < 8 ? d : dmin;
    store(factor, to_float(scales_of_q4_k(scales)) * load(per_lane));
}

inline void decode_q4_k(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q4_K, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(Q4_K, d)), dmin = read_half(block + offsetof(Q4_K, dmin));
        float factor[kLanes];
        factors_of_q4_k(block + offsetof(Q4_K, scales), d, dmin, factor);
        const std::uint8_t *qs = block + offsetof(Q4_K, qs);
        for (int b = 0; b < 8; b += 2, qs += 32, x += 64) {
            UNROLL for (int j = 0; j < 32; j += kLanes) {
                const Byte bytes = load(qs + j);
                store(x + j, to_float(low_half(bytes)) * factor[b] - broadcast(factor[8 + b]));
                store(x + 32 + j, to_float(high_half(bytes)) * factor[b + 1] - broadcast(factor[9 + b]));
            }
        }
    });
}

inline void decode_q5_k(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q5_K, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(Q5_K, d)), dmin = read_half(block + offsetof(Q5_K, dmin));
        float factor[kLanes];
        factors_of_q4_k(block + offsetof(Q5_K, scales), d, dmin, factor);
        const std::uint8_t *qs = block + offsetof(Q5_K, qs), *qh = block + offsetof(Q5_K, qh);
        UNROLL for (int b = 0; b < 8; b += 2)
            UNROLL for (int j = 0; j < 32; j += kLanes) {
                const Byte bytes = load(qs + 16 * b + j), high = load(qh + j);
                const Byte q0 = low_half(bytes) | bits_at(high, b, 1) << std::uint8_t{4};
                const Byte q1 = high_half(bytes) | bits_at(high, b + 1, 1) << std::uint8_t{4};
                store(x + 32 * b + j, to_float(q0) * factor[b] - broadcast(factor[8 + b]));
                store(x + 32 * b + 32 + j, to_float(q1) * factor[b + 1] - broadcast(factor[9 + b]));
            }
    });
}

inline void decode_q6_k(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q6_K, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        float scale[kLanes];
        const SignedByte scales = read_lanes<std::int8_t>(block + offsetof(Q6_K, scales));
        store(scale, to_float(scales) * read_half(block + offsetof(Q6_K, d)));
        const std::uint8_t *ql = block + offsetof(Q6_K, ql), *qh = block + offsetof(Q6_K, qh);
        for (int i = 0; i < 256; i += 128, ql += 64, qh += 32)
            UNROLL for (int j = 0; j < 32; j += kLanes) {
                const Byte high = load(qh + j);
                UNROLL for (int k = 0; k < 4; ++k) {
                    const int at = i + 32 * k + j;
                    const Byte low = load(ql + 32 * (k % 2) + j);
                    const Byte four = k < 2 ? low_half(low) : high_half(low);
                    const Byte q = four | bits_at(high, 2 * k, 2) << std::uint8_t{4};
                    store(x + at, to_float(minus(q, 32)) * scale[at / 16]);
                }
            }
    });
}

}  // namespace
}  // namespace quantpress
