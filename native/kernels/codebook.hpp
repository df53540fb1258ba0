// Weights that are entries of a table times a scale: IQ4_NL, IQ4_XS (16 levels, further apart the further from zero and
// without mirror images, so that a scale and its negative are two different choices) and MXFP4 (floats of four bits).
//
// The error of a block of x with importance w, scale s and codes q is, for the levels v of the codes,
//
//   sum w (x - s v)^2  =  sum w x^2 - 2 s sum w x v + s^2 sum w v^2  =  sum w x^2 - gain + (s - scale)^2 sum w v^2
//
// with scale = sum w x v / sum w v^2, the best for these codes, and gain = scale * sum w x v. As a function of s alone,
// with the nearest codes for each s, it has dozens of local minima. The candidates of codebook_plans.hpp, each with its
// codes, come within 0.2 % of the least of them; rounding to codes and fitting the scale in turn ends in the next one.
//
// In IQ4_XS the scales s are integers in [-32, 31] times d. Two parabolas a sub-block, the best with a positive and the
// best with a negative scale, estimate the error for any d at next to no cost: many d are estimated, and few tried.
#pragma once

#include "blocks.hpp"
#include "kernels/batch.hpp"
#include "kernels/codebook_plans.hpp"
#include "kernels/packing.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace codebook {

using namespace codebook_plans;

// Each 14 wide, so that no two midpoints between levels share a bucket: one lookup and one comparison find the code.
constexpr float kBucket = 14;

// The code of the level nearest to x, for x in buckets; only the low four bits of the result count.
inline Int nearest_code(const Float &x) {
    alignas(64) static constexpr float kMidpoints[16] = {
        -115.5f / kBucket, -93.5f / kBucket, -74.0f / kBucket, -57.0f / kBucket, -42.0f / kBucket, -28.5f / kBucket,
        -16.0f / kBucket,  -4.5f / kBucket,  7.0f / kBucket,   19.0f / kBucket,  31.5f / kBucket,  45.5f / kBucket,
        61.0f / kBucket,   79.0f / kBucket,  101.0f / kBucket, 0};
    // the sum's low bits are the bucket's number; bucket k holds midpoint k, the first all below and the last all above
    const Int low = bits<std::int32_t>(clamp(x + 7.375f, 0.0f, 14.0f) + kRound);
    return select(x > lookup(load(kMidpoints), low), low + 1, low);
}

inline Float level_of(const Int &code) {
    alignas(64) static constexpr float kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                      1,    13,   25,  38,  53,  69,  89,  113};
    return lookup(load(kLevels), code);
}

struct Block {
    Float x[32], w[32], wx[32];
    Float largest, heaviest;  // the x with the largest |x|, and with the largest w x^2
};

inline Block prepare(const Batch<32> &batch) {
    Block block;
    block.largest = block.heaviest = batch.x[0];
    Float most = broadcast(0.0f);
    for (int i = 0; i < 32; ++i) {
        const Float x = batch.x[i], w = larger(batch.w[i], broadcast(1e-12f));  // no sub-block is without weight
        block.x[i] = x;
        block.w[i] = w;
        block.wx[i] = w * x;
        const Float weight = absolute(x * w) * absolute(x);
        block.largest = select(absolute(x) > absolute(block.largest), x, block.largest);
        block.heaviest = select(weight > most, x, block.heaviest);
        most = larger(most, weight);
    }
    return block;
}

struct Sums {
    Float xv, vv;  // sum w x v, sum w v^2
};

// With the nearest codes for a scale.
inline Sums sums_at(const Block &block, const Float &inverse) {
    const Float per_bucket = inverse * (1 / kBucket);
    Sums sums = {broadcast(0.0f), broadcast(0.0f)};
    for (int i = 0; i < 32; ++i) {
        const Float v = level_of(nearest_code(block.x[i] * per_bucket));
        sums.xv = sums.xv + block.wx[i] * v;
        sums.vv = sums.vv + block.w[i] * v * v;
    }
    return sums;
}

