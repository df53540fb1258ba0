// Q2_K, Q4_K and Q5_K: super-blocks of 256 whose sub-blocks have a scale and a minimum. Codes and packing; the scales
// come from k_affine_search.hpp.
#pragma once

#include "blocks.hpp"
#include "kernels/k_affine_search.hpp"

namespace quantpress {
namespace {
namespace k_affine {

template <int apart> inline Int exchanged_bits(const Int &v) {
    return bits<std::int32_t>(exchanged<apart>(bits<float>(v)));
}

// What is written of a batch, one lane a sub-block; byte i of codes[k] is weight 4 k + i.
template <class Type> struct Encoded {
    std::int32_t d[kLanes], dmin[kLanes], sc[kLanes], mn[kLanes];
    Int codes[Type::kWeights / 4];
};

template <class Type> inline Encoded<Type> encoded(const SubBlocks<Type> &batch, const Scales &scales) {
    const Float low = broadcast(0.0f) - scales.mn * scales.dmin, inverse = broadcast(1.0f) / (scales.sc * scales.d);
    Encoded<Type> out;
    store(out.d, to_scale(scales.d));
    store(out.dmin, to_scale(scales.dmin));
    store(out.sc, convert<std::int32_t>(scales.sc));
    store(out.mn, convert<std::int32_t>(scales.mn));
    UNROLL for (int k = 0; k < Type::kWeights / 4; ++k) {
        out.codes[k] = broadcast(0);
        UNROLL for (int i = 0; i < 4; ++i) {
            const Float q = rounded_code<Type>(code(batch.x[4 * k + i], low, inverse));
            out.codes[k] = out.codes[k] | convert<std::int32_t>(q) << 8 * i;
        }
    }
    return out;
}

// The scales of the sub-blocks from `lane` on, as Q4_K and Q5_K hold them.
template <class Block, class Type> inline void pack_scales(Block &block, const Encoded<Type> &from, std::size_t lane) {
    const std::int32_t *sc = from.sc + lane, *mn = from.mn + lane;
    block.d = static_cast<Half>(from.d[lane]);
    block.dmin = static_cast<Half>(from.dmin[lane]);
    for (int i = 0; i < 4; ++i) {
        block.scales[i] = static_cast<std::uint8_t>(sc[i] | (sc[4 + i] >> 4) << 6);
        block.scales[4 + i] = static_cast<std::uint8_t>(mn[i] | (mn[4 + i] >> 4) << 6);
        block.scales[8 + i] = static_cast<std::uint8_t>((sc[4 + i] & 15) | (mn[4 + i] & 15) << 4);
    }
}

// The low four bits of 4 weights of sub-blocks 2 b (low halves) and 2 b + 1, in lane 2 b.
inline Int nibbles(const Int &codes) {
    const Int low = codes & 0x0f0f0f0f;
    return low | exchanged_bits<1>(low) << 4;
}

// The fifth bits of 4 weights of all 8 sub-blocks.
inline Int fifths(const Int &codes) {
    Int v = ((codes >> 4) & 0x01010101) << (lane_numbers() & 7);
    v = v | exchanged_bits<1>(v);
    v = v | exchanged_bits<2>(v);
    return v | exchanged_bits<4>(v);
}

// The codes of 4 weights of the sub-blocks 8 h + p, + 2, + 4, + 6, in lane 8 h + p for h and p of 0 and 1.
inline Int pairs(const Int &codes) {
    Int v = codes << (lane_numbers() & 6);
    v = v | exchanged_bits<2>(v);
    return v | exchanged_bits<4>(v);
}

template <class Block> inline void pack(const Encoded<Q2> &from, std::size_t first, std::size_t, std::uint8_t *out) {
    Block block;
    block.d = static_cast<Half>(from.d[0]);
    block.dmin = static_cast<Half>(from.dmin[0]);
    for (int b = 0; b < 16; ++b) block.scales[b] = static_cast<std::uint8_t>(from.sc[b] | from.mn[b] << 4);
    for (int k = 0; k < 4; ++k) {
        std::int32_t word[kLanes];
        store(word, pairs(from.codes[k]));
        for (int b = 0; b < 4; ++b) std::memcpy(block.qs + 16 * b + 4 * k, &word[b / 2 * 8 + b % 2], 4);
    }
    put(out, first / 16, block);
}

// Q4_K and, with fifth bits, Q5_K.
template <class Block, class Type>
inline void pack(const Encoded<Type> &from, std::size_t first, std::size_t count, std::uint8_t *out) {
    std::int32_t low[8][kLanes], high[8][kLanes];
    UNROLL for (int k = 0; k < 8; ++k) store(low[k], nibbles(from.codes[k]));
    if constexpr (Type::kTop > 15) {
        UNROLL for (int k = 0; k < 8; ++k) store(high[k], fifths(from.codes[k]));
    }
    for (std::size_t lane = 0; lane < count; lane += 8) {
        Block block;
        pack_scales(block, from, lane);
        for (std::size_t b = 0; b < 4; ++b)
            for (int k = 0; k < 8; ++k) std::memcpy(block.qs + 32 * b + 4 * k, &low[k][lane + 2 * b], 4);
        if constexpr (Type::kTop > 15)
            for (int k = 0; k < 8; ++k) std::memcpy(block.qh + 4 * k, &high[k][lane], 4);
        put(out, (first + lane) / 8, block);
    }
}

template <class Block, class Type> inline void encode(const Rows &rows, Effort effort, std::uint8_t *out) {
    const Plan &plan = Type::kPlans[static_cast<int>(effort)];
    constexpr int n = Type::kWeights, lanes = kSubBlocks<Type>;
    for_batches<n, lanes>(rows, [&](const SubBlocks<Type> &batch, std::size_t first, std::size_t count) {
        pack<Block>(encoded<Type>(batch, best_scales<Type>(batch, plan)), first, count, out);
    });
}

inline void encode_q2_k(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<Q2_K, Q2>(rows, effort, out);
}

inline void encode_q4_k(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<Q4_K, Q4>(rows, effort, out);
}

inline void encode_q5_k(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<Q5_K, Q5>(rows, effort, out);
}

}  // namespace k_affine

using k_affine::encode_q2_k;
using k_affine::encode_q4_k;
using k_affine::encode_q5_k;

}  // namespace
}  // namespace quantpress
