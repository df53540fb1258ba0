// The search for the scale, or the scale and minimum, of blocks of 32, 16 blocks at once.
//
// The error of a block as a function of its scale has a local minimum between almost any two scales at which some code
// changes: the least error of many candidates is 5 to 20 % below that of one good guess. Of each candidate, a closed
// form says what error its codes q would have with the best scale for them:
//
//   scale alone:       sum w (x - d q)^2      = sum w x^2 - (sum w x q)^2 / sum w q^2
//   with a minimum:    sum w (x - m - d q)^2  = sum w z^2 - (sum w z q)^2 / (sum w q^2 - (sum w q)^2 / sum w)
//
// with z = x less its mean. So a candidate is one pass of sums, and as the first term is the same for all, two are
// compared by cross-multiplying. At eight bits the difference of the two terms would be lost in rounding; there the
// candidates are float16 numbers, and the residuals themselves are summed.
#pragma once

#include "kernels/batch.hpp"
#include "kernels/legacy_plans.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace legacy {

using namespace legacy_plans;

constexpr float kNothing = 1e-20f;  // what is smaller is 0 in float16, and from here on 1 / x is finite

template <bool weighted> inline Float times(const Float &w, const Float &x) {
    if constexpr (weighted) return w * x;
    return x;
}

struct Extremes16 {
    Float low, high;
};

// The smallest and the largest weight of a block that has importance.
template <bool weighted> inline Extremes16 extremes(const Batch<32> &batch) {
    constexpr float kFar = 3e38f;
    Extremes16 found = {broadcast(kFar), broadcast(-kFar)};
    UNROLL for (int i = 0; i < 32; ++i) {
        Float low = batch.x[i], high = low;
        if constexpr (weighted) {
            const Int counts = batch.w[i] > 0.0f;
            low = select(counts, low, broadcast(kFar));
            high = select(counts, high, broadcast(-kFar));
        }
        found = {smaller(low, found.low), larger(high, found.high)};
    }
    return found;
}

// The one that is larger in absolute value.
inline Float farther(const Extremes16 &e) { return select(absolute(e.low) > absolute(e.high), e.low, e.high); }

// ---- scale alone: codes in [-half, half) ----

struct ScaleSums {
    Float xq, qq;  // weighted
};

template <bool weighted> inline void add(ScaleSums &sums, const Float &x, const Float &w, const Float &q) {
    const Float wq = times<weighted>(w, q);
    sums.xq = sums.xq + wq * x;
    sums.qq = sums.qq + wq * q;
}

inline void keep_better(ScaleSums &best, const ScaleSums &sums) {
    const Int better = sums.xq * sums.xq * best.qq > best.xq * best.xq * sums.qq;
    best.xq = select(better, sums.xq, best.xq);
    best.qq = select(better, sums.qq, best.qq);
}

// The scale for x in [-1, 1] with the least error; 0 where x has no weight.
template <bool weighted, int half> inline Float search_scale(const Float *x, const Float *w, const ScalePlan &plan) {
    constexpr float kHalf = half;
    const Float zero = broadcast(0.0f);
    ScaleSums best = {zero, broadcast(1.0f)};
    for (int c = 0; c < plan.candidates; ++c) {
        const float factor = kHalf + plan.first + plan.step * static_cast<float>(c);
        ScaleSums sums = {zero, zero}, mirrored = {zero, zero};
        if (plan.both) {
            UNROLL for (int i = 0; i < 32; ++i) {
                const Float q = clamp(nearest(x[i] * factor), -kHalf, kHalf);
                add<weighted>(sums, x[i], w[i], smaller(q, broadcast(kHalf - 1)));
                add<weighted>(mirrored, x[i], w[i], larger(q, broadcast(1 - kHalf)));
            }
            mirrored.xq = zero - mirrored.xq;  // the codes are -q
        } else {
            UNROLL for (int i = 0; i < 32; ++i)
                add<weighted>(sums, x[i], w[i], clamp(nearest(x[i] * factor), -kHalf, kHalf - 1));
        }
        keep_better(best, sums);
        if (plan.both) keep_better(best, mirrored);
    }
    return best.xq / best.qq;
}

// The float16 scale of each block.
template <bool weighted, int half> inline Int fit_scale(const Batch<32> &batch, const ScalePlan &plan) {
    constexpr float kHalf = half;
    const Float zero = broadcast(0.0f), top = farther(extremes<weighted>(batch));
    const Float unit = select(absolute(top) < kNothing, zero, zero - top);  // the farthest weight becomes -1
    const Float per_unit = reciprocal(unit);
    Float x[32];
    UNROLL for (int i = 0; i < 32; ++i) x[i] = batch.x[i] * per_unit;
    Int d = to_scale(search_scale<weighted, half>(x, batch.w, plan) * unit);
    for (int round = 0; round < plan.rounds; ++round) {
        const Float per_step = reciprocal(from_half(d));
        ScaleSums sums = {zero, zero};
        UNROLL for (int i = 0; i < 32; ++i)
            add<weighted>(sums, x[i], batch.w[i], clamp(nearest(batch.x[i] * per_step), -kHalf, kHalf - 1));
        const Int empty = sums.qq == 0.0f;
        d = select(empty, d, to_scale(sums.xq / select(empty, broadcast(1.0f), sums.qq) * unit));
    }
    return d;
}

