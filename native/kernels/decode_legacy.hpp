// Decoders of the types with one scale for all of a block: blocks of 32 weights, the ternary types, and plain floats.
// What is equal bit for bit, and why: decode.hpp.
#pragma once

#include "grids.hpp"
#include "kernels/decode_read.hpp"

namespace quantpress {
namespace {

// A "block" of the plain floats is one weight.
inline void decode_f32(const std::uint8_t *in, std::size_t blocks, float *x) {
    std::memcpy(x, in, blocks * sizeof *x);
}

// Calls step(16 words) for each 16 words of 16 bits; the last few are filled up with zeros.
template <class Step> inline void decode_words(const std::uint8_t *in, std::size_t blocks, float *x, Step step) {
    std::size_t i = 0;
    for (; i + kLanes <= blocks; i += kLanes)
        store(x + i, step(convert<std::int32_t>(read_lanes<std::uint16_t>(in + 2 * i))));
    if (i == blocks) return;
    std::uint16_t words[kLanes] = {};
    float last[kLanes];
    std::memcpy(words, in + 2 * i, 2 * (blocks - i));
    store(last, step(convert<std::int32_t>(load(words))));
    std::memcpy(x + i, last, (blocks - i) * sizeof *x);
}

inline void decode_f16(const std::uint8_t *in, std::size_t blocks, float *x) {
    decode_words(in, blocks, x, [](const Int &half) { return from_half(half); });
}

inline void decode_bf16(const std::uint8_t *in, std::size_t blocks, float *x) {
    decode_words(in, blocks, x, [](const Int &word) { return bits<float>(word << 16); });
}

inline void decode_q4_0(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q4_0, 32>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(Q4_0, d));
        const Byte qs = load(block + offsetof(Q4_0, qs));
        store(x, to_float(minus(low_half(qs), 8)) * d);
        store(x + 16, to_float(minus(high_half(qs), 8)) * d);
    });
}

inline void decode_q4_1(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q4_1, 32>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(Q4_1, d)), m = read_half(block + offsetof(Q4_1, m));
        const Byte qs = load(block + offsetof(Q4_1, qs));
        store(x, to_float(low_half(qs)) * d + m);
        store(x + 16, to_float(high_half(qs)) * d + m);
    });
}

// The sixteen codes of five bits at `first`: four bits of each are given, the fifths are bits of `qh`.
inline Int with_fifth(const Byte &low, std::uint32_t qh, int first) {
    Int bit;
    UNROLL for (int lane = 0; lane < kLanes; ++lane) bit.part[lane / bit.kWidth][lane % bit.kWidth] = 1 << lane;
    const Int set = (broadcast(static_cast<std::int32_t>(qh >> first)) & bit) != 0;
    return convert<std::int32_t>(low) | (set & 16);
}

inline void decode_q5_0(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q5_0, 32>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(Q5_0, d));
        const auto qh = read<std::uint32_t>(block + offsetof(Q5_0, qh));
        const Byte qs = load(block + offsetof(Q5_0, qs));
        store(x, convert<float>(with_fifth(low_half(qs), qh, 0) - 16) * d);
        store(x + 16, convert<float>(with_fifth(high_half(qs), qh, 16) - 16) * d);
    });
}

inline void decode_q5_1(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q5_1, 32>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(Q5_1, d)), m = read_half(block + offsetof(Q5_1, m));
        const auto qh = read<std::uint32_t>(block + offsetof(Q5_1, qh));
        const Byte qs = load(block + offsetof(Q5_1, qs));
        store(x, convert<float>(with_fifth(low_half(qs), qh, 0)) * d + m);
        store(x + 16, convert<float>(with_fifth(high_half(qs), qh, 16)) * d + m);
    });
}

inline void decode_q8_0(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<Q8_0, 32>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(Q8_0, d));
        const std::uint8_t *qs = block + offsetof(Q8_0, qs);
        store(x, to_float(read_lanes<std::int8_t>(qs)) * d);
        store(x + 16, to_float(read_lanes<std::int8_t>(qs + 16)) * d);
    });
}

// The 16 levels of a type that looks its codes up.
inline Float level_table(const std::int8_t (&values)[16]) { return to_float(load(values)); }

inline void decode_iq4_nl(const std::uint8_t *in, std::size_t blocks, float *x) {
    const Float table = level_table(kLevelsIQ4);
    for_blocks<IQ4_NL, 32>(in, blocks, x, [&](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(IQ4_NL, d));
        const Byte qs = load(block + offsetof(IQ4_NL, qs));
        store(x, lookup(table, convert<std::int32_t>(low_half(qs))) * d);
        store(x + 16, lookup(table, convert<std::int32_t>(high_half(qs))) * d);
    });
}

// 2^(e - 128), of which the two smallest are subnormal.
inline float power_of_mxfp4(std::uint8_t e) {
    const std::uint32_t word = e < 2 ? 0x00200000u << e : (e - 1u) << 23;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

inline void decode_mxfp4(const std::uint8_t *in, std::size_t blocks, float *x) {
    const Float table = level_table(kLevelsMXFP4);
    for_blocks<MXFP4, 32>(in, blocks, x, [&](const std::uint8_t *block, float *x) {
        const float d = power_of_mxfp4(block[offsetof(MXFP4, e)]);
        const Byte qs = load(block + offsetof(MXFP4, qs));
        store(x, lookup(table, convert<std::int32_t>(low_half(qs))) * d);
        store(x + 16, lookup(table, convert<std::int32_t>(high_half(qs))) * d);
    });
}

// The first digit of each byte, less 1: the byte is a fraction of 256 and the digit what three times it overflows by.
inline Float first_digit(const Byte &bytes) {
    SignedByte digit = broadcast<std::int8_t>(-1);
    digit.part[0] -= (SignedByte::Part)(bytes.part[0] > 85);  // a comparison gives -1
    digit.part[0] -= (SignedByte::Part)(bytes.part[0] > 170);
    return to_float(digit);
}

inline void decode_tq1_0(const std::uint8_t *in, std::size_t blocks, float *x) {
    constexpr std::uint8_t kPower[kLanes] = {1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27};
    for_blocks<TQ1_0, 256>(in, blocks, x, [&](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(TQ1_0, d));
        constexpr int kStride[3] = {32, 32, 16}, kFirst[3] = {0, 16, 160};
        UNROLL for (int j = 0; j < 3; ++j) {
            Byte bytes = load(block + offsetof(TQ1_0, qs) + 16 * j);
            UNROLL for (int k = 0; k < 5; ++k) {
                store(x + kFirst[j] + kStride[j] * k, first_digit(bytes) * d);
                bytes = bytes + bytes + bytes;  // the next digit moves to the front
            }
        }
        const auto four = read<std::uint32_t>(block + offsetof(TQ1_0, qh));
        const std::uint64_t last = joined(four, four);
        store(x + 240, first_digit(bytes_of(last, last) * load(kPower)) * d);
    });
}

inline void decode_tq2_0(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<TQ2_0, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(TQ2_0, d));
        for (int i = 0; i < 256; i += 128, block += 32, x += 128)
            UNROLL for (int j = 0; j < 32; j += kLanes) {
                const Byte qs = load(block + j);
                UNROLL for (int k = 0; k < 4; ++k) store(x + 32 * k + j, to_float(minus(bits_at(qs, 2 * k, 2), 1)) * d);
            }
    });
}

}  // namespace
}  // namespace quantpress
