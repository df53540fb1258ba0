// The search of kernels/k_affine.hpp, which says what is done and why, for one super-block.
#include "reference/k_affine.hpp"

#include <algorithm>
#include <array>
#include <iterator>

#include "kernels/k_affine_plans.hpp"
#include "reference/scalar.hpp"

namespace quantpress::reference {
namespace {

using namespace k_affine_plans;

template <class Type> constexpr int kCount = 256 / Type::kWeights;  // sub-blocks

template <class Type> using Each = std::array<float, kCount<Type>>;

template <class Type> struct SubBlock {
    float x[Type::kWeights], w[Type::kWeights];
};

template <class Type> using SuperBlock = std::array<SubBlock<Type>, kCount<Type>>;

// Halves added to each other: the order of the sums of the kernels.
template <class Type> float total(Each<Type> v) {
    for (int half = kCount<Type> / 2; half; half /= 2)
        for (int b = 0; b < half; ++b) v[b] += v[b + half];
    return v[0];
}

float stored(float scale) {
    const float rounded = from_half(to_scale(scale));
    return rounded == 0.0f ? kLeast : rounded;
}

template <class Type> struct Integers {
    float x[Type::kWeights], w[Type::kWeights], wx[Type::kWeights];
    float sum_w, sum_wx, step, mass, mean, weight;
};

template <class Type> Integers<Type> integers(const SubBlock<Type> &from) {
    constexpr int n = Type::kWeights;
    float sum_w = 0, sum_wx = 0, spread = 0, importance = 1e-10f, part[n];
    for (int i = 0; i < n; ++i) {
        sum_w += from.w[i];
        sum_wx += from.w[i] * from.x[i];
        importance = std::max(importance, from.w[i]);
    }
    const float mean = sum_wx / std::max(sum_w, 1e-30f);
    for (int i = 0; i < n; ++i) {
        const float off = from.x[i] - mean;
        part[i] = off * off * from.w[i];
        spread += part[i];
    }
    float bottom = mean, top = mean;
    for (int i = 0; i < n; ++i) {
        if (part[i] < spread * kMatters) continue;
        bottom = std::min(bottom, from.x[i]);
        top = std::max(top, from.x[i]);
    }
    const float range = std::max(top - bottom, 1e-30f), per_x = kSteps / range, per_w = kSteps / importance;
    Integers<Type> in{};
    in.step = range * (1.0f / kSteps);
    in.mass = importance * (1.0f / kSteps);
    for (int i = 0; i < n; ++i) {
        in.x[i] = nearest(clamp((from.x[i] - bottom) * per_x, kFarBelow, kFarAbove));
        in.w[i] = std::max(nearest(from.w[i] * per_w), 1.0f);
        in.wx[i] = nearest(in.w[i] * in.x[i] * (1.0f / kUnit));
        in.sum_w += in.w[i];
        in.sum_wx += in.wx[i];
    }
    in.mean = bottom + in.sum_wx * kUnit / in.sum_w * in.step;
    in.weight = in.sum_w * in.mass;
    return in;
}

struct Fit {
    float centre, curvature, scale, gain;
};

template <class Type> Fit fit(const Integers<Type> &in, const Candidate &candidate) {
    float sum_q = 0, sum_qq = 0, sum_xq = 0;
    for (int i = 0; i < Type::kWeights; ++i) {
        const float q = clamp(nearest((in.x[i] + candidate.shift) * candidate.rate), 0.0f, Type::kTop);
        sum_q += in.w[i] * q;
        sum_qq += in.w[i] * q * q;
        sum_xq += in.wx[i] * q;
    }
    const float centre = sum_q * (1.0f / in.sum_w), curvature = sum_qq - sum_q * centre;
    const float slope = (sum_xq - in.sum_wx * centre) * kUnit;
    const float scale = curvature < 0.25f ? 0.0f : slope / curvature;
    return {centre, curvature * in.mass, scale * in.step, scale * slope * (in.step * in.step * in.mass)};
}

// The sub-blocks on integers, the candidates of each, and the best of them before anything is rounded.
template <class Type> struct Fits {
    std::array<Integers<Type>, kCount<Type>> in;
    std::array<std::array<Fit, std::size(Type::kRanges)>, kCount<Type>> fits;
    std::array<Fit, kCount<Type>> best;

    Fits(const SuperBlock<Type> &from, int n) {
        for (int b = 0; b < kCount<Type>; ++b) {
            in[b] = integers<Type>(from[b]);
            for (int k = 0; k < n; ++k) fits[b][k] = fit<Type>(in[b], kCandidates<Type>.list[k]);
            const auto less = [](const Fit &a, const Fit &b) { return a.gain < b.gain; };
            best[b] = *std::max_element(fits[b].begin(), fits[b].begin() + n, less);
        }
    }
};

template <class Type> struct Scales {
    float d, dmin, error;
    Each<Type> sc, mn;
};

template <class Type> float rounded(float value) { return nearest(clamp(value, 0.0f, Type::kTopScale)); }

template <class Type> Scales<Type> draw(const Fits<Type> &from, int n, float first) {
    float top = 0.0f, below = -3e38f, above = -3e38f, d[kMostScales], dmin[kMostScales];
    for (int b = 0; b < kCount<Type>; ++b) {
        const float minimum = from.best[b].centre * from.best[b].scale - from.in[b].mean;
        top = std::max(top, from.best[b].scale);
        below = std::max(below, minimum);
        above = std::max(above, -minimum);
    }
    for (int i = 0; i < n; ++i) {
        const float levels = Type::kMost - (static_cast<float>(i) + first) * Type::kStep;
        d[i] = stored(top * (1.0f / levels));
        dmin[i] = stored((above > below ? -above : below) * (1.0f / levels));
    }
    Scales<Type> best{kLeast, kLeast, 3e38f, {}, {}};
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < n; ++k) {
            Each<Type> error;
            for (int b = 0; b < kCount<Type>; ++b) {
                const Fit &fit = from.best[b];
                const float scale = rounded<Type>(fit.scale * (1.0f / d[i])) * d[i], off = scale - fit.scale;
                const float low = fit.centre * scale - from.in[b].mean;
                const float rest = low - rounded<Type>(low * (1.0f / dmin[k])) * dmin[k];
                error[b] = fit.curvature * off * off + from.in[b].weight * rest * rest;
            }
            const float sum = total<Type>(error);
            if (sum < best.error) best = {d[i], dmin[k], sum, {}, {}};
        }
    }
    return best;
}