// ---- scale and minimum: codes in [0, top] ----

struct RangeFit {
    Float scale, minimum;
};

struct RangeSums {
    Float zq, q, qq;  // weighted
};

// Blocks as the search wants them: x in [0, 1], wz = w (x - mean), and 1 / sum w.
struct Range {
    Float x[32], wz[32], mean, per_weight, low, extent;
};

template <bool weighted> inline void add(RangeSums &sums, const Float &wz, const Float &w, const Float &q) {
    const Float wq = times<weighted>(w, q);
    sums.zq = sums.zq + wz * q;
    sums.q = sums.q + wq;
    sums.qq = sums.qq + wq * q;
}

// sum w (q - mean q)^2
inline Float spread_of(const RangeSums &sums, const Float &per_weight) {
    return sums.qq - sums.q * sums.q * per_weight;
}

// A spread that is next to nothing beside sum w q^2 is 0, or rounding: all codes that count are the same.
inline Int has_spread(const RangeSums &sums, const Float &spread) { return spread > sums.qq * 1e-5f; }

// In `best`, the spread takes the place of qq.
inline void keep_better(RangeSums &best, const RangeSums &sums, const Float &per_weight) {
    const Float spread = spread_of(sums, per_weight);
    const Int better = (sums.zq * sums.zq * best.qq > best.zq * best.zq * spread) & has_spread(sums, spread);
    best.zq = select(better, sums.zq, best.zq);
    best.q = select(better, sums.q, best.q);
    best.qq = select(better, spread, best.qq);
}

// Three candidates: `shift` - apart, shift, shift + apart.
template <bool weighted, int top>
inline void try_shifts(const Range &range, const Float *w, const Float &factor, const Float &shift, float apart,
                       RangeSums &best) {
    const Float zero = broadcast(0.0f), shifts[3] = {shift - apart, shift, shift + apart};
    RangeSums sums[3] = {{zero, zero, zero}, {zero, zero, zero}, {zero, zero, zero}};
    for (int i = 0; i < 32; ++i) {
        const Float scaled = range.x[i] * factor;
        UNROLL for (int s = 0; s < 3; ++s) {
            const Float q = clamp(nearest(scaled + shifts[s]), 0.0f, static_cast<float>(top));
            add<weighted>(sums[s], range.wz[i], w[i], q);
        }
    }
    UNROLL for (int s = 0; s < 3; ++s) keep_better(best, sums[s], range.per_weight);
}

// The scale and minimum for range.x with the least error; the scale is 0 where no candidate has two codes.
template <bool weighted, int top>
inline RangeFit search_range(const Range &range, const Float *w, const RangePlan &plan) {
    const Float zero = broadcast(0.0f);
    RangeSums best = {zero, zero, broadcast(1.0f)};
    for (int c = 0; c < plan.factors; ++c) {
        const float excess = plan.first + plan.step * static_cast<float>(c);
        for (int t = 0; t < plan.triples; ++t) {
            const float off = plan.apart * 1.5f * static_cast<float>(2 * t - plan.triples + 1) - excess * 0.5f;
            try_shifts<weighted, top>(range, w, broadcast(top + excess), broadcast(off), plan.apart, best);
        }
    }
    const Float factor = best.qq * reciprocal(best.zq), shift = best.q * range.per_weight - range.mean * factor;
    for (int c = 0; c < plan.near; ++c) {
        const float more = plan.near_step * 0.5f * static_cast<float>(2 * c - plan.near + 1);
        try_shifts<weighted, top>(range, w, factor + more, shift - more * 0.5f, plan.near_apart, best);
    }
    const Float scale = best.zq / best.qq;
    return {scale, range.mean - scale * best.q * range.per_weight};
}

template <bool weighted> inline void fill(Range &range, const Batch<32> &batch) {
    const Extremes16 found = extremes<weighted>(batch);
    range.low = found.low;
    range.extent = found.high - found.low;
    const Float per_extent = reciprocal(select(range.extent < kNothing, broadcast(0.0f), range.extent));
    Float weight = broadcast(weighted ? 0.0f : 32.0f), total = broadcast(0.0f);
    UNROLL for (int i = 0; i < 32; ++i) {
        range.x[i] = (batch.x[i] - range.low) * per_extent;
        if constexpr (weighted) weight = weight + batch.w[i];
        total = total + times<weighted>(batch.w[i], range.x[i]);
    }
    range.per_weight = broadcast(1.0f) / weight;
    range.mean = total * range.per_weight;
    UNROLL for (int i = 0; i < 32; ++i) range.wz[i] = times<weighted>(batch.w[i], range.x[i] - range.mean);
}

