// The search for the scales of super-blocks without a minimum, x = d s q: Q3_K (6 bits of s, 3 of q) and Q6_K (8 and
// 6 bits).
//
// A lane is a sub-block of 16, a vector the super-block. Given d, the sub-blocks are independent, and each has only as
// many scales as there are integers s: the search goes through those near its best one, with their true error
//
//   sum w (x - t q)^2 = t^2 sum w (x / t - q)^2,    t = d s, with d as it is stored
//
// and d is then fitted to the integers found, sum w x s q / sum w (s q)^2, which cannot make it worse: of all float16
// the one nearest to the minimum of a parabola has the least error.
//
// What differs is how d comes about. At 6 bits it hardly matters, as long as the scales have many steps: a sub-block
// has a lottery of rounding errors, and the best of 20 scales has a quarter less error than the first. At 3 bits scales
// differ more than their roundings, and the steps of s are coarse. There the best scale t of each sub-block, and the
// best one with the codes mirrored (-4 ... 3 has no positive counterpart for -4), are found first, from the sums of
//
//   sum w (x - t q)^2 = const + a (t - b / a)^2 - b^2 / a,    a = sum w q^2, b = sum w x q
//
// for a few codes q, and d is the one on whose grid of d s these parabolas are lowest. Trying several d with all their
// integers and codes instead is only 0.4 % better, for many times the work.
#pragma once

#include "kernels/batch.hpp"
#include "kernels/k_symmetric_plans.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace k_symmetric {

using namespace k_symmetric_plans;

constexpr float kWorst = 3e38f;

struct Fit {
    Int d;    // a float16, the same in every lane
    Float s;  // an integer
};

// The code in [-half, half) of x / t.
template <int half> inline Float code(const Float &x) {
    constexpr float kHalf = half;
    return nearest(clamp(x, -kHalf, kHalf - 1));
}

template <int half> inline Float squared_error(const Batch<16> &batch, const Float &t) {
    const Float per_t = reciprocal(t);
    Float sum = broadcast(0.0f);
    UNROLL for (int i = 0; i < 16; ++i) {
        const Float x = batch.x[i] * per_t, r = x - code<half>(x);
        sum = sum + batch.w[i] * (r * r);
    }
    return sum * (t * t);
}

// The best d for these integers and the codes that they have with this d.
template <int half> inline Int refit(const Batch<16> &batch, const Fit &fit) {
    const Float per_t = reciprocal(from_half(fit.d) * fit.s);
    Float a = broadcast(0.0f), b = broadcast(0.0f);
    UNROLL for (int i = 0; i < 16; ++i) {
        const Float q = code<half>(batch.x[i] * per_t), wq = batch.w[i] * q;
        a = a + wq * q;
        b = b + wq * batch.x[i];
    }
    const Float squares = sum_over<kLanes>(a * (fit.s * fit.s)), products = sum_over<kLanes>(b * fit.s);
    const Int none = squares < 1e-30f;
    return select(none, fit.d, to_scale(products / select(none, broadcast(1.0f), squares)));
}

// The best of the values offered, the first where errors are equal.
struct Best {
    Float value, error;

    void offer(const Float &other, const Float &its_error) {
        const Int better = its_error < error;
        value = select(better, other, value);
        error = select(better, its_error, error);
    }
};

// ---- Q3_K ----

// The error of a sub-block near its best scale t: curvature (x - t)^2 + excess.
struct Parabola {
    Float t, curvature, excess;
};

struct Sums {
    Float a, b;

    void add(const Float &x, const Float &w, const Float &q) {
        const Float wq = w * q;
        a = a + wq * q;
        b = b + wq * x;
    }
    void keep_better(const Sums &other) {
        const Int better = other.b * other.b * a > b * b * other.a;
        a = select(better, other.a, a);
        b = select(better, other.b, b);
    }
};

