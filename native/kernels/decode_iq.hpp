// Decoders of the IQ types: 8 weights at once from a grid, kept here as bytes, so that no bits are taken apart for each
// weight; sign masks likewise. What is equal bit for bit, and why: decode.hpp.
#pragma once

#include <array>

#include "grids.hpp"
#include "kernels/decode_legacy.hpp"

namespace quantpress {

// The levels of each entry of a grid, times `factor`, as the bytes of a word; their indices have `width` bits. Tables,
// not code: one copy serves all instruction sets.
template <class Word, int width, std::size_t n, std::size_t count>
consteval std::array<Word, n> expand(const std::uint16_t (&grid)[n], const std::int8_t (&levels)[count], int factor) {
    std::array<Word, n> entries{};
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < sizeof(Word); ++j) {
            const int level = factor * levels[grid[i] >> (width * j) & ((1 << width) - 1)];
            entries[i] |= static_cast<Word>(static_cast<std::uint8_t>(level)) << (8 * j);
        }
    return entries;
}

// For each value of 8 sign bits the bytes 0xff where the weight is negative; where seven bits are stored, the eighth
// makes their number even.
template <std::size_t n> consteval std::array<std::uint64_t, n> sign_masks() {
    std::array<std::uint64_t, n> masks{};
    for (std::size_t signs = 0; signs < n; ++signs) {
        std::size_t parity = 0;
        for (std::size_t bit = 0; bit < 7; ++bit) parity ^= signs >> bit & 1;
        const std::size_t all = n == 128 ? signs | parity << 7 : signs;
        for (std::size_t bit = 0; bit < 8; ++bit) masks[signs] |= (all >> bit & 1) * (std::uint64_t{0xff} << 8 * bit);
    }
    return masks;
}

inline constexpr auto kBytesIQ1 = expand<std::uint64_t, 2>(kGridIQ1, kLevelsIQ1, 8);  // eighths: delta is one
inline constexpr auto kBytesIQ2XXS = expand<std::uint64_t, 2>(kGridIQ2XXS, kLevelsIQ2, 1);
inline constexpr auto kBytesIQ2XS = expand<std::uint64_t, 2>(kGridIQ2XS, kLevelsIQ2, 1);
inline constexpr auto kBytesIQ2S = expand<std::uint64_t, 2>(kGridIQ2S, kLevelsIQ2, 1);
inline constexpr auto kBytesIQ3XXS = expand<std::uint32_t, 3>(kGridIQ3XXS, kLevelsIQ3XXS, 1);
inline constexpr auto kBytesIQ3S = expand<std::uint32_t, 3>(kGridIQ3S, kLevelsIQ3S, 1);
inline constexpr auto kEvenSigns = sign_masks<128>();
inline constexpr auto kSigns = sign_masks<256>();

namespace {

// Sixteen levels of a grid, with a byte of signs (0 or 0xff), as two times eight.
struct Entries {
    std::uint64_t first, second;
};

inline SignedByte bytes_of(const Entries &entries) { return bytes_of<std::int8_t>(entries.first, entries.second); }

// -v is ~v + 1
inline Float with_signs(const Entries &levels, const Entries &masks) {
    const SignedByte mask = bytes_of(masks);
    return to_float((bytes_of(levels) ^ mask) - mask);
}

inline void decode_iq2_xxs(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<IQ2_XXS, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(IQ2_XXS, d));
        const std::uint8_t *qs = block + offsetof(IQ2_XXS, qs);
        for (int b = 0; b < 8; ++b, qs += 8)
            UNROLL for (int j = 0; j < 2; ++j, x += kLanes) {
                const auto word = read<std::uint32_t>(qs + 4);
                const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
                const Entries levels{kBytesIQ2XXS[qs[2 * j]], kBytesIQ2XXS[qs[2 * j + 1]]};
                const std::uint32_t signs = word >> 14 * j;
                store(x, with_signs(levels, {kEvenSigns[signs & 127], kEvenSigns[signs >> 7 & 127]}) * scale);
            }
    });
}

inline float half_of_byte(const std::uint8_t *scales, int b) {
    return static_cast<float>(scales[b / 2] >> 4 * (b % 2) & 15);
}

inline void decode_iq2_xs(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<IQ2_XS, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(IQ2_XS, d));
        for (int b = 0; b < 16; ++b, x += kLanes) {
            const float scale = d * (0.5f + half_of_byte(block + offsetof(IQ2_XS, scales), b)) * 0.25f;
            const auto words = read<std::uint32_t>(block + offsetof(IQ2_XS, qs) + 4 * b);
            const Entries levels{kBytesIQ2XS[words & 511], kBytesIQ2XS[words >> 16 & 511]};
            store(x, with_signs(levels, {kEvenSigns[words >> 9 & 127], kEvenSigns[words >> 25]}) * scale);
        }
    });
}

inline void decode_iq2_s(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<IQ2_S, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(IQ2_S, d));
        const std::uint8_t *qs = block + offsetof(IQ2_S, qs), *signs = block + offsetof(IQ2_S, signs);
        for (int b = 0; b < 16; ++b, x += kLanes, qs += 2, signs += 2) {
            const float scale = d * (0.5f + half_of_byte(block + offsetof(IQ2_S, scales), b)) * 0.25f;
            const unsigned high = block[offsetof(IQ2_S, qh) + b / 2] >> 4 * (b % 2);
            const Entries levels{kBytesIQ2S[qs[0] | (high & 3) << 8], kBytesIQ2S[qs[1] | (high >> 2 & 3) << 8]};
            store(x, with_signs(levels, {kSigns[signs[0]], kSigns[signs[1]]}) * scale);
        }
    });
}

