// The searches of kernels/legacy_search.hpp, whose comments say why, for one block of 32 at a time.
#include "reference/legacy.hpp"

#include "kernels/legacy_plans.hpp"
#include "reference/scalar.hpp"

namespace quantpress::reference {
namespace {

using namespace legacy_plans;

constexpr float kNothing = 1e-20f;

float inverse(float x) { return x == 0.0f ? 0.0f : 1.0f / x; }

struct Span {
    float low, high;  // over the weights with importance
    float farther() const { return std::fabs(low) > std::fabs(high) ? low : high; }
};

Span span(const float *x, const float *w) {
    Span found = {3e38f, -3e38f};
    for (int i = 0; i < 32; ++i) {
        if (w[i] > 0.0f && x[i] < found.low) found.low = x[i];
        if (w[i] > 0.0f && x[i] > found.high) found.high = x[i];
    }
    return found;
}

// ---- scale alone ----

struct ScaleSums {
    float xq = 0.0f, qq = 0.0f;

    void add(float x, float w, float q) {
        const float wq = w * q;
        xq += wq * x;
        qq += wq * q;
    }
};

void keep_better(ScaleSums &best, const ScaleSums &sums) {
    if (sums.xq * sums.xq * best.qq > best.xq * best.xq * sums.qq) best = sums;
}

float search_scale(const float *x, const float *w, float half, const ScalePlan &plan) {
    ScaleSums best = {0.0f, 1.0f};
    for (int c = 0; c < plan.candidates; ++c) {
        const float factor = half + plan.first + plan.step * static_cast<float>(c);
        ScaleSums sums, mirrored;
        for (int i = 0; i < 32; ++i) {
            const float q = nearest(x[i] * factor);
            sums.add(x[i], w[i], clamp(q, -half, half - 1.0f));
            mirrored.add(x[i], w[i], clamp(q, 1.0f - half, half));
        }
        mirrored.xq = -mirrored.xq;
        keep_better(best, sums);
        if (plan.both) keep_better(best, mirrored);
    }
    return best.xq / best.qq;
}

Half fit_scale(const float *block, const float *w, float half, const ScalePlan &plan) {
    const float top = span(block, w).farther();
    const float unit = std::fabs(top) < kNothing ? 0.0f : 0.0f - top, per_unit = inverse(unit);
    float x[32];
    for (int i = 0; i < 32; ++i) x[i] = block[i] * per_unit;
    Half d = to_scale(search_scale(x, w, half, plan) * unit);
    for (int round = 0; round < plan.rounds; ++round) {
        const float per_step = inverse(from_half(d));
        ScaleSums sums;
        for (int i = 0; i < 32; ++i) sums.add(x[i], w[i], clamp(nearest(block[i] * per_step), -half, half - 1.0f));
        if (sums.qq != 0.0f) d = to_scale(sums.xq / sums.qq * unit);
    }
    return d;
}

// ---- scale and minimum ----

struct RangeFit {
    float scale, minimum;
};

struct RangeSums {
    float zq = 0.0f, q = 0.0f, qq = 0.0f;