// The best scale of each sub-block, and that of its mirror image, [1], for codes of the other sign.
inline void scan(const Batch<16> &batch, const PlanQ3 &plan, Parabola *best) {
    Float top = broadcast(0.0f), most = broadcast(0.0f), x[16], w[16];
    UNROLL for (int i = 0; i < 16; ++i) {
        top = larger(top, absolute(batch.x[i]));
        most = larger(most, batch.w[i]);
    }
    const Float per_top = reciprocal(top), per_most = reciprocal(most);
    UNROLL for (int i = 0; i < 16; ++i) {
        x[i] = batch.x[i] * per_top;
        w[i] = batch.w[i] * per_most;
    }
    const Float zero = broadcast(0.0f), one = broadcast(1.0f);
    Sums upright = {one, zero}, mirrored = {one, zero};
    float m = plan.first;
    for (int k = 0; k < plan.scans; ++k, m *= plan.ratio) {
        Sums sums = {zero, zero}, others = {zero, zero};
        UNROLL for (int i = 0; i < 16; ++i) {
            const Float q = nearest(x[i] * m);
            sums.add(x[i], w[i], clamp(q, -4.0f, 3.0f));
            others.add(x[i], w[i], clamp(q, -3.0f, 4.0f));
        }
        upright.keep_better(sums);
        mirrored.keep_better(others);
    }
    // where nothing weighs anything, -4 is the largest
    const Float t = select(upright.b == 0.0f, broadcast(0.25f), upright.b / upright.a);
    const Float u = select(mirrored.b == 0.0f, broadcast(0.25f), mirrored.b / mirrored.a);
    const Float gain = upright.b * t, other = mirrored.b * u, unit = most * (top * top);
    best[0] = {t * top, upright.a * most, (larger(gain, other) - gain) * unit};
    best[1] = {zero - u * top, mirrored.a * most, (larger(gain, other) - other) * unit};
}

inline Float integer_q3(const Float &s) { return nearest(clamp(s, -32.0f, 31.0f)); }

// Candidates of d side by side, on whose grids the longest scale is -23, -24, ... or, in every second vector, 23, 24,
// ... (beyond 31, the two differ: the integers have no positive counterpart for -32).
inline Float choose_scale(const Parabola *best, int vectors) {
    const Float zero = broadcast(0.0f);
    const Float t = select(best[1].excess < best[0].excess, best[1].t, best[0].t);
    const Float high = largest_over<kLanes>(t), low = largest_over<kLanes>(zero - t);
    const Float longest = select(high < low, low, zero - high);
    float ts[2][kLanes], curvatures[2][kLanes], excesses[2][kLanes];
    for (int k = 0; k < 2; ++k) {
        store(ts[k], best[k].t);
        store(curvatures[k], best[k].curvature);
        store(excesses[k], best[k].excess);
    }
    Best found = {zero, broadcast(kWorst)};
    for (int v = 0; v < vectors; ++v) {
        const Float steps = convert<float>(lane_numbers()) + (23.0f + 0.5f * static_cast<float>(v / 2));
        const Float d = from_half(to_scale((v % 2 ? zero - longest : longest) / steps)), per_d = reciprocal(d);
        Float sum = zero;
        for (int b = 0; b < kLanes; ++b) {
            Float error[2];
            UNROLL for (int k = 0; k < 2; ++k) {
                const Float r = broadcast(ts[k][b]) - d * integer_q3(per_d * ts[k][b]);
                error[k] = r * r * curvatures[k][b] + excesses[k][b];
            }
            sum = sum + smaller(error[0], error[1]);
        }
        found.offer(d, sum);
    }
    const Int least = found.error == smallest_over<kLanes>(found.error);
    const Float first = smallest_over<kLanes>(select(least, convert<float>(lane_numbers()), broadcast(kLanes - 1.0f)));
    return lookup(found.value, convert<std::int32_t>(first));
}