inline void decode_iq3_xxs(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<IQ3_XXS, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(IQ3_XXS, d));
        const std::uint8_t *qs = block + offsetof(IQ3_XXS, qs);
        for (int b = 0; b < 8; ++b)
            UNROLL for (int j = 0; j < 2; ++j, x += kLanes, qs += 4) {
                const auto word = read<std::uint32_t>(block + offsetof(IQ3_XXS, signs) + 4 * b);
                const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
                const Entries levels{joined(kBytesIQ3XXS[qs[0]], kBytesIQ3XXS[qs[1]]),
                                     joined(kBytesIQ3XXS[qs[2]], kBytesIQ3XXS[qs[3]])};
                const std::uint32_t signs = word >> 14 * j;
                store(x, with_signs(levels, {kEvenSigns[signs & 127], kEvenSigns[signs >> 7 & 127]}) * scale);
            }
    });
}

inline void decode_iq3_s(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<IQ3_S, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(IQ3_S, d));
        const std::uint8_t *qs = block + offsetof(IQ3_S, qs), *signs = block + offsetof(IQ3_S, signs);
        for (int b = 0; b < 8; ++b)
            UNROLL for (int j = 0; j < 2; ++j, x += kLanes, qs += 4, signs += 2) {
                const float scale = d * (1 + 2 * half_of_byte(block + offsetof(IQ3_S, scales), b));
                const unsigned high = block[offsetof(IQ3_S, qh) + b] >> 4 * j;
                const auto entry = [&](int k) { return kBytesIQ3S[qs[k] | (high >> k & 1) << 8]; };
                const Entries levels{joined(entry(0), entry(1)), joined(entry(2), entry(3))};
                store(x, with_signs(levels, {kSigns[signs[0]], kSigns[signs[1]]}) * scale);
            }
    });
}

// Grid plus delta, in eighths: 1 or -1 in each byte.
inline std::uint64_t eighths(bool negative) { return negative ? ~std::uint64_t{0} : 0x0101010101010101; }

inline void decode_iq1_s(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<IQ1_S, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(IQ1_S, d)) * 0.125f;
        const std::uint8_t *qs = block + offsetof(IQ1_S, qs);
        for (int b = 0; b < 8; ++b) {
            const unsigned word = read<std::uint16_t>(block + offsetof(IQ1_S, qh) + 2 * b);
            const float scale = d * static_cast<float>(2 * (word >> 12 & 7) + 1);
            const std::uint64_t delta = eighths(word >> 15);
            UNROLL for (int j = 0; j < 2; ++j, x += kLanes, qs += 2) {
                const unsigned high = word >> 6 * j;
                const Entries grid{kBytesIQ1[qs[0] | (high & 7) << 8], kBytesIQ1[qs[1] | (high >> 3 & 7) << 8]};
                store(x, to_float(bytes_of(grid) + bytes_of({delta, delta})) * scale);
            }
        }
    });
}

// d of IQ1_M, in four pieces of four bits on top of the words.
inline float scale_of_iq1_m(std::uint64_t words) {
    return from_half(static_cast<Half>((words >> 12 & 0xf) | (words >> 24 & 0xf0) | (words >> 36 & 0xf00) |
                                       (words >> 48 & 0xf000)));
}

inline void decode_iq1_m(const std::uint8_t *in, std::size_t blocks, float *x) {
    for_blocks<IQ1_M, 256>(in, blocks, x, [](const std::uint8_t *block, float *x) {
        const auto words = read<std::uint64_t>(block + offsetof(IQ1_M, scales));
        const float d = scale_of_iq1_m(words) * 0.125f;
        const std::uint8_t *qs = block + offsetof(IQ1_M, qs);
        for (int b = 0; b < 16; ++b, x += kLanes, qs += 2) {
            const float scale = d * static_cast<float>(2 * (words >> (16 * (b / 4) + 3 * (b % 4)) & 7) + 1);
            const unsigned high = block[offsetof(IQ1_M, qh) + b];
            const Entries grid{kBytesIQ1[qs[0] | (high & 7) << 8], kBytesIQ1[qs[1] | (high >> 4 & 7) << 8]};
            const Entries delta{eighths(high >> 3 & 1), eighths(high >> 7 & 1)};
            store(x, to_float(bytes_of(grid) + bytes_of(delta)) * scale);
        }
    });
}

// The 8 scales of IQ4_XS, six bits less 32.
inline float scale_of_iq4_xs(const std::uint8_t *block, int b) {
    const unsigned low = block[offsetof(IQ4_XS, scales_l) + b / 2] >> 4 * (b % 2) & 15;
    const unsigned high = read<std::uint16_t>(block + offsetof(IQ4_XS, scales_h)) >> 2 * b & 3;
    return static_cast<float>(static_cast<int>(low | high << 4) - 32);
}

inline void decode_iq4_xs(const std::uint8_t *in, std::size_t blocks, float *x) {
    const Float table = level_table(kLevelsIQ4);
    for_blocks<IQ4_XS, 256>(in, blocks, x, [&](const std::uint8_t *block, float *x) {
        const float d = read_half(block + offsetof(IQ4_XS, d));
        const std::uint8_t *qs = block + offsetof(IQ4_XS, qs);
        for (int b = 0; b < 8; ++b, qs += 16, x += 32) {
            const float scale = d * scale_of_iq4_xs(block, b);
            const Byte bytes = load(qs);
            store(x, lookup(table, convert<std::int32_t>(low_half(bytes))) * scale);
            store(x + 16, lookup(table, convert<std::int32_t>(high_half(bytes))) * scale);
        }
    });
}

}  // namespace
}  // namespace quantpress
