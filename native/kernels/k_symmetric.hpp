// Super-blocks of 256 without a minimum: Q3_K and Q6_K. Their search is in k_symmetric_search.hpp.
#pragma once

#include "blocks.hpp"
#include "kernels/k_symmetric_search.hpp"
#include "kernels/packing.hpp"

namespace quantpress {
namespace {
namespace k_symmetric {

// Codes plus half: byte i of lane b in four words is that of weight i of sub-block b.
template <int half> inline void pack_codes(const Batch<16> &batch, const Fit &fit, Int *words) {
    const Float per_t = reciprocal(from_half(fit.d) * fit.s);
    UNROLL for (int k = 0; k < 4; ++k) {
        words[k] = broadcast(0);
        UNROLL for (int i = 0; i < 4; ++i) {
            const Float q = code<half>(batch.x[4 * k + i] * per_t) + static_cast<float>(half);
            words[k] = words[k] | convert<std::int32_t>(q) << (8 * i);
        }
    }
}

inline Half half_of(const Int &d) {
    std::int32_t lane[kLanes];
    store(lane, d);
    return static_cast<Half>(lane[0]);
}

inline void pack(const Batch<16> &batch, const Fit &fit, Q3_K &block) {
    Int low[4], high[4];
    pack_codes<4>(batch, fit, low);
    const Int pair = lane_numbers() >> 1;
    UNROLL for (int k = 0; k < 4; ++k) {
        high[k] = (low[k] >> 2 & 0x01010101) << pair;
        low[k] = (low[k] & 0x03030303) << ((pair & 3) << 1);
    }
    const Bytes twos(low), ones(high);
    UNROLL for (int p = 0; p < 2; ++p) {
        twos.write(block.qs + 16 * p, p, 2, 4);
        twos.write(block.qs + 32 + 16 * p, 8 + p, 2, 4);
        ones.write(block.hmask + 16 * p, p, 2, 8);
    }
    std::int32_t s[kLanes];
    store(s, convert<std::int32_t>(fit.s + 32.0f));
    const auto byte = [](std::int32_t bits) { return static_cast<std::uint8_t>(bits); };
    for (int b = 0; b < 8; ++b) block.scales[b] = byte((s[b] & 15) | (s[8 + b] & 15) << 4);
    for (int b = 0; b < 4; ++b)
        block.scales[8 + b] = byte(s[b] >> 4 | s[4 + b] >> 4 << 2 | s[8 + b] >> 4 << 4 | s[12 + b] >> 4 << 6);
    block.d = half_of(fit.d);
}

inline void pack(const Batch<16> &batch, const Fit &fit, Q6_K &block) {
    Int low[4], high[4];
    pack_codes<32>(batch, fit, low);
    const Int lanes = lane_numbers();
    UNROLL for (int k = 0; k < 4; ++k) {
        high[k] = (low[k] >> 4 & 0x03030303) << (lanes & 6);
        low[k] = (low[k] & 0x0f0f0f0f) << (lanes & 4);
    }
    const Bytes fours(low), twos(high);
    UNROLL for (int b = 0; b < 16; b += 8) {
        UNROLL for (int k = 0; k < 4; ++k) fours.write(block.ql + 8 * b + 16 * k, b + k, 4, 2);
        UNROLL for (int p = 0; p < 2; ++p) twos.write(block.qh + 4 * b + 16 * p, b + p, 2, 4);
    }
    std::int32_t s[kLanes];
    store(s, convert<std::int32_t>(fit.s));
    for (int b = 0; b < 16; ++b) block.scales[b] = static_cast<std::int8_t>(s[b]);
    block.d = half_of(fit.d);
}

inline void encode_q3_k(const Rows &rows, Effort effort, std::uint8_t *out) {
    const PlanQ3 &plan = kPlansQ3[static_cast<int>(effort)];
    for_batches<16, 16>(rows, [&](const Batch<16> &batch, std::size_t first, std::size_t) {
        Q3_K block;
        pack(batch, fit_q3(batch, plan), block);
        put(out, first / 16, block);
    });
}

inline void encode_q6_k(const Rows &rows, Effort effort, std::uint8_t *out) {
    const PlanQ6 &plan = kPlansQ6[rows.importance != nullptr][static_cast<int>(effort)];
    for_batches<16, 16>(rows, [&](const Batch<16> &batch, std::size_t first, std::size_t) {
        Q6_K block;
        pack(batch, fit_q6(batch, plan), block);
        put(out, first / 16, block);
    });
}

}  // namespace k_symmetric

using k_symmetric::encode_q3_k;
using k_symmetric::encode_q6_k;

}  // namespace
}  // namespace quantpress