// Sets the integers and the error for (d, dmin), and returns the candidate that each sub-block has then.
template <class Type>
std::array<Fit, kCount<Type>> choose(const Fits<Type> &from, int n, Scales<Type> &scales) {
    std::array<Fit, kCount<Type>> best;
    Each<Type> least;
    for (int b = 0; b < kCount<Type>; ++b) {
        least[b] = 3e38f;
        for (int k = 0; k < n; ++k) {
            const Fit &fit = from.fits[b][k];
            const float sc = rounded<Type>(fit.scale * (1.0f / scales.d)), scale = sc * scales.d;
            const float low = fit.centre * scale - from.in[b].mean, mn = rounded<Type>(low * (1.0f / scales.dmin));
            const float off = scale - fit.scale, rest = low - mn * scales.dmin;
            const float error = fit.curvature * off * off + from.in[b].weight * rest * rest - fit.gain;
            if (!(error < least[b])) continue;
            least[b] = error;
            scales.sc[b] = sc;
            scales.mn[b] = mn;
            best[b] = fit;
        }
    }
    scales.error = total<Type>(least);
    return best;
}

struct Moments {
    float q, qq, xq, w, x;
};

template <class Type> void refit(const std::array<Moments, kCount<Type>> &sums, Scales<Type> &scales) {
    Each<Type> dd, dm, mm, dx, mx;
    for (int b = 0; b < kCount<Type>; ++b) {
        const float sc = scales.sc[b], mn = scales.mn[b];
        dd[b] = sc * sc * sums[b].qq;
        dm[b] = sc * mn * sums[b].q;
        mm[b] = mn * mn * sums[b].w;
        dx[b] = sc * sums[b].xq;
        mx[b] = mn * sums[b].x;
    }
    const float a = total<Type>(dd), b = total<Type>(dm), c = total<Type>(mm), e = total<Type>(dx), f = total<Type>(mx);
    const float determinant = a * c - b * b;
    const bool solvable = determinant > a * c * 1e-5f;
    const float inverse = 1.0f / (solvable ? determinant : 1.0f);
    const float d = (e * c - f * b) * inverse, dmin = (b * e - a * f) * inverse;
    const bool usable = solvable && d > 0.0f;
    scales.d = stored(usable ? d : scales.d);
    scales.dmin = stored(usable ? dmin : scales.dmin);
}