struct Fit {
    Float scale, gain, vv;
};

inline Fit select(const Int &mask, const Fit &yes, const Fit &no) {
    return {select(mask, yes.scale, no.scale), select(mask, yes.gain, no.gain), select(mask, yes.vv, no.vv)};
}

struct Fits {
    Fit best, other;  // one with a positive and one with a negative scale; zero where no candidate gave any
};

inline Fits search(const Block &block, bool importance, const Plan &plan) {
    const Float zero = broadcast(0.0f), largest = reciprocal(block.largest), heaviest = reciprocal(block.heaviest);
    const Candidate *candidates = importance ? kWithImportance : kWithoutImportance;
    Fit positive = {zero, zero, zero}, negative = positive;
    for (int i = 0; i < plan.candidates[importance]; ++i) {
        const Candidate &c = candidates[i];
        const Sums sums = sums_at(block, (c.heaviest ? heaviest : largest) * c.level);
        const Float scale = sums.xv / sums.vv;
        const Fit fit = {scale, scale * sums.xv, sums.vv};
        positive = select((fit.gain > positive.gain) & (scale > 0.0f), fit, positive);
        negative = select((fit.gain > negative.gain) & (scale < 0.0f), fit, negative);
    }
    const Int second = negative.gain > positive.gain;
    return {select(second, negative, positive), select(second, positive, negative)};
}

inline Bytes nearest_codes(const Block &block, const Float &scale) {
    const Float per_bucket = reciprocal(scale) * (1 / kBucket);
    Int code[32];
    for (int i = 0; i < 32; ++i) code[i] = nearest_code(block.x[i] * per_bucket);
    return nibbles(code);
}

// ---- IQ4_XS: lanes 0 ... 7 and 8 ... 15 are the sub-blocks of a super-block ----

struct Scales {
    Float d, sub;  // d is a float16, sub an integer
};

inline Scales select(const Int &mask, const Scales &yes, const Scales &no) {
    return {select(mask, yes.d, no.d), select(mask, yes.sub, no.sub)};
}

// Rounded to float16, but not to zero: the integers still tell small sub-blocks apart.
inline Float stored(const Float &d) {
    const Int half = to_scale(d);
    return from_half(select(((half & 0x7fff) == 0) & (d != 0.0f), half | 1, half));
}

// Of the sub-blocks' best scales the largest; of two that differ in sign alone, the positive one. A sub-block with next
// to no weight has no say.
inline Float largest_scale(const Fit &fit) {
    const Float scale = select(fit.gain > sum_over<8>(fit.gain) * 1e-6f, fit.scale, broadcast(0.0f));
    return combined<8>(scale, [](const Float &a, const Float &b) {
        const Int same = absolute(b) == absolute(a);
        return select((absolute(b) > absolute(a)) | (same & (b > a)), b, a);
    });
}

inline Float nearest_step(const Float &scale, const Float &per_d) {
    return nearest(clamp(scale * per_d, -32.0f, 31.0f));
}

// The integers for d by the parabolas of each sub-block; `loss` is the super-block's error, less what no d changes.
inline Scales estimate(const Fits &fits, const Float &d, Float &loss) {
    const Float per_d = reciprocal(d);
    const Float best = nearest_step(fits.best.scale, per_d), other = nearest_step(fits.other.scale, per_d);
    const Float off = best * d - fits.best.scale, other_off = other * d - fits.other.scale;
    const Float best_loss = off * off * fits.best.vv;
    const Float other_loss = other_off * other_off * fits.other.vv + (fits.best.gain - fits.other.gain);
    loss = sum_over<8>(smaller(other_loss, best_loss));
    return {d, select(other_loss < best_loss, other, best)};
}

// The best d for the codes, not rounded, and its gain.
inline Fit fit_super(const Float &sub, const Sums &sums) {
    const Float xv = sum_over<8>(sub * sums.xv), vv = sum_over<8>(sub * sub * sums.vv);
    const Float d = xv * reciprocal(vv);
    return {d, d * xv, vv};
}

