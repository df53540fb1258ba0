// The search for the scales of Q2_K, Q4_K and Q5_K: super-blocks of 256 weights x = d sc q - dmin mn, with integers sc
// and mn for each sub-block, one lane a sub-block.
//
// With codes q and importance w, and sums over a sub-block, let W = sum w, centre c = sum w q / W, curvature
// C = sum w q^2 - c sum w q, and s the scale that suits these codes best. The error with any scale s' and minimum m' is
//
//   C (s - s')^2 + W (mean - c s' + m')^2 + sum w (x - mean)^2 - C s^2
//
// so one pass over the weights says what a choice of codes costs under every scale that the super-block may offer.
// Hence: a few dozen candidates for the codes of each sub-block (ranges that cut off or leave out a little at both
// ends), summed once and kept; a grid of (d, dmin), judged by the best candidate of each sub-block; then alternately
// the candidate and integers of each sub-block that suit (d, dmin) best, and the (d, dmin) that suit those best (least
// squares); at last the same with the exact weights and neighbouring integers. Fitting each sub-block first and
// rounding its scales afterwards, the obvious way, loses the choice between codes that are equally good before they
// are rounded, and that is where most of the error can be saved.
//
// The passes run on integers in float32: weights of 13 bits, importance of 13, chosen so that every product is exact,
// and so that a fused multiply-add gives the bits of a multiplication and an addition.
//
// dmin may be negative: where all weights are positive, the minimum is added. sc is never written as 0: with 1, codes
// of 0 give the same weights, and all can divide by the scale.
#pragma once

#include <iterator>

#include "blocks.hpp"
#include "kernels/batch.hpp"
#include "kernels/k_affine_plans.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace k_affine {

using namespace k_affine_plans;

template <class Type> using SubBlocks = Batch<Type::kWeights>;

template <class Type> constexpr int kSubBlocks = 256 / Type::kWeights;  // of a super-block, a lane each

// As it will be read back, and never 0.
inline Float stored(const Float &scale) {
    const Float rounded = from_half(to_scale(scale));
    return select(rounded == 0.0f, broadcast(kLeast), rounded);
}

// The weights of a sub-block as integers: x = bottom + step * (integer x), w = mass * (integer w), and products w x in
// units of kUnit.
template <class Type> struct Integers {
    Float x[Type::kWeights], w[Type::kWeights], wx[Type::kWeights];
    Float sum_w, sum_wx, step, mass;
    Float mean, weight;  // of the sub-block, in its own units
};

struct Extent {
    Float bottom, range, importance;
};

// The range of the weights that matter, and the largest importance.
template <class Type> inline Extent extent(const SubBlocks<Type> &batch) {
    Float sum_w = broadcast(0.0f), sum_wx = sum_w, spread = sum_w, importance = broadcast(1e-10f);
    UNROLL for (int i = 0; i < Type::kWeights; ++i) {
        sum_w = sum_w + batch.w[i];
        sum_wx = sum_wx + batch.w[i] * batch.x[i];
        importance = larger(importance, batch.w[i]);
    }
    const Float mean = sum_wx / larger(sum_w, broadcast(1e-30f));
    Float part[Type::kWeights];
    UNROLL for (int i = 0; i < Type::kWeights; ++i) {
        const Float off = batch.x[i] - mean;
        part[i] = off * off * batch.w[i];
        spread = spread + part[i];
    }
    const Float matters = spread * kMatters;
    Float bottom = mean, top = mean;
    UNROLL for (int i = 0; i < Type::kWeights; ++i) {
        const Float x = select(part[i] < matters, mean, batch.x[i]);
        bottom = smaller(bottom, x);
        top = larger(top, x);
    }
    return {bottom, top - bottom, importance};
}