template <class Type> Scales<Type> search(const Fits<Type> &from, const Plan &plan) {
    Scales<Type> best{};
    for (int k = 0; k < plan.draws; ++k) {
        Scales<Type> scales = draw(from, plan.scales, static_cast<float>(k) / static_cast<float>(plan.draws));
        for (int round = 0; round < plan.rounds; ++round) {
            const std::array<Fit, kCount<Type>> fits = choose(from, plan.candidates, scales);
            if (k + round == 0 || scales.error < best.error) best = scales;
            if (round + 1 == plan.rounds) break;
            std::array<Moments, kCount<Type>> sums;
            for (int b = 0; b < kCount<Type>; ++b) {
                const Fit &fit = fits[b];
                const float w = from.in[b].weight, mean = from.in[b].mean, q = w * fit.centre;
                sums[b] = {q, fit.curvature + q * fit.centre, fit.scale * fit.curvature + q * mean, w, w * mean};
            }
            refit(sums, scales);
        }
    }
    for (float &sc : best.sc) sc = std::max(sc, 1.0f);
    return best;
}

template <class Type> float rounded_code(float code) { return nearest(clamp(code, 0.0f, Type::kTop)); }

template <class Type> Moments moments(const SubBlock<Type> &from, float low, float scale) {
    Moments sums{};
    for (int i = 0; i < Type::kWeights; ++i) {
        const float q = rounded_code<Type>((from.x[i] - low) * (1.0f / scale)), wq = from.w[i] * q;
        sums.q += wq;
        sums.qq += wq * q;
        sums.xq += wq * from.x[i];
        sums.w += from.w[i];
        sums.x += from.w[i] * from.x[i];
    }
    return sums;
}

template <class Type> float exact_error(const SubBlock<Type> &from, float low, float scale) {
    float sum = 0;
    for (int i = 0; i < Type::kWeights; ++i) {
        const float code = (from.x[i] - low) * (1.0f / scale), off = code - rounded_code<Type>(code);
        sum += off * off * from.w[i];
    }
    return sum * (scale * scale);
}

template <class Type> void refine(const SuperBlock<Type> &from, Scales<Type> &scales) {
    std::array<Moments, kCount<Type>> sums;
    for (int b = 0; b < kCount<Type>; ++b)
        sums[b] = moments<Type>(from[b], -(scales.mn[b] * scales.dmin), scales.sc[b] * scales.d);
    refit(sums, scales);
    for (int b = 0; b < kCount<Type>; ++b) {
        const float centre = sums[b].q / std::max(sums[b].w, 1e-30f) * (scales.d / scales.dmin);
        const float sc = scales.sc[b], mn = scales.mn[b];
        float least = exact_error<Type>(from[b], -(mn * scales.dmin), sc * scales.d);
        for (const float change : {-1.0f, 1.0f}) {
            const float near = clamp(sc + change, 1.0f, Type::kTopScale);
            const float minimum = rounded<Type>(mn + centre * (near - sc));
            const float error = exact_error<Type>(from[b], -(minimum * scales.dmin), near * scales.d);
            if (!(error < least)) continue;
            least = error;
            scales.sc[b] = near;
            scales.mn[b] = minimum;
        }
    }
}