inline Scales search_super(const Block &block, const Fits &fits, const Plan &plan) {
    const Float largest = largest_scale(fits.best);
    const float step = (kMostSteps - kFewestSteps) / static_cast<float>(plan.bands * plan.steps);
    Scales best = {broadcast(0.0f), broadcast(0.0f)};
    Float gain = broadcast(0.0f);
    for (int band = 0; band < plan.bands; ++band) {
        Scales nearby = best;
        Float least = broadcast(3e38f);
        for (int i = 0; i < plan.steps; ++i) {
            const float steps = kMostSteps - step * static_cast<float>(band * plan.steps + i);
            Float loss;
            const Scales scales = estimate(fits, stored(largest * (-1 / steps)), loss);
            nearby = select(loss < least, scales, nearby);
            least = smaller(loss, least);
        }
        const Fit fit = fit_super(nearby.sub, sums_at(block, reciprocal(nearby.d * nearby.sub)));
        best = select(fit.gain > gain, Scales{fit.scale, nearby.sub}, best);
        gain = larger(fit.gain, gain);
    }
    return {stored(best.d), best.sub};
}

// Each sub-block's integer or one beside it, by the error with d as it is stored, then d for those codes.
inline Scales refine(const Block &block, const Scales &scales) {
    Float sub = scales.sub, least = broadcast(3e38f);
    Sums kept = {least, least};
    for (const float beside : {0.0f, -1.0f, 1.0f}) {
        const Float here = clamp(scales.sub + beside, -32.0f, 31.0f), scale = scales.d * here;
        const Sums sums = sums_at(block, reciprocal(scale));
        const Float loss = (scale * sums.vv - sums.xv * 2.0f) * scale;
        const Int better = loss < least;
        least = select(better, loss, least);
        sub = select(better, here, sub);
        kept = {select(better, sums.xv, kept.xv), select(better, sums.vv, kept.vv)};
    }
    return {stored(fit_super(sub, kept).scale), sub};
}

// ---- MXFP4 ----

// A float of four bits is rounded as floats are, to a multiple of 1, 2 or 4.
inline Float nearest_float4(const Float &magnitude) {
    const Float x = smaller(magnitude, broadcast(12.0f));
    const Float coarse = select(x < 8.0f, broadcast(2 * kRound), broadcast(4 * kRound));
    const Float round = select(x < 4.0f, broadcast(kRound), coarse);
    return x + round - round;
}

inline Float power_of_two(const Int &exponent) { return bits<float>((exponent + 127) << 23); }

struct Exponent {
    Int e;
    Float factor;  // from x in units of 2^(e0 - 128) to units of 2^(e - 128)
};

// The exponent with the least error, of those around e0, and x in its units.
inline Exponent search_exponent(const Float *x, const Float *w, const Int &e0, const Plan &plan) {
    Exponent best = {e0, broadcast(1.0f)};
    Float least = broadcast(3e38f);
    for (int k = 0; k < plan.exponents; ++k) {
        const Int moved = larger(e0 + kExponents[k], broadcast(0)), down = e0 - moved;
        const Float factor = power_of_two(down);
        Float error = broadcast(0.0f);
        for (int i = 0; i < 32; ++i) {
            const Float magnitude = x[i] * factor, off = magnitude - nearest_float4(magnitude);
            error = error + w[i] * off * off;
        }
        error = error * power_of_two(broadcast(0) - down - down);
        const Int better = error < least;
        least = select(better, error, least);
        best = {select(better, moved, best.e), select(better, factor, best.factor)};
    }
    return best;
}

