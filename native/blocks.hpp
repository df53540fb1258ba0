// The packed block of every type: what a GGUF file holds for 32 or 256 consecutive weights of a row, little-endian.
//
// Notation: x is a decoded weight, q an integer of that many bits, d and m float16 scales (d as its bits), i the index
// of the weight in its block. The layouts are those of ggml-common.h and of the gguf package.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quantpress {

using Half = std::uint16_t;  // the bits of a float16

// x = d (q - 8); weight i < 16 in the low half of qs[i], weight 16 + i in its high half.
struct Q4_0 {
    Half d;
    std::uint8_t qs[16];
};

// x = d q + m; nibbles as in Q4_0.
struct Q4_1 {
    Half d, m;
    std::uint8_t qs[16];
};

// x = d (q - 16); low four bits as in Q4_0, the fifth is bit i of qh (32 bits, little-endian).
struct Q5_0 {
    Half d;
    std::uint8_t qh[4], qs[16];
};

// x = d q + m; bits as in Q5_0.
struct Q5_1 {
    Half d, m;
    std::uint8_t qh[4], qs[16];
};

// x = d q
struct Q8_0 {
    Half d;
    std::int8_t qs[32];
};

// x = d sc q - dmin mn for 16 sub-blocks of 16: sc is the low half of scales[b], mn the high one, q of two bits.
// Of 128 weights, weight 32 k + j is at bits 2k of qs[j].
struct Q2_K {
    std::uint8_t scales[16], qs[64];
    Half d, dmin;
};

// x = d (sc - 32) (q - 4) for 16 sub-blocks of 16, q of three bits: the low two as in Q2_K, the third is bit i / 32 of
// hmask[i % 32]. sc has six bits: the low four in the low (b < 8) or high half of scales[b % 8], the upper two at bits
// 2 (b / 4) of scales[8 + b % 4].
struct Q3_K {
    std::uint8_t hmask[32], qs[64], scales[12];
    Half d;
};

// x = d sc q - dmin mn for 8 sub-blocks of 32, sc and mn of six bits:
//
//   byte     0 ... 3           4 ... 7           8 ... 11
//   scales | hhllllll sc 0-3 | hhllllll mn 0-3 | nnnnssss sc and mn 4-7 |    hh: upper bits of sc or mn 4-7
//
// Of 64 weights, weight j is the low half of qs[j], weight 32 + j its high half.
struct Q4_K {
    Half d, dmin;
    std::uint8_t scales[12], qs[128];
};

// As Q4_K with a fifth bit of q: bit i / 32 of qh[i % 32].
struct Q5_K {
    Half d, dmin;
    std::uint8_t scales[12], qh[32], qs[128];
};

// x = d sc (q - 32) for 16 sub-blocks of 16, q of six bits. Of 128 weights, weight j < 64 has its low four bits in the
// low half of ql[j], weight 64 + j in its high half; the upper two of weight 32 k + j are at bits 2k of qh[j].
struct Q6_K {
    std::uint8_t ql[128], qh[64];
    std::int8_t scales[16];
    Half d;
};

// x = d q with q in {-1, 0, 1}; digits q + 1 of a number in base 3, as the fraction digits / 3^5 in eight bits, rounded
// up. Byte j < 32 of qs holds the weights j, 32 + j, ... 128 + j; byte 32 + j, j < 16, the weights 160 + j, 176 + j, ...
// 224 + j; byte j of qh the weights 240 + j, 244 + j, 248 + j, 252 + j. The first is the most significant digit.
struct TQ1_0 {
    std::uint8_t qs[48], qh[4];
    Half d;
};

// x = d (q - 1); of 128 weights, weight 32 k + j is at bits 2k of qs[j].
struct TQ2_0 {
    std::uint8_t qs[64];
    Half d;
};

// The IQ types take 4 or 8 absolute values at once from a grid (grids.hpp), with signs beside: bit j set means that
// weight j of 8 is negative. Where a type has seven bits for eight signs, the number of negative ones is even.

