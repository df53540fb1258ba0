// The search that kernels/ternary.hpp describes.
#include "reference/ternary.hpp"

#include <algorithm>

#include "blocks.hpp"
#include "kernels/ternary_plans.hpp"
#include "reference/scalar.hpp"

namespace quantpress::reference {
namespace {

using namespace ternary_plans;

struct Kept {
    float gain, scale;
};

// The weights farther than `threshold` from 0. Sums: 16 of every sixteenth weight, then of halves.
Kept keep(const float *x, const float *w, float threshold) {
    float weight[16] = {}, mass[16] = {};
    for (int i = 0; i < 256; ++i) {
        if (!(std::fabs(x[i]) > threshold)) continue;
        weight[i % 16] += w[i];
        mass[i % 16] += w[i] * std::fabs(x[i]);
    }
    for (int half = 8; half; half /= 2) {
        for (int i = 0; i < half; ++i) {
            weight[i] += weight[i + half];
            mass[i] += mass[i + half];
        }
    }
    const float scale = mass[0] / std::max(weight[0], 1e-30f);
    return {mass[0] * scale, scale};
}

Half fit(const float *x, const float *w, const Plan &plan) {
    float top = 0;
    for (int i = 0; i < 256; ++i) top = std::max(top, std::fabs(x[i]));
    Kept best = {0, 0};
    float fraction = plan.first;
    for (int k = 0; k < plan.thresholds; ++k, fraction *= plan.ratio) {
        const Kept kept = keep(x, w, top * fraction);
        if (kept.gain > best.gain) best = kept;
    }
    for (int round = 0; round < plan.rounds; ++round) best = keep(x, w, best.scale * 0.5f);
    return to_scale(best.scale);
}

void pack(const int *q, TQ2_0 &block) {
    for (int i = 0; i < 256; ++i) {
        const int k = i % 128 / 32;
        block.qs[i / 128 * 32 + i % 32] |= static_cast<std::uint8_t>(q[i] << 2 * k);
    }
}

// Digits q[0], q[apart], ... as a fraction of 3^5 in eight bits, rounded up.
std::uint8_t fraction_of(const int *q, int apart, int digits) {
    int v = 0;
    for (int k = 0; k < 5; ++k) v = v * 3 + (k < digits ? q[k * apart] : 0);
    return static_cast<std::uint8_t>((v * 256 + 242) / 243);
}

void pack(const int *q, TQ1_0 &block) {
    for (int j = 0; j < 32; ++j) block.qs[j] = fraction_of(q + j, 32, 5);
    for (int j = 0; j < 16; ++j) block.qs[32 + j] = fraction_of(q + 160 + j, 16, 5);
    for (int j = 0; j < 4; ++j) block.qh[j] = fraction_of(q + 240 + j, 4, 4);
}

template <class Packed> void encode(const Rows &rows, const Plan &plan, std::uint8_t *out) {
    for (std::size_t b = 0; b < rows.rows * rows.cols / 256; ++b) {
        const float *x = rows.x + b * 256;
        float w[256];
        normalise(importance_at(rows, b * 256), 256, w);
        Packed block = {};
        block.d = fit(x, w, plan);
        const float threshold = from_half(block.d) * 0.5f;
        int q[256];
        for (int i = 0; i < 256; ++i) q[i] = x[i] > threshold ? 2 : x[i] < 0 - threshold ? 0 : 1;
        pack(q, block);
        put(out, b, block);
    }
}

}  // namespace

void encode_tq1_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<TQ1_0>(rows, kPlans[static_cast<int>(effort)], out);
}

void encode_tq2_0(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<TQ2_0>(rows, kPlans[static_cast<int>(effort)], out);
}

}  // namespace quantpress::reference
