#include "alphabet.hpp"

#include <array>
#include <cstring>
#include <string_view>

#include "blocks.hpp"
#include "grids.hpp"

namespace quantpress {
namespace {

using Code = std::uint16_t;
using Byte = std::uint8_t;

// MXFP4's levels in ascending order, and the code of each. Zero has two.
constexpr int kAscendingMXFP4[16] = {15, 14, 13, 12, 11, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7};

constexpr auto kLevels4 = [] {
    std::array<float, 16> levels{};
    for (int i = 0; i < 16; ++i) levels[i] = kLevelsIQ4[i];
    return levels;
}();
constexpr auto kLevelsOfMXFP4 = [] {
    std::array<float, 16> levels{};
    for (int i = 0; i < 16; ++i) levels[i] = kLevelsMXFP4[kAscendingMXFP4[i]];
    return levels;
}();

// The levels of each weight of each entry of a grid whose indices have `bits` bits.
template <int width, int bits, std::size_t n, std::size_t count>
constexpr auto expanded(const std::uint16_t (&grid)[n], const std::int8_t (&levels)[count]) {
    std::array<float, width * n> entries{};
    for (int i = 0; i < width; ++i)
        for (std::size_t k = 0; k < n; ++k) entries[i * n + k] = levels[grid[k] >> bits * i & ((1 << bits) - 1)];
    return entries;
}

constexpr auto kEntriesIQ1 = expanded<8, 2>(kGridIQ1, kLevelsIQ1);
constexpr auto kEntriesIQ2XXS = expanded<8, 2>(kGridIQ2XXS, kLevelsIQ2);
constexpr auto kEntriesIQ2XS = expanded<8, 2>(kGridIQ2XS, kLevelsIQ2);
constexpr auto kEntriesIQ2S = expanded<8, 2>(kGridIQ2S, kLevelsIQ2);
constexpr auto kEntriesIQ3XXS = expanded<4, 3>(kGridIQ3XXS, kLevelsIQ3XXS);
constexpr auto kEntriesIQ3S = expanded<4, 3>(kGridIQ3S, kLevelsIQ3S);

// The entries of such a grid by their heads (alphabet.hpp).
template <int width, int bits, std::size_t n, std::size_t count> struct ByHeads {
    static constexpr int kHalf = width / 2, kHeads = width == 8 ? 81 : 64;
    float levels[count]{};
    std::uint16_t starts[kHeads + 1]{};
    alignas(64) float tails[(n / 16 + kHeads) * kHalf * 16]{};
    alignas(64) float codes[(n / 16 + kHeads) * 16]{};

    constexpr ByHeads(const std::uint16_t (&grid)[n], const std::int8_t (&levels_)[count]) {
        for (std::size_t i = 0; i < count; ++i) levels[i] = levels_[i];
        std::size_t at = 0;
        for (int head = 0; head < kHeads; ++head) {
            for (std::size_t k = 0; k < n; ++k)
                if (head_of(grid[k]) == head) put(grid[k], k, at++);
            for (; at % 16; ++at) put(grid[static_cast<int>(codes[at - 1])], codes[at - 1], at);
            starts[head + 1] = static_cast<std::uint16_t>(at / 16);
        }
    }

    static constexpr int digit(int entry, int i) { return entry >> bits * i & ((1 << bits) - 1); }
    static constexpr int head_of(int entry) {
        int head = 0;
        for (int i = 0; i < kHalf; ++i) head = head * static_cast<int>(count) + digit(entry, i);
        return head;
    }
    constexpr void put(int entry, float code, std::size_t at) {
        codes[at] = code;
        for (int i = 0; i < kHalf; ++i) tails[(at / 16 * kHalf + i) * 16 + at % 16] = levels[digit(entry, kHalf + i)];
    }
};

template <int width, int bits, std::size_t n, std::size_t count>
constexpr auto by_heads(const std::uint16_t (&grid)[n], const std::int8_t (&levels)[count]) {
    return ByHeads<width, bits, n, count>(grid, levels);
}

constexpr auto kHeadsIQ1 = by_heads<8, 2>(kGridIQ1, kLevelsIQ1);
constexpr auto kHeadsIQ2XXS = by_heads<8, 2>(kGridIQ2XXS, kLevelsIQ2);
constexpr auto kHeadsIQ2XS = by_heads<8, 2>(kGridIQ2XS, kLevelsIQ2);
constexpr auto kHeadsIQ2S = by_heads<8, 2>(kGridIQ2S, kLevelsIQ2);
constexpr auto kHeadsIQ3XXS = by_heads<4, 3>(kGridIQ3XXS, kLevelsIQ3XXS);
constexpr auto kHeadsIQ3S = by_heads<4, 3>(kGridIQ3S, kLevelsIQ3S);

template <const auto &by> constexpr Grid kGrid{by.levels, by.starts, by.tails, by.codes};

// The members of a block, changed where it lies.
template <class Block, class Change> void change(Byte *at, Change change_) {
    Block block;
    std::memcpy(&block, at, sizeof block);
    change_(block);
    std::memcpy(at, &block, sizeof block);
}

// Bits [at, at + n) of `count` codes, each n higher in the byte than the one before.
Byte stacked(const Code *codes, int count, int apart, int at, int n) {
    int byte = 0;
    for (int k = 0; k < count; ++k) byte |= (codes[k * apart] >> at & ((1 << n) - 1)) << n * k;
    return static_cast<Byte>(byte);
}

void put_nibbles(const Code *codes, Byte *qs) {
    for (int j = 0; j < 16; ++j) qs[j] = stacked(codes + j, 2, 16, 0, 4);
}

void put_fifths(const Code *codes, Byte *qh) {
    for (int j = 0; j < 4; ++j) qh[j] = stacked(codes + 8 * j, 8, 1, 4, 1);
}

template <class Block> void write_nibbles(const Code *codes, const Byte *, Byte *at) {
    change<Block>(at, [&](Block &block) { put_nibbles(codes, block.qs); });
}

template <class Block> void write_fives(const Code *codes, const Byte *, Byte *at) {
    change<Block>(at, [&](Block &block) {
        put_nibbles(codes, block.qs);
        put_fifths(codes, block.qh);
    });
}

void write_mxfp4(const Code *codes, const Byte *signs, Byte *at) {
    Code own[32];
    for (int j = 0; j < 32; ++j) own[j] = static_cast<Code>(kAscendingMXFP4[codes[j]]);
    write_nibbles<MXFP4>(own, signs, at);
}

void write_q8_0(const Code *codes, const Byte *, Byte *at) {
    change<Q8_0>(at, [&](Q8_0 &block) {
        for (int j = 0; j < 32; ++j) block.qs[j] = static_cast<std::int8_t>(codes[j] - 128);
    });
}

void put_pairs(const Code *codes, Byte *qs) {
    for (int h = 0; h < 2; ++h)
        for (int j = 0; j < 32; ++j) qs[32 * h + j] = stacked(codes + 128 * h + j, 4, 32, 0, 2);
}

template <class Block> void write_pairs(const Code *codes, const Byte *, Byte *at) {
    change<Block>(at, [&](Block &block) { put_pairs(codes, block.qs); });
}

void write_q3_k(const Code *codes, const Byte *, Byte *at) {
    change<Q3_K>(at, [&](Q3_K &block) {
        put_pairs(codes, block.qs);
        for (int j = 0; j < 32; ++j) block.hmask[j] = stacked(codes + j, 8, 32, 2, 1);
    });
}

template <class Block> void write_k_nibbles(const Code *codes, const Byte *, Byte *at) {
    change<Block>(at, [&](Block &block) {
        for (int h = 0; h < 4; ++h)
            for (int j = 0; j < 32; ++j) block.qs[32 * h + j] = stacked(codes + 64 * h + j, 2, 32, 0, 4);
        if constexpr (requires { block.qh; })
            for (int j = 0; j < 32; ++j) block.qh[j] = stacked(codes + j, 8, 32, 4, 1);
    });
}

void write_q6_k(const Code *codes, const Byte *, Byte *at) {
    change<Q6_K>(at, [&](Q6_K &block) {
        for (int h = 0; h < 2; ++h) {
            for (int j = 0; j < 64; ++j) block.ql[64 * h + j] = stacked(codes + 128 * h + j, 2, 64, 0, 4);
            for (int j = 0; j < 32; ++j) block.qh[32 * h + j] = stacked(codes + 128 * h + j, 4, 32, 4, 2);
        }
    });
}

void write_iq4_xs(const Code *codes, const Byte *, Byte *at) {
    change<IQ4_XS>(at, [&](IQ4_XS &block) {
        for (int b = 0; b < 8; ++b) put_nibbles(codes + 32 * b, block.qs + 16 * b);
    });
}

// Digits in base 3 as a fraction of 3^5 in eight bits, rounded up.
Byte fraction(const Code *codes, int count, int apart) {
    int digits = 0;
    for (int k = 0; k < 5; ++k) digits = 3 * digits + (k < count ? codes[k * apart] : 0);
    return static_cast<Byte>((digits * 256 + 242) / 243);
}

void write_tq1_0(const Code *codes, const Byte *, Byte *at) {
    change<TQ1_0>(at, [&](TQ1_0 &block) {
        for (int j = 0; j < 32; ++j) block.qs[j] = fraction(codes + j, 5, 32);
        for (int j = 0; j < 16; ++j) block.qs[32 + j] = fraction(codes + 160 + j, 5, 16);
        for (int j = 0; j < 4; ++j) block.qh[j] = fraction(codes + 240 + j, 4, 4);
    });
}

// Seven of eight signs each, 28 bits a sub-block of 32; the four bits above stay.
void put_even_signs(const Byte *signs, void *at) {
    std::uint32_t word;
    std::memcpy(&word, at, sizeof word);
    word &= 0xf0000000u;
    for (int h = 0; h < 4; ++h) word |= static_cast<std::uint32_t>(signs[h] & 127) << 7 * h;
    std::memcpy(at, &word, sizeof word);
}

void write_iq2_xxs(const Code *codes, const Byte *signs, Byte *at) {
    change<IQ2_XXS>(at, [&](IQ2_XXS &block) {
        for (int b = 0; b < 8; ++b) {
            for (int k = 0; k < 2; ++k)
                block.qs[4 * b + k] = static_cast<Code>(codes[4 * b + 2 * k] | codes[4 * b + 2 * k + 1] << 8);
            put_even_signs(signs + 4 * b, block.qs + 4 * b + 2);
        }
    });
}

void write_iq2_xs(const Code *codes, const Byte *signs, Byte *at) {
    change<IQ2_XS>(at, [&](IQ2_XS &block) {
        for (int g = 0; g < 32; ++g) block.qs[g] = static_cast<Code>(codes[g] | (signs[g] & 127) << 9);
    });
}

void write_iq2_s(const Code *codes, const Byte *signs, Byte *at) {
    change<IQ2_S>(at, [&](IQ2_S &block) {
        for (int g = 0; g < 32; ++g) block.qs[g] = static_cast<Byte>(codes[g]);
        for (int k = 0; k < 8; ++k) block.qh[k] = stacked(codes + 4 * k, 4, 1, 8, 2);
        std::memcpy(block.signs, signs, sizeof block.signs);
    });
}

void write_iq3_xxs(const Code *codes, const Byte *signs, Byte *at) {
    change<IQ3_XXS>(at, [&](IQ3_XXS &block) {
        for (int g = 0; g < 64; ++g) block.qs[g] = static_cast<Byte>(codes[g]);
        for (int b = 0; b < 8; ++b) put_even_signs(signs + 4 * b, block.signs + 4 * b);
    });
}

void write_iq3_s(const Code *codes, const Byte *signs, Byte *at) {
    change<IQ3_S>(at, [&](IQ3_S &block) {
        for (int g = 0; g < 64; ++g) block.qs[g] = static_cast<Byte>(codes[g]);
        for (int k = 0; k < 8; ++k) block.qh[k] = stacked(codes + 8 * k, 8, 1, 8, 1);
        std::memcpy(block.signs, signs, sizeof block.signs);
    });
}

void write_iq1_s(const Code *codes, const Byte *, Byte *at) {
    change<IQ1_S>(at, [&](IQ1_S &block) {
        for (int g = 0; g < 32; ++g) block.qs[g] = static_cast<Byte>(codes[g]);
        for (int b = 0; b < 8; ++b) {
            int word = block.qh[b] & 0xf000;
            for (int k = 0; k < 4; ++k) word |= (codes[4 * b + k] >> 8) << 3 * k;
            block.qh[b] = static_cast<Code>(word);
        }
    });
}

void write_iq1_m(const Code *codes, const Byte *, Byte *at) {
    change<IQ1_M>(at, [&](IQ1_M &block) {
        for (int g = 0; g < 32; ++g) {
            block.qs[g] = static_cast<Byte>(codes[g]);
            Byte &byte = block.qh[g / 2];
            const int shift = 4 * (g % 2);
            byte = static_cast<Byte>((byte & ~(7 << shift)) | (codes[g] >> 8) << shift);
        }
    });
}

constexpr Signs kNone = Signs::kNone, kFree = Signs::kFree, kEven = Signs::kEven;

constexpr Alphabet kAlphabets[] = {
    {"Q4_0", 32, 1, 16, kNone, nullptr, nullptr, nullptr, write_nibbles<Q4_0>},
    {"Q4_1", 32, 1, 16, kNone, nullptr, nullptr, nullptr, write_nibbles<Q4_1>},
    {"Q5_0", 32, 1, 32, kNone, nullptr, nullptr, nullptr, write_fives<Q5_0>},
    {"Q5_1", 32, 1, 32, kNone, nullptr, nullptr, nullptr, write_fives<Q5_1>},
    {"Q8_0", 32, 1, 256, kNone, nullptr, nullptr, nullptr, write_q8_0},
    {"Q2_K", 256, 1, 4, kNone, nullptr, nullptr, nullptr, write_pairs<Q2_K>},
    {"Q3_K", 256, 1, 8, kNone, nullptr, nullptr, nullptr, write_q3_k},
    {"Q4_K", 256, 1, 16, kNone, nullptr, nullptr, nullptr, write_k_nibbles<Q4_K>},
    {"Q5_K", 256, 1, 32, kNone, nullptr, nullptr, nullptr, write_k_nibbles<Q5_K>},
    {"Q6_K", 256, 1, 64, kNone, nullptr, nullptr, nullptr, write_q6_k},
    {"IQ1_S", 256, 8, 2048, kNone, nullptr, kEntriesIQ1.data(), &kGrid<kHeadsIQ1>, write_iq1_s},
    {"IQ1_M", 256, 8, 2048, kNone, nullptr, kEntriesIQ1.data(), &kGrid<kHeadsIQ1>, write_iq1_m},
    {"IQ2_XXS", 256, 8, 256, kEven, nullptr, kEntriesIQ2XXS.data(), &kGrid<kHeadsIQ2XXS>, write_iq2_xxs},
    {"IQ2_XS", 256, 8, 512, kEven, nullptr, kEntriesIQ2XS.data(), &kGrid<kHeadsIQ2XS>, write_iq2_xs},
    {"IQ2_S", 256, 8, 1024, kFree, nullptr, kEntriesIQ2S.data(), &kGrid<kHeadsIQ2S>, write_iq2_s},
    {"IQ3_XXS", 256, 4, 256, kEven, nullptr, kEntriesIQ3XXS.data(), &kGrid<kHeadsIQ3XXS>, write_iq3_xxs},
    {"IQ3_S", 256, 4, 512, kFree, nullptr, kEntriesIQ3S.data(), &kGrid<kHeadsIQ3S>, write_iq3_s},
    {"IQ4_NL", 32, 1, 16, kNone, kLevels4.data(), nullptr, nullptr, write_nibbles<IQ4_NL>},
    {"IQ4_XS", 256, 1, 16, kNone, kLevels4.data(), nullptr, nullptr, write_iq4_xs},
    {"TQ1_0", 256, 1, 3, kNone, nullptr, nullptr, nullptr, write_tq1_0},
    {"TQ2_0", 256, 1, 3, kNone, nullptr, nullptr, nullptr, write_pairs<TQ2_0>},
    {"MXFP4", 32, 1, 16, kNone, kLevelsOfMXFP4.data(), nullptr, nullptr, write_mxfp4},
};

}  // namespace

const Alphabet *alphabet(const char *type) {
    for (const Alphabet &known : kAlphabets)
        if (std::string_view(type) == known.type) return &known;
    return nullptr;
}

}  // namespace quantpress