// A super-block as integers, weight after weight.
struct Encoded {
    Half d, dmin;
    int sc[16], mn[16], q[256];
};

template <class Type> Encoded encoded(const SuperBlock<Type> &from, const Plan &plan) {
    Scales<Type> scales = search(Fits<Type>(from, plan.candidates), plan);
    for (int round = 0; round < plan.exact; ++round) refine(from, scales);
    Encoded out{to_scale(scales.d), to_scale(scales.dmin), {}, {}, {}};
    for (int i = 0; i < 256; ++i) {
        const int b = i / Type::kWeights;
        const float low = -(scales.mn[b] * scales.dmin), inverse = 1.0f / (scales.sc[b] * scales.d);
        out.sc[b] = static_cast<int>(scales.sc[b]);
        out.mn[b] = static_cast<int>(scales.mn[b]);
        out.q[i] = static_cast<int>(rounded_code<Type>((from[b].x[i % Type::kWeights] - low) * inverse));
    }
    return out;
}

template <class Type, class Block> void encode(const Rows &rows, Effort effort, std::uint8_t *out) {
    for (std::size_t k = 0; k < rows.rows * rows.cols / 256; ++k) {
        float w[256];
        normalise(importance_at(rows, 256 * k), 256, w);
        SuperBlock<Type> from;
        for (int i = 0; i < 256; ++i) {
            SubBlock<Type> &b = from[i / Type::kWeights];
            b.x[i % Type::kWeights] = rows.x[256 * k + i];
            b.w[i % Type::kWeights] = w[i];
        }
        Block block{};
        pack(encoded<Type>(from, Type::kPlans[static_cast<int>(effort)]), block);
        put(out, k, block);
    }
}

void pack(const Encoded &from, Q2_K &block) {
    block.d = from.d;
    block.dmin = from.dmin;
    for (int b = 0; b < 16; ++b) block.scales[b] = static_cast<std::uint8_t>(from.sc[b] | from.mn[b] << 4);
    for (int i = 0; i < 256; ++i) block.qs[i / 128 * 32 + i % 32] |= from.q[i] << i / 32 % 4 * 2;
}

// What Q4_K and Q5_K have in common.
template <class Block> void pack_most(const Encoded &from, Block &block) {
    block.d = from.d;
    block.dmin = from.dmin;
    for (int b = 0; b < 4; ++b) {
        block.scales[b] = static_cast<std::uint8_t>(from.sc[b] | from.sc[4 + b] >> 4 << 6);
        block.scales[4 + b] = static_cast<std::uint8_t>(from.mn[b] | from.mn[4 + b] >> 4 << 6);
        block.scales[8 + b] = static_cast<std::uint8_t>((from.sc[4 + b] & 15) | (from.mn[4 + b] & 15) << 4);
    }
    for (int i = 0; i < 256; ++i) block.qs[i / 64 * 32 + i % 32] |= (from.q[i] & 15) << i / 32 % 2 * 4;
}

void pack(const Encoded &from, Q4_K &block) { pack_most(from, block); }

void pack(const Encoded &from, Q5_K &block) {
    pack_most(from, block);
    for (int i = 0; i < 256; ++i) block.qh[i % 32] |= from.q[i] >> 4 << i / 32;
}

}  // namespace

void encode_q2_k(const Rows &rows, Effort effort, std::uint8_t *out) { encode<Q2, Q2_K>(rows, effort, out); }
void encode_q4_k(const Rows &rows, Effort effort, std::uint8_t *out) { encode<Q4, Q4_K>(rows, effort, out); }
void encode_q5_k(const Rows &rows, Effort effort, std::uint8_t *out) { encode<Q5, Q5_K>(rows, effort, out); }

}  // namespace quantpress::reference
