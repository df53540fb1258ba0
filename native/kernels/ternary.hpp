// Blocks of 256 of three values, x = d q with q in {-1, 0, 1}: TQ1_0 and TQ2_0.
//
// The best codes for a scale d keep what is farther than d / 2 from 0, and the best scale for what is kept is its mean
// absolute value, d = sum w |x| / sum w, which lowers the error by (sum w |x|)^2 / sum w. So the error is a function of
// a threshold alone. Candidates for it are fractions of the largest |x|; from the best one, scale and threshold are
// found in turn. Where all weights are -d, 0 or d, as a model trained for these types has them, every threshold keeps
// the same, and d is found again. The largest |x| as the scale, the obvious choice, has two to three times the
// error elsewhere.
//
// Nothing is transposed: a block is 16 vectors, whose sums are folded at the end.
#pragma once

#include "blocks.hpp"
#include "kernels/batch.hpp"
#include "kernels/ternary_plans.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace ternary {

using namespace ternary_plans;

struct Block {
    Float x[16], w[16], distance[16], mass[16];  // |x| and w |x|
};

struct Kept {
    Float gain, scale;
};

inline Kept keep(const Block &block, const Float &threshold) {
    Float weight = broadcast(0.0f), mass = broadcast(0.0f);
    UNROLL for (int i = 0; i < 16; ++i) {
        const Int kept = block.distance[i] > threshold;
        weight = select(kept, weight + block.w[i], weight);
        mass = select(kept, mass + block.mass[i], mass);
    }
    weight = sum_over<kLanes>(weight);
    mass = sum_over<kLanes>(mass);
    const Float scale = mass / larger(weight, broadcast(1e-30f));
    return {mass * scale, scale};
}

// The bits of the scale.
inline Int fit(const Block &block, const Plan &plan) {
    Float top = block.distance[0];
    UNROLL for (int i = 1; i < 16; ++i) top = larger(top, block.distance[i]);
    top = largest_over<kLanes>(top);
    Kept best = {broadcast(0.0f), broadcast(0.0f)};
    float fraction = plan.first;
    for (int k = 0; k < plan.thresholds; ++k, fraction *= plan.ratio) {
        const Kept kept = keep(block, top * fraction);
        const Int better = kept.gain > best.gain;
        best.gain = select(better, kept.gain, best.gain);
        best.scale = select(better, kept.scale, best.scale);
    }
    for (int round = 0; round < plan.rounds; ++round) best = keep(block, best.scale * 0.5f);
    return to_scale(best.scale);
}

// 0, 1, 2 for -d, 0, d.
inline void codes_of(const Block &block, const Int &d, Int *q) {
    const Float threshold = from_half(d) * 0.5f, negative = broadcast(0.0f) - threshold;
    UNROLL for (int i = 0; i < 16; ++i) {
        const Int above = block.x[i] > threshold, below = block.x[i] < negative;  // -1 or 0
        q[i] = below - above + 1;
    }
}

inline void store_bytes(std::uint8_t *to, const Int &v) { store(to, convert<std::uint8_t>(v)); }

inline void pack(const Int *q, TQ2_0 &block) {
    UNROLL for (int half = 0; half < 2; ++half) {
        UNROLL for (int k = 0; k < 2; ++k) {
            const Int *from = q + 8 * half + k;
            store_bytes(block.qs + 32 * half + 16 * k, from[0] | from[2] << 2 | from[4] << 4 | from[6] << 6);
        }
    }
}

// Five digits as a fraction of 3^5 in eight bits, ceil(256 v / 243) = v + ceil(13 v / 243); 1079 / 2^18 is as good as
// 1 / 243 here.
inline Int fraction_of(const Int &v) { return v + (((v * 13 + 242) * 1079) >> 18); }

inline Int digits(const Int *from, int apart) {
    Int v = from[0];
    UNROLL for (int i = 1; i < 5; ++i) v = v * 3 + from[i * apart];
    return fraction_of(v);
}

inline void pack(const Int *q, TQ1_0 &block) {
    for (int k = 0; k < 2; ++k) store_bytes(block.qs + 16 * k, digits(q + k, 2));
    store_bytes(block.qs + 32, digits(q + 10, 1));
    constexpr std::int32_t powers[kLanes] = {81, 81, 81, 81, 27, 27, 27, 27, 9, 9, 9, 9, 3, 3, 3, 3};
    std::int32_t last[kLanes];
    store(last, q[15] * load(powers));
    for (int j = 0; j < 4; ++j) last[j] += last[4 + j] + last[8 + j] + last[12 + j];
    store(last, fraction_of(load(last)));
    for (int j = 0; j < 4; ++j) block.qh[j] = static_cast<std::uint8_t>(last[j]);
}

template <class Packed> inline void encode(const Rows &rows, const Plan &plan, std::uint8_t *out) {
    const std::size_t a_row = rows.cols / 256, blocks = rows.rows * a_row;
    Block block;
    for (Float &w : block.w) w = broadcast(1.0f);
    for (std::size_t b = 0; b < blocks; ++b) {
        UNROLL for (int i = 0; i < 16; ++i) {
            block.x[i] = load(rows.x + b * 256 + 16 * i);
            if (rows.importance) block.w[i] = load(rows.importance + b % a_row * 256 + 16 * i);
        }
        if (rows.importance) normalise<16, kLanes>(block.w);
        UNROLL for (int i = 0; i < 16; ++i) {
            block.distance[i] = absolute(block.x[i]);
            block.mass[i] = block.w[i] * block.distance[i];
        }
        const Int d = fit(block, plan);
        Int q[16];
        codes_of(block, d, q);
        Packed packed;
        pack(q, packed);
        std::int32_t scale[kLanes];
        store(scale, d);
        packed.d = static_cast<Half>(scale[0]);
        put(out, b, packed);
    }
}

inline void encode_tq1_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<TQ1_0>(rows, kPlans[static_cast<int>(effort)], out);
}

inline void encode_tq2_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<TQ2_0>(rows, kPlans[static_cast<int>(effort)], out);
}

}  // namespace ternary

using ternary::encode_tq1_0;
using ternary::encode_tq2_0;

}  // namespace
}  // namespace quantpress
