// The search that kernels/k_symmetric_search.hpp describes, sub-block by sub-block.
#include "reference/k_symmetric.hpp"

#include <algorithm>

#include "blocks.hpp"
#include "kernels/k_symmetric_plans.hpp"
#include "reference/scalar.hpp"

namespace quantpress::reference {
namespace {

using namespace k_symmetric_plans;

constexpr float kWorst = 3e38f;

struct SubBlock {
    float x[16], w[16];
};

struct Fit {
    Half d;
    float s[16];
};

float reciprocal(float x) { return std::fabs(x) < 1e-30f ? 0.0f : 1.0f / x; }

// The sum over the sub-blocks, halving: 8 sums of two, then 4 of those.
float total_of(const float *values) {
    float sum[16];
    std::copy(values, values + 16, sum);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
    return sum[0];
}

// The code in [-half, half) of x / t.
float code(float x, int half) {
    const float limit = static_cast<float>(half);
    return nearest(clamp(x, -limit, limit - 1));
}

float squared_error(const SubBlock &block, float t, int half) {
    const float per_t = reciprocal(t);
    float sum = 0;
    for (int i = 0; i < 16; ++i) {
        const float x = block.x[i] * per_t, r = x - code(x, half);
        sum += block.w[i] * (r * r);
    }
    return sum * (t * t);
}

// The best d for these integers and the codes that they have with this d.
Half refit(const SubBlock *blocks, const Fit &fit, int half) {
    float squares[16], products[16];
    for (int b = 0; b < 16; ++b) {
        const float per_t = reciprocal(from_half(fit.d) * fit.s[b]);
        float a_sum = 0, b_sum = 0;
        for (int i = 0; i < 16; ++i) {
            const float q = code(blocks[b].x[i] * per_t, half), wq = blocks[b].w[i] * q;
            a_sum += wq * q;
            b_sum += wq * blocks[b].x[i];
        }
        squares[b] = a_sum * (fit.s[b] * fit.s[b]);
        products[b] = b_sum * fit.s[b];
    }
    const float square = total_of(squares);
    return square < 1e-30f ? fit.d : to_scale(total_of(products) / square);
}

// ---- Q3_K ----

// The error near the best scale t: curvature (x - t)^2 + excess.
struct Parabola {
    float t, curvature, excess;
};

struct Shapes {
    Parabola upright, mirrored;  // codes -4 ... 3, and 4 ... -3
};

// a = sum w q^2 and b = sum w x q of the codes in [low, high] with the largest b^2 / a.
struct Sums {
    float a, b;
};

Sums best_sums(const float *x, const float *w, const PlanQ3 &plan, float low, float high) {
    Sums best = {1, 0};
    float m = plan.first;
    for (int k = 0; k < plan.scans; ++k, m *= plan.ratio) {
        Sums sums = {0, 0};
        for (int i = 0; i < 16; ++i) {
            const float q = clamp(nearest(x[i] * m), low, high), wq = w[i] * q;
            sums.a += wq * q;
            sums.b += wq * x[i];
        }
        if (sums.b * sums.b * best.a > best.b * best.b * sums.a) best = sums;
    }
    return best;
}

Shapes scan(const SubBlock &block, const PlanQ3 &plan) {
    float top = 0, most = 0, x[16], w[16];
    for (int i = 0; i < 16; ++i) {
        top = std::max(top, std::fabs(block.x[i]));
        most = std::max(most, block.w[i]);
    }
    for (int i = 0; i < 16; ++i) {
        x[i] = block.x[i] * reciprocal(top);
        w[i] = block.w[i] * reciprocal(most);
    }
    const Sums upright = best_sums(x, w, plan, -4, 3), mirrored = best_sums(x, w, plan, -3, 4);
    const float t = upright.b == 0 ? 0.25f : upright.b / upright.a;
    const float u = mirrored.b == 0 ? 0.25f : mirrored.b / mirrored.a;
    const float gain = upright.b * t, other = mirrored.b * u, unit = most * (top * top);
    return {{t * top, upright.a * most, (std::max(gain, other) - gain) * unit},
            {0 - u * top, mirrored.a * most, (std::max(gain, other) - other) * unit}};
}

float integer_q3(float s) { return nearest(clamp(s, -32, 31)); }

struct Integer {
    float s, error;
};

Integer on_grid(const Parabola &shape, float d, float per_d) {
    const float s = integer_q3(per_d * shape.t), r = shape.t - d * s;
    return {s, r * r * shape.curvature + shape.excess};
}

float choose_scale(const Shapes *shapes, int vectors) {
    float high = -kWorst, low = -kWorst;
    for (int b = 0; b < 16; ++b) {
        const Shapes &shape = shapes[b];
        const float t = shape.mirrored.excess < shape.upright.excess ? shape.mirrored.t : shape.upright.t;
        high = std::max(high, t);
        low = std::max(low, 0 - t);
    }
    const float longest = high < low ? low : 0 - high;
    float best = 0, least = kWorst;
    for (int lane = 0; lane < 16; ++lane) {
        for (int v = 0; v < vectors; ++v) {
            const float steps = static_cast<float>(lane) + (23.0f + 0.5f * static_cast<float>(v / 2));
            const float d = from_half(to_scale((v % 2 ? 0 - longest : longest) / steps)), per_d = reciprocal(d);
            float error = 0;
            for (int b = 0; b < 16; ++b) {
                const Shapes &shape = shapes[b];
                error += std::min(on_grid(shape.upright, d, per_d).error, on_grid(shape.mirrored, d, per_d).error);
            }
            if (error < least) {
                best = d;
                least = error;
            }
        }
    }
    return best;
}

float choose_near(const SubBlock &block, float d, float middle, int count) {
    float best = middle, least = kWorst;
    for (int k = 0; k < count; ++k) {
        float s = clamp(middle + static_cast<float>(k % 2 ? -(k + 1) / 2 : k / 2), -32, 31);
        if (s == 0) s = 1;
        const float error = squared_error(block, d * s, 4);
        if (error < least) {
            best = s;
            least = error;
        }
    }
    return best;
}

Fit fit_q3(const SubBlock *blocks, const PlanQ3 &plan) {
    Shapes shapes[16];
    for (int b = 0; b < 16; ++b) shapes[b] = scan(blocks[b], plan);
    const float d = choose_scale(shapes, plan.scales);
    Fit fit = {to_scale(d), {}};
    for (int b = 0; b < 16; ++b) {
        const Integer one = on_grid(shapes[b].upright, d, reciprocal(d));
        const Integer two = on_grid(shapes[b].mirrored, d, reciprocal(d));
        fit.s[b] = two.error < one.error ? two.s : one.s;
    }
    for (int round = 0; round < plan.rounds; ++round) {
        const float scale = from_half(fit.d);
        for (int b = 0; b < 16; ++b) fit.s[b] = choose_near(blocks[b], scale, fit.s[b], plan.integers);
        fit.d = refit(blocks, fit, 4);
    }
    return fit;
}

// ---- Q6_K ----

struct Range {
    float least, sign;  // of the scale at which nothing is clipped
};

Range range_of(const SubBlock &block) {
    float high = 0, low = 0;
    for (const float x : block.x) {
        high = std::max(high, x);
        low = std::max(low, 0 - x);
    }
    const float least = std::max(std::max(high, low) * (1 / 32.49f), std::min(high, low) * (1 / 31.49f));
    return {least, high > low ? -1.0f : 1.0f};
}

float choose_integer(const SubBlock &block, const PlanQ6 &plan, float d, float least, float sign) {
    const float start = nearest(clamp(least + 0.5f, 1, 127));
    float best = start, best_error = kWorst;
    const auto offer = [&](float s) {
        const float error = squared_error(block, d * s * sign, 32);
        if (error < best_error) {
            best = s;
            best_error = error;
        }
    };
    for (int k = 0; k < plan.unclipped; ++k) {
        const float s = std::min(start + static_cast<float>(k), 127.0f);
        if (!(s < least)) offer(s);
    }
    for (int k = 1; k <= plan.clipped; ++k) offer(std::max(start - static_cast<float>(k), 1.0f));
    return best * sign;
}

Fit fit_q6(const SubBlock *blocks, const PlanQ6 &plan) {
    Range ranges[16];
    float largest = 0;
    for (int b = 0; b < 16; ++b) {
        ranges[b] = range_of(blocks[b]);
        largest = std::max(largest, ranges[b].least);
    }
    Fit fit = {to_scale(largest * (1 / plan.steps)), {}};
    if (from_half(fit.d) * 127.0f < largest) ++fit.d;
    for (int round = 0; round < plan.rounds; ++round) {
        const float d = from_half(fit.d);
        for (int b = 0; b < 16; ++b)
            fit.s[b] = choose_integer(blocks[b], plan, d, ranges[b].least * reciprocal(d), ranges[b].sign);
        fit.d = refit(blocks, fit, 32);
    }
    return fit;
}

// ---- packing ----

// Codes plus half.
void codes_of(const SubBlock *blocks, const Fit &fit, int half, std::uint8_t *codes) {
    for (int i = 0; i < 256; ++i) {
        const float per_t = reciprocal(from_half(fit.d) * fit.s[i / 16]);
        const float q = code(blocks[i / 16].x[i % 16] * per_t, half);
        codes[i] = static_cast<std::uint8_t>(static_cast<int>(q) + half);
    }
}

Q3_K pack_q3(const SubBlock *blocks, const Fit &fit) {
    std::uint8_t codes[256];
    codes_of(blocks, fit, 4, codes);
    Q3_K block = {};
    block.d = fit.d;
    for (int i = 0; i < 256; ++i) {
        block.qs[i / 128 * 32 + i % 32] |= static_cast<std::uint8_t>((codes[i] & 3) << 2 * (i % 128 / 32));
        block.hmask[i % 32] |= static_cast<std::uint8_t>(codes[i] >> 2 << i / 32);
    }
    for (int b = 0; b < 16; ++b) {
        const int s = static_cast<int>(fit.s[b]) + 32;
        block.scales[b % 8] |= static_cast<std::uint8_t>((s & 15) << (b < 8 ? 0 : 4));
        block.scales[8 + b % 4] |= static_cast<std::uint8_t>(s >> 4 << 2 * (b / 4));
    }
    return block;
}

Q6_K pack_q6(const SubBlock *blocks, const Fit &fit) {
    std::uint8_t codes[256];
    codes_of(blocks, fit, 32, codes);
    Q6_K block = {};
    block.d = fit.d;
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, j = i % 128;
        block.ql[half * 64 + j % 64] |= static_cast<std::uint8_t>((codes[i] & 15) << (j < 64 ? 0 : 4));
        block.qh[half * 32 + j % 32] |= static_cast<std::uint8_t>(codes[i] >> 4 << 2 * (j / 32));
    }
    for (int b = 0; b < 16; ++b) block.scales[b] = static_cast<std::int8_t>(fit.s[b]);
    return block;
}

// Calls step(blocks, index) for each super-block.
template <class Step> void for_super_blocks(const Rows &rows, Step step) {
    for (std::size_t block = 0; block < rows.rows * rows.cols / 256; ++block) {
        SubBlock blocks[16];
        float w[256];
        normalise(importance_at(rows, block * 256), 256, w);
        for (int i = 0; i < 256; ++i) {
            blocks[i / 16].x[i % 16] = rows.x[block * 256 + i];
            blocks[i / 16].w[i % 16] = w[i];
        }
        step(blocks, block);
    }
}

}  // namespace

void encode_q3_k(const Rows &rows, Effort effort, std::uint8_t *out) {
    for_super_blocks(rows, [&](const SubBlock *blocks, std::size_t index) {
        put(out, index, pack_q3(blocks, fit_q3(blocks, kPlansQ3[static_cast<int>(effort)])));
    });
}

void encode_q6_k(const Rows &rows, Effort effort, std::uint8_t *out) {
    const PlanQ6 *plans = kPlansQ6[rows.importance != nullptr];
    for_super_blocks(rows, [&](const SubBlock *blocks, std::size_t index) {
        put(out, index, pack_q6(blocks, fit_q6(blocks, plans[static_cast<int>(effort)])));
    });
}

}  // namespace quantpress::reference