template <class Type> inline Integers<Type> integers(const SubBlocks<Type> &batch) {
    const Extent of = extent<Type>(batch);
    const Float range = larger(of.range, broadcast(1e-30f));
    const Float per_x = broadcast(kSteps) / range, per_w = broadcast(kSteps) / of.importance;
    Integers<Type> in;
    in.step = range * (1.0f / kSteps);
    in.mass = of.importance * (1.0f / kSteps);
    in.sum_w = in.sum_wx = broadcast(0.0f);
    UNROLL for (int i = 0; i < Type::kWeights; ++i) {
        in.x[i] = nearest(clamp((batch.x[i] - of.bottom) * per_x, kFarBelow, kFarAbove));
        in.w[i] = larger(nearest(batch.w[i] * per_w), broadcast(1.0f));
        in.wx[i] = nearest(in.w[i] * in.x[i] * (1.0f / kUnit));
        in.sum_w = in.sum_w + in.w[i];
        in.sum_wx = in.sum_wx + in.wx[i];
    }
    in.mean = of.bottom + in.sum_wx * kUnit / in.sum_w * in.step;
    in.weight = in.sum_w * in.mass;
    return in;
}

// What the codes of a candidate cost under any scale and minimum: see the head of this file. gain = C s^2.
struct Fit {
    Float centre, curvature, scale, gain;
};

template <class Type> inline Fit fit(const Integers<Type> &in, const Candidate &candidate, const Float &inverse_w) {
    const Float shift = broadcast(candidate.shift), rate = broadcast(candidate.rate);
    Float sum_q = broadcast(0.0f), sum_qq = sum_q, sum_xq = sum_q;
    UNROLL for (int i = 0; i < Type::kWeights; ++i) {
        const Float rounded = add_product(broadcast(kRound), in.x[i] + shift, rate);
        const Float q = clamp(rounded, kRound, kRound + Type::kTop) - kRound;
        const Float wq = in.w[i] * q;
        sum_q = sum_q + wq;
        sum_qq = add_product(sum_qq, wq, q);
        sum_xq = add_product(sum_xq, in.wx[i], q);
    }
    const Float centre = sum_q * inverse_w, curvature = sum_qq - sum_q * centre;
    const Float slope = (sum_xq - in.sum_wx * centre) * kUnit;
    const Int flat = curvature < 0.25f;  // a single code
    const Float scale = select(flat, broadcast(0.0f), slope / select(flat, broadcast(1.0f), curvature));
    return {centre, curvature * in.mass, scale * in.step, scale * slope * (in.step * in.step * in.mass)};
}

// The scales of a super-block, the integers of its sub-blocks (as Float), and the error less a constant.
struct Scales {
    Float d, dmin, sc, mn, error;
};

inline void keep_better(Scales &best, const Scales &other) {
    const Int better = other.error < best.error;
    best.d = select(better, other.d, best.d);
    best.dmin = select(better, other.dmin, best.dmin);
    best.sc = select(better, other.sc, best.sc);
    best.mn = select(better, other.mn, best.mn);
    best.error = select(better, other.error, best.error);
}

// The integers nearest to the best scale and, with that, to the best minimum.
template <class Type> inline Float rounded_scale(const Fit &fit, const Float &inverse_d) {
    return nearest(clamp(fit.scale * inverse_d, 0.0f, static_cast<float>(Type::kTopScale)));
}
template <class Type> inline Float rounded_minimum(const Float &low, const Float &inverse_dmin) {
    return nearest(clamp(low * inverse_dmin, 0.0f, static_cast<float>(Type::kTopScale)));
}

// top / kMost, top / (kMost - kStep), ... as they will be read back.
template <class Type> inline void spread(const Float &top, int n, float first, Float *scales) {
    for (int i = 0; i < n; ++i) {
        const float levels = Type::kMost - (static_cast<float>(i) + first) * Type::kStep;
        scales[i] = stored(top * (1.0f / levels));
    }
}

