// The mathematics is told in kernels/codebook.hpp; the candidates are those of kernels/codebook_plans.hpp.
#include "reference/codebook.hpp"

#include <algorithm>
#include <cmath>

#include "grids.hpp"
#include "kernels/codebook_plans.hpp"
#include "reference/scalar.hpp"

namespace quantpress::reference {
namespace {

using namespace codebook_plans;

constexpr float kBucket = 14;  // x is compared with the levels' midpoints in these units, as the kernels do

int nearest_code(float x) {
    int code = 0;
    while (code < 15 && x > (kLevelsIQ4[code] + kLevelsIQ4[code + 1]) * 0.5f / kBucket) ++code;
    return code;
}

float inverse_of(float x) { return std::fabs(x) < 1e-30f ? 0.0f : 1.0f / x; }

struct Block {
    const float *x;
    float w[32];
    float largest, heaviest;
};

Block prepare(const float *x, const float *w) {
    Block block = {x, {}, x[0], x[0]};
    float most = 0;
    for (int i = 0; i < 32; ++i) {
        block.w[i] = std::max(w[i], 1e-12f);
        const float weight = std::fabs(x[i] * block.w[i]) * std::fabs(x[i]);
        if (std::fabs(x[i]) > std::fabs(block.largest)) block.largest = x[i];
        if (weight > most) {
            most = weight;
            block.heaviest = x[i];
        }
    }
    return block;
}

struct Sums {
    float xv, vv;
};

Sums sums_at(const Block &block, float inverse) {
    const float per_bucket = inverse * (1 / kBucket);
    Sums sums = {0, 0};
    for (int i = 0; i < 32; ++i) {
        const float v = kLevelsIQ4[nearest_code(block.x[i] * per_bucket)];
        sums.xv += block.w[i] * block.x[i] * v;
        sums.vv += block.w[i] * v * v;
    }
    return sums;
}

struct Fit {
    float scale, gain, vv;
};

struct Fits {
    Fit best, other;
};

Fits search(const Block &block, bool importance, const Plan &plan) {
    const Candidate *candidates = importance ? kWithImportance : kWithoutImportance;
    Fit positive = {0, 0, 0}, negative = {0, 0, 0};
    for (int i = 0; i < plan.candidates[importance]; ++i) {
        const float x = candidates[i].heaviest ? block.heaviest : block.largest;
        const Sums sums = sums_at(block, inverse_of(x) * candidates[i].level);
        const float scale = sums.xv / sums.vv, gain = scale * sums.xv;
        Fit &best = scale > 0 ? positive : negative;
        if (scale != 0 && gain > best.gain) best = {scale, gain, sums.vv};
    }
    return negative.gain > positive.gain ? Fits{negative, positive} : Fits{positive, negative};
}

void write_nearest(const Block &block, float scale, std::uint8_t *qs) {
    const float per_bucket = inverse_of(scale) * (1 / kBucket);
    for (int i = 0; i < 16; ++i) {
        const int low = nearest_code(block.x[i] * per_bucket), high = nearest_code(block.x[16 + i] * per_bucket);
        qs[i] = static_cast<std::uint8_t>(low | high << 4);
    }
}

// ---- IQ4_XS ----

struct Scales {
    float d, sub[8];
};

// In the order of the kernels.
float sum(const float *v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

float stored(float d) {
    const Half half = to_scale(d);
    return from_half(d != 0 && (half & 0x7fff) == 0 ? static_cast<Half>(half | 1) : half);
}

float largest_scale(const Fits *fits) {
    float gains[8], most = 0;
    for (int b = 0; b < 8; ++b) gains[b] = fits[b].best.gain;
    for (int b = 0; b < 8; ++b) {
        if (!(gains[b] > sum(gains) * 1e-6f)) continue;
        const float scale = fits[b].best.scale, magnitude = std::fabs(scale);
        if (magnitude > std::fabs(most) || (magnitude == std::fabs(most) && scale > most)) most = scale;
    }
    return most;
}

Scales estimate(const Fits *fits, float d, float &loss) {
    Scales scales = {d, {}};
    float losses[8];
    const float per_d = inverse_of(d);
    for (int b = 0; b < 8; ++b) {
        const auto &[best, other] = fits[b];
        const float sub = nearest(clamp(best.scale * per_d, -32, 31)), off = sub * d - best.scale;
        const float other_sub = nearest(clamp(other.scale * per_d, -32, 31)), other_off = other_sub * d - other.scale;
        const float best_loss = off * off * best.vv;
        const float other_loss = other_off * other_off * other.vv + (best.gain - other.gain);
        losses[b] = std::min(best_loss, other_loss);
        scales.sub[b] = other_loss < best_loss ? other_sub : sub;
    }
    loss = sum(losses);
    return scales;
}

Fit fit_super(const float *sub, const Sums *sums) {
    float xv[8], vv[8];
    for (int b = 0; b < 8; ++b) {
        xv[b] = sub[b] * sums[b].xv;
        vv[b] = sub[b] * sub[b] * sums[b].vv;
    }
    const float d = sum(xv) * inverse_of(sum(vv));
    return {d, d * sum(xv), sum(vv)};
}

Scales search_super(const Block *blocks, const Fits *fits, const Plan &plan) {
    const float largest = largest_scale(fits);
    const float step = (kMostSteps - kFewestSteps) / static_cast<float>(plan.bands * plan.steps);
    Scales best = {0, {}};
    float gain = 0;
    for (int band = 0; band < plan.bands; ++band) {
        Scales nearby = best;
        float least = 3e38f, loss;
        for (int i = 0; i < plan.steps; ++i) {
            const float steps = kMostSteps - step * static_cast<float>(band * plan.steps + i);
            const Scales scales = estimate(fits, stored(largest * (-1 / steps)), loss);
            if (loss < least) nearby = scales;
            least = std::min(loss, least);
        }
        Sums sums[8];
        for (int b = 0; b < 8; ++b) sums[b] = sums_at(blocks[b], inverse_of(nearby.d * nearby.sub[b]));
        const Fit fit = fit_super(nearby.sub, sums);
        if (fit.gain > gain) {
            gain = fit.gain;
            best = nearby;
            best.d = fit.scale;
        }
    }
    best.d = stored(best.d);
    return best;
}

Scales refine(const Block *blocks, const Scales &scales) {
    Scales refined = scales;
    Sums kept[8];
    for (int b = 0; b < 8; ++b) {
        float least = 3e38f;
        for (const float beside : {0.0f, -1.0f, 1.0f}) {
            const float sub = clamp(scales.sub[b] + beside, -32, 31), scale = scales.d * sub;
            const Sums sums = sums_at(blocks[b], inverse_of(scale));
            const float loss = (scale * sums.vv - sums.xv * 2.0f) * scale;
            if (!(loss < least)) continue;
            least = loss;
            refined.sub[b] = sub;
            kept[b] = sums;
        }
    }
    refined.d = stored(fit_super(refined.sub, kept).scale);
    return refined;
}

// ---- MXFP4 ----

int nearest_float4(float magnitude) {  // its code, ties to even
    int code = 0;
    while (code < 7) {
        const float middle = static_cast<float>(kLevelsMXFP4[code] + kLevelsMXFP4[code + 1]) * 0.5f;
        if (magnitude < middle || (magnitude == middle && code % 2 == 0)) break;
        ++code;
    }
    return code;
}

// x in units of 2^(e - 128)
float in_units(float x, int e) { return std::ldexp(std::fabs(x), 128 - e); }

float error_at(const float *x, const float *w, int e) {
    float error = 0;
    for (int i = 0; i < 32; ++i) {
        const float magnitude = in_units(x[i], e), off = magnitude - kLevelsMXFP4[nearest_float4(magnitude)];
        error += w[i] * off * off;
    }
    return error;
}

}  // namespace

void encode_iq4_nl(const Rows &rows, Effort effort, std::uint8_t *out) {
    const Plan &plan = kPlans[static_cast<int>(effort)];
    for (std::size_t i = 0; i < rows.rows * rows.cols / 32; ++i) {
        float w[32];
        normalise(importance_at(rows, 32 * i), 32, w);
        const Block block = prepare(rows.x + 32 * i, w);
        IQ4_NL packed;
        packed.d = to_scale(search(block, rows.importance != nullptr, plan).best.scale);
        for (int round = 0; round < plan.rounds; ++round) {
            const Sums sums = sums_at(block, inverse_of(from_half(packed.d)));
            packed.d = to_scale(sums.xv / sums.vv);
        }
        write_nearest(block, from_half(packed.d), packed.qs);
        put(out, i, packed);
    }
}

void encode_iq4_xs(const Rows &rows, Effort effort, std::uint8_t *out) {
    const Plan &plan = kPlans[static_cast<int>(effort)];
    for (std::size_t i = 0; i < rows.rows * rows.cols / 256; ++i) {
        float w[256];
        normalise(importance_at(rows, 256 * i), 256, w);
        Block blocks[8];
        Fits fits[8];
        for (int b = 0; b < 8; ++b) {
            blocks[b] = prepare(rows.x + 256 * i + 32 * b, w + 32 * b);
            fits[b] = search(blocks[b], rows.importance != nullptr, plan);
        }
        Scales scales = search_super(blocks, fits, plan);
        for (int round = 0; round < plan.rounds; ++round) scales = refine(blocks, scales);
        IQ4_XS packed = {};
        packed.d = to_scale(scales.d);
        for (int b = 0; b < 8; ++b) {
            const int sub = static_cast<int>(scales.sub[b]) + 32;
            packed.scales_l[b / 2] |= static_cast<std::uint8_t>((sub & 15) << 4 * (b % 2));
            packed.scales_h |= static_cast<std::uint16_t>(sub >> 4 << 2 * b);
            write_nearest(blocks[b], scales.d * scales.sub[b], packed.qs + 16 * b);
        }
        put(out, i, packed);
    }
}

void encode_mxfp4(const Rows &rows, Effort effort, std::uint8_t *out) {
    const Plan &plan = kPlans[static_cast<int>(effort)];
    for (std::size_t i = 0; i < rows.rows * rows.cols / 32; ++i) {
        const float *x = rows.x + 32 * i;
        float w[32], top = 0, least = 3e38f;
        normalise(importance_at(rows, 32 * i), 32, w);
        for (int j = 0; j < 32; ++j) top = std::max(top, std::fabs(x[j]));
        const int e0 = std::max(static_cast<int>(std::bit_cast<std::uint32_t>(top) >> 23) - 2, 0);
        int e = e0;
        for (int k = 0; k < plan.exponents; ++k) {
            const int moved = std::max(e0 + kExponents[k], 0);
            const float error = std::ldexp(error_at(x, w, moved), 2 * (moved - e0));
            if (error < least) e = moved;
            least = std::min(error, least);
        }
        MXFP4 packed;
        packed.e = static_cast<std::uint8_t>(e);
        const auto code = [&](int j) { return nearest_float4(in_units(x[j], e)) | (std::signbit(x[j]) ? 8 : 0); };
        for (int j = 0; j < 16; ++j) packed.qs[j] = static_cast<std::uint8_t>(code(j) | code(16 + j) << 4);
        put(out, i, packed);
    }
}

}  // namespace quantpress::reference