    void add(float wz, float w, float code) {
        const float wq = w * code;
        zq += wz * code;
        q += wq;
        qq += wq * code;
    }
    float spread(float per_weight) const { return qq - q * q * per_weight; }
    bool has_spread(float per_weight) const { return spread(per_weight) > qq * 1e-5f; }
};

struct Best {
    float zq = 0.0f, q = 0.0f, spread = 1.0f;
};

struct Range {
    float x[32], wz[32], mean, per_weight, low, extent;
};

Range range_of(const float *block, const float *w) {
    Range range;
    const Span found = span(block, w);
    range.low = found.low;
    range.extent = found.high - found.low;
    const float per_extent = inverse(range.extent < kNothing ? 0.0f : range.extent);
    float weight = 0.0f, total = 0.0f;
    for (int i = 0; i < 32; ++i) {
        range.x[i] = (block[i] - range.low) * per_extent;
        weight += w[i];
        total += w[i] * range.x[i];
    }
    range.per_weight = 1.0f / weight;
    range.mean = total * range.per_weight;
    for (int i = 0; i < 32; ++i) range.wz[i] = w[i] * (range.x[i] - range.mean);
    return range;
}

void try_shift(const Range &range, const float *w, float top, float factor, float shift, Best &best) {
    RangeSums sums;
    for (int i = 0; i < 32; ++i)
        sums.add(range.wz[i], w[i], clamp(nearest(range.x[i] * factor + shift), 0.0f, top));
    const float spread = sums.spread(range.per_weight);
    if (sums.has_spread(range.per_weight) && sums.zq * sums.zq * best.spread > best.zq * best.zq * spread)
        best = {sums.zq, sums.q, spread};
}

void try_shifts(const Range &range, const float *w, float top, float factor, float shift, float apart, Best &best) {
    try_shift(range, w, top, factor, shift - apart, best);
    try_shift(range, w, top, factor, shift, best);
    try_shift(range, w, top, factor, shift + apart, best);
}

RangeFit search_range(const Range &range, const float *w, float top, const RangePlan &plan) {
    Best best;
    for (int c = 0; c < plan.factors; ++c) {
        const float excess = plan.first + plan.step * static_cast<float>(c);
        for (int t = 0; t < plan.triples; ++t) {
            const float shift = plan.apart * 1.5f * static_cast<float>(2 * t - plan.triples + 1) - excess * 0.5f;
            try_shifts(range, w, top, top + excess, shift, plan.apart, best);
        }
    }
    const float factor = best.spread * inverse(best.zq), shift = best.q * range.per_weight - range.mean * factor;
    for (int c = 0; c < plan.near; ++c) {
        const float more = plan.near_step * 0.5f * static_cast<float>(2 * c - plan.near + 1);
        try_shifts(range, w, top, factor + more, shift - more * 0.5f, plan.near_apart, best);
    }
    const float scale = best.zq / best.spread;
    return {scale, range.mean - scale * best.q * range.per_weight};
}

RangeFit refit(const float *x, const float *w, float top, const RangeFit &stored, float per_weight) {
    const float per_step = inverse(stored.scale);
    RangeSums sums;
    float total = 0.0f;
    for (int i = 0; i < 32; ++i) {
        const float z = x[i] - stored.minimum, wz = w[i] * z;
        total += wz;
        sums.add(wz, w[i], clamp(nearest(z * per_step), 0.0f, top));
    }
    const float mean = total * per_weight;
    if (std::fabs(stored.minimum) > std::fabs(stored.scale) * 64.0f || !sums.has_spread(per_weight))
        return {sums.qq == 0.0f ? mean * (1.0f / top) : sums.zq / sums.qq, stored.minimum};
    const float scale = (sums.zq - mean * sums.q) / sums.spread(per_weight);
    return {scale, stored.minimum + (mean - scale * sums.q * per_weight)};
}

struct StoredRange {
    Half d, m;
};

StoredRange fit_range(const float *x, const float *w, float top, const RangePlan &plan) {
    const Range range = range_of(x, w);
    RangeFit fit = search_range(range, w, top, plan);
    fit.scale *= range.extent;
    fit.minimum = range.low + (fit.scale < 0x1p-25f ? range.mean : fit.minimum) * range.extent;
    StoredRange stored = {to_scale(fit.scale), to_scale(fit.minimum)};
    for (int round = 0; round < plan.rounds; ++round) {
        fit = refit(x, w, top, {from_half(stored.d), from_half(stored.m)}, range.per_weight);
        stored = {to_scale(fit.scale), to_scale(fit.minimum)};
    }
    return stored;
}

// ---- eight bits ----

float byte_error(const float *x, const float *w, int bits_of_d) {
    const float d = from_half(static_cast<Half>(bits_of_d)), per_step = 1.0f / d;
    float error = 0.0f;
    for (int i = 0; i < 32; ++i) {
        const float steps = x[i] * per_step, q = nearest(steps);
        const float off = steps - (q < 127.0f ? q : 127.0f);
        error += w[i] * off * off;
    }
    return error * d * d;
}

Half fit_bytes(const float *x, const float *w, const BytePlan &plan) {
    const float top = span(x, w).farther(), extent = std::fabs(top);
    if (extent < kNothing) return 0;
    int first = to_scale(extent * (1.0f / 128.0f));
    if (first < 1) first = 1;
    if (from_half(static_cast<Half>(first)) * 128.49f < extent) ++first;
    const int sign = top > 0.0f ? 0x8000 : 0;
    int best = first;
    float least = byte_error(x, w, first | sign);
    const auto consider = [&](int d) {
        const float error = byte_error(x, w, d | sign);
        if (error < least) best = d;
        if (error < least) least = error;
    };
    for (int c = 1; c < plan.candidates; ++c) consider(first + plan.stride * c);
    const int middle = best;
    for (int c = 1; c <= plan.near; ++c) {
        consider(middle + c);
        consider(middle - c > first ? middle - c : first);
    }
    return static_cast<Half>(best | sign);
}

// ---- codes and bytes ----

template <class Step> void for_blocks(const Rows &rows, Step step) {
    for (std::size_t block = 0; block < rows.rows * rows.cols / 32; ++block) {
        float w[32];
        normalise(importance_at(rows, block * 32), 32, w);
        step(block, rows.x + block * 32, static_cast<const float *>(w));
    }
}

int code(float steps, float low, float high) { return static_cast<int>(clamp(nearest(steps), low, high)); }

template <class Block> void set_code(Block &block, int i, int code) {
    block.qs[i % 16] |= static_cast<std::uint8_t>((code & 15) << (i < 16 ? 0 : 4));
    if constexpr (requires { block.qh; }) block.qh[i / 8] |= static_cast<std::uint8_t>((code >> 4) << i % 8);
}

template <class Block> void encode_scaled(const Rows &rows, int half, const ScalePlan &plan, std::uint8_t *out) {
    const float limit = static_cast<float>(half);
    for_blocks(rows, [&](std::size_t b, const float *x, const float *w) {
        Block block = {};
        block.d = fit_scale(x, w, limit, plan);
        const float per_step = inverse(from_half(block.d));
        for (int i = 0; i < 32; ++i) set_code(block, i, code(x[i] * per_step, -limit, limit - 1.0f) + half);
        put(out, b, block);
    });
}

template <class Block> void encode_ranged(const Rows &rows, float top, const RangePlan &plan, std::uint8_t *out) {
    for_blocks(rows, [&](std::size_t b, const float *x, const float *w) {
        const StoredRange stored = fit_range(x, w, top, plan);
        Block block = {};
        block.d = stored.d;
        block.m = stored.m;
        const float per_step = inverse(from_half(stored.d)), m = from_half(stored.m);
        for (int i = 0; i < 32; ++i) set_code(block, i, code((x[i] - m) * per_step, 0.0f, top));
        put(out, b, block);
    });
}

}  // namespace

void encode_q4_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode_scaled<Q4_0>(rows, 8, kPlansQ4_0[rows.importance != nullptr][static_cast<int>(effort)], out);
}

void encode_q5_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode_scaled<Q5_0>(rows, 16, kPlansQ5_0[rows.importance != nullptr][static_cast<int>(effort)], out);
}

void encode_q4_1(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode_ranged<Q4_1>(rows, 15.0f, kPlansQ4_1[rows.importance != nullptr][static_cast<int>(effort)], out);
}

void encode_q5_1(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode_ranged<Q5_1>(rows, 31.0f, kPlansQ5_1[rows.importance != nullptr][static_cast<int>(effort)], out);
}

void encode_q8_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    const BytePlan &plan = kPlansQ8_0[rows.importance != nullptr][static_cast<int>(effort)];
    for_blocks(rows, [&](std::size_t b, const float *x, const float *w) {
        Q8_0 block = {};
        block.d = fit_bytes(x, w, plan);
        const float per_step = inverse(from_half(block.d));
        for (int i = 0; i < 32; ++i) block.qs[i] = static_cast<std::int8_t>(code(x[i] * per_step, -128.0f, 127.0f));
        put(out, b, block);
    });
}

}  // namespace quantpress::reference