// x = d (sc + 1/2) / 4 * grid * sign for 8 sub-blocks of 32. Four words a sub-block: two of four grid indices (bytes),
// then 32 bits: signs of seven bits at 0, 7, 14, 21, and sc at 28.
struct IQ2_XXS {
    Half d;
    std::uint16_t qs[32];
};

// x = d (sc + 1/2) / 4 * grid * sign for 16 sub-blocks of 16; a word for 8 weights: nine bits of index, seven of signs.
// sc of sub-block b is the low (b even) or high half of scales[b / 2].
struct IQ2_XS {
    Half d;
    std::uint16_t qs[32];
    std::uint8_t scales[8];
};

// As IQ2_XS with eight bits of signs and ten of index: the low eight in qs[g], the upper two at bits 2 (g % 4) of
// qh[g / 4] for the group g of 8 weights.
struct IQ2_S {
    Half d;
    std::uint8_t qs[32], signs[32], qh[8], scales[8];
};

// x = d (sc + 1/2) / 2 * grid * sign for 8 sub-blocks of 32; an index for 4 weights; signs and sc as in IQ2_XXS.
struct IQ3_XXS {
    Half d;
    std::uint8_t qs[64], signs[32];
};

// x = d (2 sc + 1) * grid * sign for 8 sub-blocks of 32; nine bits of index for 4 weights: the ninth of group g is bit
// g % 8 of qh[g / 8]; sc of sub-block b is the low (b even) or high half of scales[b / 2].
struct IQ3_S {
    Half d;
    std::uint8_t qs[64], qh[8], signs[32], scales[4];
};

// x = d (2 sc + 1) (grid + delta), grid in {-1, 0, 1}, delta = 1/8 or -1/8, for 8 sub-blocks of 32. qh[b]: the upper
// three of the eleven bits of index of its four groups of 8 at bits 0, 3, 6, 9; sc at 12; bit 15: delta is negative.
struct IQ1_S {
    Half d;
    std::uint8_t qs[32];
    std::uint16_t qh[8];
};

// As IQ1_S with sub-blocks of 16 and a delta for each group g of 8: qh holds four bits a group: three of index, one for
// a negative delta. scales: four little-endian words, each of four sc (sub-blocks 4w ... 4w + 3) of three bits and, on
// top, four bits of the float16 d, the lowest in the first word.
struct IQ1_M {
    std::uint8_t qs[32], qh[16], scales[8];
};

// x = d values[q] with the 16 values of kLevelsIQ4 (grids.hpp); nibbles as in Q4_0.
struct IQ4_NL {
    Half d;
    std::uint8_t qs[16];
};

// x = d (sc - 32) values[q] for 8 sub-blocks of 32, nibbles in each as in Q4_0. sc of six bits: the low four in the low
// (b even) or high half of scales_l[b / 2], the upper two at bits 2b of scales_h.
struct IQ4_XS {
    Half d;
    std::uint16_t scales_h;
    std::uint8_t scales_l[4], qs[128];
};

// x = 2^(e - 128) values[q] with the values of kLevelsMXFP4 (twice those of E2M1); nibbles as in Q4_0.
struct MXFP4 {
    std::uint8_t e, qs[16];
};

static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24);
static_assert(sizeof(Q8_0) == 34 && sizeof(MXFP4) == 17 && sizeof(IQ4_NL) == 18 && sizeof(IQ4_XS) == 136);
static_assert(sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(Q4_K) == 144 && sizeof(Q5_K) == 176);
static_assert(sizeof(Q6_K) == 210 && sizeof(TQ1_0) == 54 && sizeof(TQ2_0) == 66);
static_assert(sizeof(IQ1_S) == 50 && sizeof(IQ1_M) == 56 && sizeof(IQ2_XXS) == 66 && sizeof(IQ2_XS) == 74);
static_assert(sizeof(IQ2_S) == 82 && sizeof(IQ3_XXS) == 98 && sizeof(IQ3_S) == 110);

}  // namespace quantpress