// The pair of a grid of (d, dmin) that is best if every sub-block keeps the codes of `fit`.
template <class Type> inline Scales draw(const Integers<Type> &in, const Fit &fit, int n, float first) {
    const Float minimum = fit.centre * fit.scale - in.mean, zero = broadcast(0.0f);
    constexpr int lanes = kSubBlocks<Type>;
    const Float below = largest_over<lanes>(minimum), above = largest_over<lanes>(zero - minimum);
    Float d[kMostScales], dmin[kMostScales], per_dmin[kMostScales];
    spread<Type>(larger(largest_over<lanes>(fit.scale), zero), n, first, d);
    spread<Type>(select(above > below, zero - above, below), n, first, dmin);
    for (int k = 0; k < n; ++k) per_dmin[k] = broadcast(1.0f) / dmin[k];
    Scales best{broadcast(kLeast), broadcast(kLeast), zero, zero, broadcast(3e38f)};
    for (int i = 0; i < n; ++i) {
        const Float scale = rounded_scale<Type>(fit, broadcast(1.0f) / d[i]) * d[i];
        const Float off = scale - fit.scale, error = fit.curvature * off * off, low = fit.centre * scale - in.mean;
        for (int k = 0; k < n; ++k) {
            const Float rest = low - rounded_minimum<Type>(low, per_dmin[k]) * dmin[k];
            const Float sum = sum_over<lanes>(error + in.weight * rest * rest);
            const Int better = sum < best.error;
            best.error = select(better, sum, best.error);
            best.d = select(better, d[i], best.d);
            best.dmin = select(better, dmin[k], best.dmin);
        }
    }
    return best;
}

// Sets the integers and the error for (d, dmin), and returns the candidate that each sub-block has then.
template <class Type> inline Fit choose(const Integers<Type> &in, const Fit *fits, int n, Scales &scales) {
    const Float per_d = broadcast(1.0f) / scales.d, per_dmin = broadcast(1.0f) / scales.dmin;
    Fit best = fits[0];
    Float least = broadcast(3e38f);
    for (int k = 0; k < n; ++k) {
        const Fit &fit = fits[k];
        const Float sc = rounded_scale<Type>(fit, per_d), scale = sc * scales.d;
        const Float low = fit.centre * scale - in.mean, mn = rounded_minimum<Type>(low, per_dmin);
        const Float off = scale - fit.scale, rest = low - mn * scales.dmin;
        const Float error = fit.curvature * off * off + in.weight * rest * rest - fit.gain;
        const Int better = error < least;
        least = select(better, error, least);
        scales.sc = select(better, sc, scales.sc);
        scales.mn = select(better, mn, scales.mn);
        best.centre = select(better, fit.centre, best.centre);
        best.curvature = select(better, fit.curvature, best.curvature);
        best.scale = select(better, fit.scale, best.scale);
    }
    scales.error = sum_over<kSubBlocks<Type>>(least);
    return best;
}

// What least squares needs of a sub-block: sums of w q, w q^2, w x q, w and w x.
struct Moments {
    Float q, qq, xq, w, x;
};

// The (d, dmin) that suit codes and integers best, rounded; as before where that is no positive d.
template <class Type> inline void refit(const Moments &sums, Scales &scales) {
    constexpr int lanes = kSubBlocks<Type>;
    const Float dd = sum_over<lanes>(scales.sc * scales.sc * sums.qq);
    const Float dm = sum_over<lanes>(scales.sc * scales.mn * sums.q);
    const Float mm = sum_over<lanes>(scales.mn * scales.mn * sums.w);
    const Float dx = sum_over<lanes>(scales.sc * sums.xq), mx = sum_over<lanes>(scales.mn * sums.x);
    const Float determinant = dd * mm - dm * dm;
    const Int solvable = determinant > dd * mm * 1e-5f;
    const Float inverse = broadcast(1.0f) / select(solvable, determinant, broadcast(1.0f));
    const Float d = (dx * mm - mx * dm) * inverse, dmin = (dm * dx - dd * mx) * inverse;
    const Int usable = solvable & (d > 0.0f);
    scales.d = stored(select(usable, d, scales.d));
    scales.dmin = stored(select(usable, dmin, scales.dmin));
}

// Draws (d, dmin) and alternates between candidates and scales; the best of all.
template <class Type>
inline Scales search(const Integers<Type> &in, const Fit *fits, const Fit &best_fit, const Plan &plan) {
    Scales best{};
    for (int k = 0; k < plan.draws; ++k) {
        const float first = static_cast<float>(k) / static_cast<float>(plan.draws);
        Scales scales = draw<Type>(in, best_fit, plan.scales, first);
        for (int round = 0; round < plan.rounds; ++round) {
            const Fit fit = choose<Type>(in, fits, plan.candidates, scales);
            if (k + round == 0) best = scales;
            keep_better(best, scales);
            if (round + 1 == plan.rounds) break;
            const Float q = in.weight * fit.centre, x = in.weight * in.mean;
            const Float qq = fit.curvature + q * fit.centre, xq = fit.scale * fit.curvature + q * in.mean;
            refit<Type>({q, qq, xq, in.weight, x}, scales);
        }
    }
    best.sc = larger(best.sc, broadcast(1.0f));  // the exact weights will all have the code 0 that 0 stood for
    return best;
}