inline void encode_iq4_nl(const Rows &rows, Effort effort, std::uint8_t *out) {
    const Plan &plan = kPlans[static_cast<int>(effort)];
    for_batches<32>(rows, [&](const Batch<32> &batch, std::size_t first, std::size_t count) {
        const Block block = prepare(batch);
        Int d = to_scale(search(block, rows.importance != nullptr, plan).best.scale);
        for (int round = 0; round < plan.rounds; ++round) {
            const Sums sums = sums_at(block, reciprocal(from_half(d)));
            d = to_scale(sums.xv / sums.vv);
        }
        const Bytes codes = nearest_codes(block, from_half(d));
        std::int32_t scales[kLanes];
        store(scales, d);
        for (std::size_t b = 0; b < count; ++b) {
            IQ4_NL packed;
            packed.d = static_cast<Half>(scales[b]);
            std::memcpy(packed.qs, codes.of(b), sizeof packed.qs);
            put(out, first + b, packed);
        }
    });
}

inline void encode_iq4_xs(const Rows &rows, Effort effort, std::uint8_t *out) {
    const Plan &plan = kPlans[static_cast<int>(effort)];
    for_batches<32, 8>(rows, [&](const Batch<32> &batch, std::size_t first, std::size_t count) {
        const Block block = prepare(batch);
        Scales scales = search_super(block, search(block, rows.importance != nullptr, plan), plan);
        for (int round = 0; round < plan.rounds; ++round) scales = refine(block, scales);
        const Bytes codes = nearest_codes(block, scales.d * scales.sub);
        std::int32_t d[kLanes], sub[kLanes];
        store(d, to_scale(scales.d));
        store(sub, convert<std::int32_t>(scales.sub + 32.0f));
        for (std::size_t b = 0; b < count; b += 8) {
            IQ4_XS packed = {};
            packed.d = static_cast<Half>(d[b]);
            for (std::size_t i = 0; i < 8; ++i) {
                packed.scales_l[i / 2] |= static_cast<std::uint8_t>((sub[b + i] & 15) << (4 * (i % 2)));
                packed.scales_h |= static_cast<std::uint16_t>((sub[b + i] >> 4) << (2 * i));
                std::memcpy(packed.qs + 16 * i, codes.of(b + i), 16);
            }
            put(out, (first + b) / 8, packed);
        }
    });
}

inline void encode_mxfp4(const Rows &rows, Effort effort, std::uint8_t *out) {
    const Plan &plan = kPlans[static_cast<int>(effort)];
    alignas(64) static constexpr std::int32_t kCodes[16] = {0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7};  // by magnitude
    for_batches<32>(rows, [&](const Batch<32> &batch, std::size_t first, std::size_t count) {
        Float x[32], top = broadcast(0.0f);
        for (const Float &v : batch.x) top = larger(absolute(v), top);
        const Int e0 = larger((bits<std::int32_t>(top) >> 23) - 2, broadcast(0));
        // in units of 2^(e0 - 128); 2^(128 - e0) in two factors, because for e0 = 0 it is beyond float32
        const Int shift = broadcast(128) - e0, half = shift >> 1;
        const Float low = power_of_two(half), high = power_of_two(shift - half);
        for (int i = 0; i < 32; ++i) x[i] = absolute(batch.x[i]) * low * high;
        const Exponent best = search_exponent(x, batch.w, e0, plan);
        Int code[32];
        for (int i = 0; i < 32; ++i) {
            code[i] = lookup(load(kCodes), convert<std::int32_t>(nearest_float4(x[i] * best.factor)));
            code[i] = code[i] | ((bits<std::int32_t>(batch.x[i]) >> 28) & 8);
        }
        const Bytes codes = nibbles(code);
        std::int32_t e[kLanes];
        store(e, best.e);
        for (std::size_t b = 0; b < count; ++b) {
            MXFP4 packed;
            packed.e = static_cast<std::uint8_t>(e[b]);
            std::memcpy(packed.qs, codes.of(b), sizeof packed.qs);
            put(out, first + b, packed);
        }
    });
}

}  // namespace codebook

using codebook::encode_iq4_nl;
using codebook::encode_iq4_xs;
using codebook::encode_mxfp4;

}  // namespace
}  // namespace quantpress