// The codes of a scale and minimum as they are stored, and the scale and minimum that suit these codes better. A
// minimum of more than 64 steps, which float16 rounds by more than 1 % of one, stays; the scale is fitted to it alone.
template <bool weighted, int top>
inline RangeFit refit(const Batch<32> &batch, const RangeFit &stored, const Float &per_weight) {
    const Float zero = broadcast(0.0f), one = broadcast(1.0f), per_step = reciprocal(stored.scale);
    RangeSums sums = {zero, zero, zero};
    Float total = zero;
    UNROLL for (int i = 0; i < 32; ++i) {
        const Float z = batch.x[i] - stored.minimum, wz = times<weighted>(batch.w[i], z);
        total = total + wz;
        add<weighted>(sums, wz, batch.w[i], clamp(nearest(z * per_step), 0.0f, static_cast<float>(top)));
    }
    const Float mean = total * per_weight, spread = spread_of(sums, per_weight);
    const Int empty = sums.qq == 0.0f, coarse = absolute(stored.minimum) > absolute(stored.scale) * 64.0f;
    const Int joint = has_spread(sums, spread) & (coarse == 0);
    const Float apart = select(empty, mean * (1.0f / top), sums.zq / select(empty, one, sums.qq));
    const Float scale = select(joint, (sums.zq - mean * sums.q) / select(joint, spread, one), apart);
    const Float minimum = stored.minimum + (mean - scale * sums.q * per_weight);
    return {scale, select(joint, minimum, stored.minimum)};
}

struct StoredRange {
    Int d, m;
};

// The float16 scale and minimum of each block.
template <bool weighted, int top> inline StoredRange fit_range(const Batch<32> &batch, const RangePlan &plan) {
    Range range;
    fill<weighted>(range, batch);
    RangeFit fit = search_range<weighted, top>(range, batch.w, plan);
    fit.scale = fit.scale * range.extent;
    // a block too narrow for the smallest scale is as good as constant
    fit.minimum = range.low + select(fit.scale < 0x1p-25f, range.mean, fit.minimum) * range.extent;
    StoredRange stored = {to_scale(fit.scale), to_scale(fit.minimum)};
    for (int round = 0; round < plan.rounds; ++round) {
        fit = refit<weighted, top>(batch, {from_half(stored.d), from_half(stored.m)}, range.per_weight);
        stored = {to_scale(fit.scale), to_scale(fit.minimum)};
    }
    return stored;
}

// ---- scale alone: codes in [-128, 128) ----

// The weighted error of codes for a scale of these bits. With importance, none is below -128.
template <bool weighted> inline Float byte_error(const Batch<32> &batch, const Int &bits_of_d) {
    const Float d = from_half(bits_of_d), per_step = broadcast(1.0f) / d;
    Float error = broadcast(0.0f);
    UNROLL for (int i = 0; i < 32; ++i) {
        const Float steps = batch.x[i] * per_step;
        const Float off = steps - smaller(nearest(steps), broadcast(127.0f));
        error = error + times<weighted>(batch.w[i], off) * off;
    }
    return error * d * d;
}

// The float16 scale of each block.
template <bool weighted> inline Int fit_bytes(const Batch<32> &batch, const BytePlan &plan) {
    const Float top = farther(extremes<weighted>(batch));
    const Int rounded = larger(to_scale(absolute(top) * (1.0f / 128.0f)), broadcast(1));
    const Int first = rounded - (from_half(rounded) * 128.49f < absolute(top));  // subnormals round coarsely: not down
    const Int sign = select(top > 0.0f, broadcast(0x8000), broadcast(0));  // the farthest weight gets a negative code
    Int best = first;
    Float least = byte_error<weighted>(batch, first | sign);
    const auto consider = [&](const Int &d) {
        const Float error = byte_error<weighted>(batch, d | sign);
        const Int better = error < least;
        best = select(better, d, best);
        least = select(better, error, least);
    };
    for (int c = 1; c < plan.candidates; ++c) consider(first + plan.stride * c);
    const Int middle = best;
    for (int c = 1; c <= plan.near; ++c) {
        consider(middle + c);
        consider(larger(middle - c, first));
    }
    return select(absolute(top) < kNothing, broadcast(0), best | sign);
}

}  // namespace legacy
}  // namespace
}  // namespace quantpress