// The exact weights x as codes, not yet rounded.
inline Float code(const Float &x, const Float &low, const Float &inverse) { return (x - low) * inverse; }

template <class Type> inline Float rounded_code(const Float &code) {
    return nearest(clamp(code, 0.0f, static_cast<float>(Type::kTop)));
}

template <class Type> inline Moments moments(const SubBlocks<Type> &batch, const Scales &scales) {
    const Float low = broadcast(0.0f) - scales.mn * scales.dmin, inverse = broadcast(1.0f) / (scales.sc * scales.d);
    const Float zero = broadcast(0.0f);
    Moments sums{zero, zero, zero, zero, zero};
    UNROLL for (int i = 0; i < Type::kWeights; ++i) {
        const Float q = rounded_code<Type>(code(batch.x[i], low, inverse)), wq = batch.w[i] * q;
        sums.q = sums.q + wq;
        sums.qq = sums.qq + wq * q;
        sums.xq = sums.xq + wq * batch.x[i];
        sums.w = sums.w + batch.w[i];
        sums.x = sums.x + batch.w[i] * batch.x[i];
    }
    return sums;
}

// The error of a sub-block as it will be decoded.
template <class Type> inline Float exact_error(const SubBlocks<Type> &batch, const Float &low, const Float &scale) {
    const Float inverse = broadcast(1.0f) / scale;
    Float sum = broadcast(0.0f);
    UNROLL for (int i = 0; i < Type::kWeights; ++i) {
        const Float exact = code(batch.x[i], low, inverse), off = exact - rounded_code<Type>(exact);
        sum = sum + off * off * batch.w[i];
    }
    return sum * (scale * scale);
}

// With the codes of the exact weights: (d, dmin) again, then sc and its neighbours, each with the minimum that keeps
// the middle of the sub-block where it is.
template <class Type> inline void refine(const SubBlocks<Type> &batch, Scales &scales) {
    const Moments sums = moments<Type>(batch, scales);
    refit<Type>(sums, scales);
    const Float centre = sums.q / larger(sums.w, broadcast(1e-30f)) * (scales.d / scales.dmin);
    const Float sc = scales.sc, mn = scales.mn;
    scales.error = exact_error<Type>(batch, broadcast(0.0f) - mn * scales.dmin, sc * scales.d);
    for (const float change : {-1.0f, 1.0f}) {
        const Float near = clamp(sc + change, 1.0f, static_cast<float>(Type::kTopScale));
        const Float minimum = rounded_minimum<Type>(mn + centre * (near - sc), broadcast(1.0f));
        const Float error = exact_error<Type>(batch, broadcast(0.0f) - minimum * scales.dmin, near * scales.d);
        keep_better(scales, {scales.d, scales.dmin, near, minimum, error});
    }
}

template <class Type> inline Scales best_scales(const SubBlocks<Type> &batch, const Plan &plan) {
    constexpr auto &candidates = kCandidates<Type>.list;
    const Integers<Type> in = integers<Type>(batch);
    const Float inverse_w = broadcast(1.0f) / in.sum_w;
    Fit fits[std::size(candidates)];
    Fit best = fits[0] = fit<Type>(in, candidates[0], inverse_w);
    for (int k = 1; k < plan.candidates; ++k) {
        fits[k] = fit<Type>(in, candidates[k], inverse_w);
        const Int better = fits[k].gain > best.gain;
        best.centre = select(better, fits[k].centre, best.centre);
        best.curvature = select(better, fits[k].curvature, best.curvature);
        best.scale = select(better, fits[k].scale, best.scale);
        best.gain = select(better, fits[k].gain, best.gain);
    }
    Scales scales = search<Type>(in, fits, best, plan);
    for (int round = 0; round < plan.exact; ++round) refine<Type>(batch, scales);
    return scales;
}

}  // namespace k_affine
}  // namespace
}  // namespace quantpress