// The integer with the lower of the two parabolas.
inline Float first_integer(const Parabola *best, const Float &d) {
    const Float per_d = reciprocal(d);
    Best found = {broadcast(0.0f), broadcast(kWorst)};
    for (int k = 0; k < 2; ++k) {
        const Float s = integer_q3(best[k].t * per_d), r = best[k].t - d * s;
        found.offer(s, r * r * best[k].curvature + best[k].excess);
    }
    return found.value;
}

// The best of `count` integers around this one.
inline Float choose_near(const Batch<16> &batch, const Float &d, const Float &middle, int count) {
    Best found = {middle, broadcast(kWorst)};
    for (int k = 0; k < count; ++k) {
        const Float s = clamp(middle + static_cast<float>(k % 2 ? -(k + 1) / 2 : k / 2), -32.0f, 31.0f);
        // at 0 the error cannot be taken from x / t; 1 does as well, as all codes may be 0
        const Float usable = select(s == 0.0f, broadcast(1.0f), s);
        found.offer(usable, squared_error<4>(batch, d * usable));
    }
    return found.value;
}

inline Fit fit_q3(const Batch<16> &batch, const PlanQ3 &plan) {
    Parabola best[2];
    scan(batch, plan, best);
    const Float d = choose_scale(best, plan.scales);
    Fit fit = {to_scale(d), first_integer(best, d)};
    for (int round = 0; round < plan.rounds; ++round) {
        fit.s = choose_near(batch, from_half(fit.d), fit.s, plan.integers);
        fit.d = refit<4>(batch, fit);
    }
    return fit;
}

// ---- Q6_K ----

// squared_error<32>() where no code is clipped.
inline Float error_unclipped(const Batch<16> &batch, const Float &t) {
    const Float per_t = reciprocal(t);
    Float sum = broadcast(0.0f);
    UNROLL for (int i = 0; i < 16; ++i) {
        const Float r = offset_from_nearest(batch.x[i] * per_t);
        sum = sum + batch.w[i] * (r * r);
    }
    return sum * (t * t);
}

// The best integers for this d, which have this sign; from `least` on nothing is clipped.
inline Float choose_integers(const Batch<16> &batch, const PlanQ6 &plan, const Float &d, const Float &least,
                             const Float &sign) {
    const Float start = nearest(clamp(least + 0.5f, 1.0f, 127.0f));
    Best found = {start, broadcast(kWorst)};
    for (int k = 0; k < plan.unclipped; ++k) {
        const Float s = smaller(start + static_cast<float>(k), broadcast(127.0f));
        const Float error = error_unclipped(batch, d * s * sign);
        found.offer(s, select(s < least, broadcast(kWorst), error));
    }
    for (int k = 1; k <= plan.clipped; ++k) {
        const Float s = larger(start - static_cast<float>(k), broadcast(1.0f));
        found.offer(s, squared_error<32>(batch, d * s * sign));
    }
    return found.value * sign;
}

inline Fit fit_q6(const Batch<16> &batch, const PlanQ6 &plan) {
    const Float zero = broadcast(0.0f);
    Float high = zero, low = zero;
    UNROLL for (int i = 0; i < 16; ++i) {
        high = larger(high, batch.x[i]);
        low = larger(low, zero - batch.x[i]);
    }
    // the larger side goes to -32; just below half a code further, the rounding still stays there
    const Float sign = select(high > low, broadcast(-1.0f), broadcast(1.0f));
    const Float least = larger(larger(high, low) * (1 / 32.49f), smaller(high, low) * (1 / 31.49f));
    const Float largest = largest_over<kLanes>(least);
    Fit fit = {to_scale(largest * (1 / plan.steps)), zero};
    fit.d = select(from_half(fit.d) * 127.0f < largest, fit.d + 1, fit.d);  // a coarse float16 may be too small
    for (int round = 0; round < plan.rounds; ++round) {
        const Float d = from_half(fit.d);
        fit.s = choose_integers(batch, plan, d, least * reciprocal(d), sign);
        fit.d = refit<32>(batch, fit);
    }
    return fit;
}

}  // namespace k_symmetric
}  // namespace
}  // namespace quantpress
