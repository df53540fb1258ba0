// The search of kernels/iq1.hpp and kernels/iq1_search.hpp, whose comments say why, for one super-block at a time.
#include "reference/iq1.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "grids.hpp"
#include "kernels/iq1_plans.hpp"
#include "reference/scalar.hpp"

namespace quantpress::reference {
namespace {

using namespace iq1_plans;

constexpr float kDelta = 0.125f;
constexpr float kLeast = -0x1p126f;  // below any gain

// Where each combination of levels (two bits a weight) is in the grid, or -1.
const std::array<std::int16_t, 65536> &places() {
    static const std::array<std::int16_t, 65536> places = [] {
        std::array<std::int16_t, 65536> place;
        place.fill(-1);
        for (int i = 0; i < 2048; ++i) place[kGridIQ1[i]] = static_cast<std::int16_t>(i);
        return place;
    }();
    return places;
}

// With v = grid + delta: sum w x v and sum w v^2.
struct Fit {
    float wxv = 0.0f, wvv = 0.0f;
};

float gain(const Fit &fit, float scale) { return scale * (fit.wxv * 2.0f - scale * fit.wvv); }
float ratio(float a, float b) { return b > 0.0f ? a / b : 0.0f; }
float best_scale(const Fit &fit) { return ratio(fit.wxv, fit.wvv); }

// A group of 8 weights with its entry of the grid.
struct Coded {
    Fit fit;
    int place;
    float delta;
};

struct Block {
    int groups, per_delta;  // groups of the sub-block, and how many of them share a delta
    const float *x;
    std::vector<float> w;
};

using Codes = std::vector<Coded>;

Fit fit_of(const Codes &codes) {
    Fit fit = codes[0].fit;
    for (std::size_t g = 1; g < codes.size(); ++g) {
        fit.wxv += codes[g].fit.wxv;
        fit.wvv += codes[g].fit.wvv;
    }
    return fit;
}

Coded coded(const float *x, const float *w, float delta, int levels) {
    Coded result = {{}, places()[levels], delta};
    for (int j = 0; j < 8; ++j) {
        const float value = delta + static_cast<float>((levels >> 2 * j & 3) - 1), weighted = w[j] * value;
        result.fit.wxv += weighted * x[j];
        result.fit.wvv += weighted * value;
    }
    return result;
}

// The cheapest entry among those whose weights are 0 or at the sign of x - s delta (flipped where `flip` has a bit).
Coded cheapest_entry(const float *x, const float *w, float scale, float delta, int flip) {
    float cost[8], top = 1e-30f;
    int used_level[8];
    for (int j = 0; j < 8; ++j) {
        const float t = x[j] - scale * delta;
        const bool flipped = flip >> j & 1;
        const float along = flipped ? -std::fabs(t) : std::fabs(t);
        used_level[j] = std::signbit(t) != flipped ? 0 : 2;
        cost[j] = w[j] * (scale - (along + along));
        top = std::max(top, std::fabs(cost[j]));
    }
    const float unit = 0x1p19f / top;
    int best = 0, least = 1 << 30;
    for (int used = 0; used < 256; ++used) {
        int levels = 0, sum = 0;
        for (int j = 0; j < 8; ++j) {
            levels |= (used >> j & 1 ? used_level[j] : 1) << 2 * j;
            if (used >> j & 1) sum += static_cast<int>(nearest(cost[j] * unit));
        }
        if (places()[levels] < 0 || sum >= least) continue;
        best = levels;
        least = sum;
    }
    return coded(x, w, delta, best);
}

Codes search_set(const float *x, const float *w, int groups, float scale, float delta) {
    Codes codes;
    for (int g = 0; g < groups; ++g) codes.push_back(cheapest_entry(x + 8 * g, w + 8 * g, scale, delta, 0));
    return codes;
}

Codes search_both(const Block &block, float scale) {
    Codes codes;
    for (int g = 0; g < block.groups; g += block.per_delta) {
        const float *x = block.x + 8 * g, *w = block.w.data() + 8 * g;
        const Codes plus = search_set(x, w, block.per_delta, scale, kDelta);
        const Codes minus = search_set(x, w, block.per_delta, scale, -kDelta);
        const Codes &better = gain(fit_of(minus), scale) > gain(fit_of(plus), scale) ? minus : plus;
        codes.insert(codes.end(), better.begin(), better.end());
    }
    return codes;
}

// What rounding without the grid takes off the error, over 2 scale, and the deltas it prefers.
struct Rounded {
    float gain = 0.0f;
    std::vector<float> delta;
};

Rounded round_freely(const Block &block, float scale) {
    Rounded result;
    for (int g = 0; g < block.groups; g += block.per_delta) {
        float sum_w = 0.0f, sum_wx = 0.0f, plus = 0.0f, minus = 0.0f;
        for (int i = 8 * g; i < 8 * (g + block.per_delta); ++i) {
            const float x = block.x[i], w = block.w[i];
            sum_w += w;
            sum_wx += w * x;
            plus += w * std::max(std::fabs(x - scale * kDelta), scale * 0.5f);
            minus += w * std::max(std::fabs(x + scale * kDelta), scale * 0.5f);
        }
        plus += sum_wx * kDelta;
        minus -= sum_wx * kDelta;
        result.gain += std::max(plus, minus) - sum_w * (scale * (0.5f + kDelta * kDelta / 2));
        result.delta.push_back(minus > plus ? -kDelta : kDelta);
    }
    return result;
}

Codes search_one(const Block &block, float scale) {
    const std::vector<float> delta = round_freely(block, scale).delta;
    Codes codes;
    for (int g = 0; g < block.groups; ++g) {
        const float *x = block.x + 8 * g, *w = block.w.data() + 8 * g;
        codes.push_back(cheapest_entry(x, w, scale, delta[g / block.per_delta], 0));
    }
    return codes;
}

// The scale at which rounding without the grid takes most off the error.
float scan(const Block &block, const Plan &plan) {
    float sum_wxx = 0.0f, sum_size = 0.0f;
    for (int i = 0; i < 8 * block.groups; ++i) {
        const float wx = block.w[i] * block.x[i];
        sum_wxx += wx * block.x[i];
        sum_size += std::fabs(wx);
    }
    const float typical = sum_wxx / std::max(sum_size, 1e-30f);
    float best = typical, most = kLeast;
    for (int i = 0; i < plan.scans; ++i) {
        const float scale = typical * plan.scan[i], found = scale * round_freely(block, scale).gain;
        if (found > most) best = scale;
        most = std::max(most, found);
    }
    return best;
}

using Trials = std::vector<Fit>;

Trials search_trials(const Block &block, const Plan &plan) {
    const float middle = scan(block, plan);
    Trials trials;
    for (int i = 0; i < plan.trials; ++i) {
        const float scale = middle * plan.trial[i];
        trials.push_back(fit_of(plan.both ? search_both(block, scale) : search_one(block, scale)));
    }
    return trials;
}

float scale_of(float level, float d) { return level * (d + d) + d; }
float nearest_level(float scale, float d) {
    return clamp(nearest(scale * 0.5f * ratio(1.0f, d) - 0.5f), 0.0f, 7.0f);
}

float choose_d(const std::vector<Trials> &trials) {
    float largest = 0.0f;
    for (const Trials &of_block : trials)
        for (const Fit &fit : of_block) largest = std::max(largest, best_scale(fit));
    float chosen = 0.0f, most = -std::numeric_limits<float>::infinity();
    for (const float step : kSteps) {
        const float d = from_half(to_scale(step * (largest * (1.0f / 15.0f))));
        float sum = 0.0f;
        for (const Trials &of_block : trials) {
            float best = kLeast;
            for (const Fit &fit : of_block)
                best = std::max(best, gain(fit, scale_of(nearest_level(best_scale(fit), d), d)));
            sum += best;
        }
        if (sum > most) chosen = d;
        most = std::max(most, sum);
    }
    return chosen;
}

// The sub-scales to search at, the best for the trials first.
std::array<float, 3> choose_levels(const Trials &trials, float d) {
    float best = 0.0f, next = 1.0f, most = kLeast;
    for (const Fit &fit : trials) {
        const float level = nearest_level(best_scale(fit), d), found = gain(fit, scale_of(level, d));
        if (found <= most) continue;
        most = found;
        best = level;
        next = best_scale(fit) * 0.5f * ratio(1.0f, d) - 0.5f < level ? level - 1.0f : level + 1.0f;
    }
    return {best, clamp(next, 0.0f, 7.0f), clamp(best * 2.0f - next, 0.0f, 7.0f)};
}

// The weight not yet in `flipped` whose sign matters least.
int least_certain(const float *x, const float *w, float offset, int flipped) {
    int weight = 0;
    float least = 0x1p126f;
    for (int j = 0; j < 8; ++j) {
        const float certainty = w[j] * std::fabs(x[j] - offset);
        if (flipped >> j & 1 || certainty >= least) continue;
        weight = 1 << j;
        least = certainty;
    }
    return weight;
}

void flip_signs(const Block &block, float scale, int flips, Codes &codes) {
    for (int g = 0; g < block.groups; ++g) {
        const float *x = block.x + 8 * g, *w = block.w.data() + 8 * g;
        int flipped = 0;
        for (int i = 0; i < flips; ++i) {
            const float delta = codes[g].delta;
            const int flip = least_certain(x, w, scale * delta, flipped);
            const Coded other = cheapest_entry(x, w, scale, delta, flip);
            if (gain(other.fit, scale) > gain(codes[g].fit, scale)) codes[g] = other;
            flipped |= flip;
        }
    }
}

// A sub-block's sub-scale and codes.
struct Scaled {
    float level;
    Codes codes;
};

Scaled search_levels(const Block &block, const Trials &trials, float d, const Plan &plan) {
    const std::array<float, 3> levels = choose_levels(trials, d);
    Scaled best = {levels[0], search_both(block, scale_of(levels[0], d))};
    for (int i = 1; i < plan.levels; ++i) {
        const Codes codes = search_both(block, scale_of(levels[i], d));
        if (gain(fit_of(codes), scale_of(levels[i], d)) > gain(fit_of(best.codes), scale_of(best.level, d)))
            best = {levels[i], codes};
    }
    flip_signs(block, scale_of(best.level, d), plan.flips, best.codes);
    return best;
}

// The sum by halves: of numbers n / 2 apart, then n / 4, ... 1.
float total(std::vector<float> v) {
    for (std::size_t half = v.size() / 2; half; half /= 2)
        for (std::size_t i = 0; i < half; ++i) v[i] += v[i + half];
    return v[0];
}

// d by least squares, and sub-scales for it.
Half refit(std::vector<Scaled> &blocks) {
    std::vector<float> wxv, wvv;
    for (const Scaled &block : blocks) {
        const Fit fit = fit_of(block.codes);
        const float factor = block.level * 2.0f + 1.0f;
        wxv.push_back(fit.wxv * factor);
        wvv.push_back(fit.wvv * factor * factor);
    }
    const Half d = to_scale(ratio(total(wxv), total(wvv)));
    for (Scaled &block : blocks) block.level = nearest_level(best_scale(fit_of(block.codes)), from_half(d));
    return d;
}

struct SuperBlock {
    Half d;
    std::vector<Scaled> blocks;
};

SuperBlock encode(const float *x, const float *importance, int groups, int per_delta, const Plan &plan) {
    float w[256];
    normalise(importance, 256, w);
    for (float &weight : w) weight = std::max(weight, 1e-20f);  // where all are 0, they still round
    std::vector<Block> blocks;
    std::vector<Trials> trials;
    for (int i = 0; i < 256; i += 8 * groups) {
        blocks.push_back({groups, per_delta, x + i, {w + i, w + i + 8 * groups}});
        trials.push_back(search_trials(blocks.back(), plan));
    }
    const float d = choose_d(trials);
    SuperBlock result;
    for (std::size_t b = 0; b < blocks.size(); ++b)
        result.blocks.push_back(search_levels(blocks[b], trials[b], d, plan));
    result.d = refit(result.blocks);
    return result;
}

}  // namespace

void encode_iq1_s(const Rows &rows, Effort effort, std::uint8_t *out) {
    for (std::size_t i = 0; i < rows.rows * rows.cols; i += 256) {
        const SuperBlock found = encode(rows.x + i, importance_at(rows, i), 4, 4, kPlans[static_cast<int>(effort)]);
        IQ1_S block;
        block.d = found.d;
        for (int b = 0; b < 8; ++b) {
            const Codes &codes = found.blocks[b].codes;
            int word = static_cast<int>(found.blocks[b].level) << 12 | (codes[0].delta < 0) << 15;
            for (int g = 0; g < 4; ++g) {
                block.qs[4 * b + g] = static_cast<std::uint8_t>(codes[g].place);
                word |= codes[g].place >> 8 << 3 * g;
            }
            block.qh[b] = static_cast<std::uint16_t>(word);
        }
        put(out, i / 256, block);
    }
}

void encode_iq1_m(const Rows &rows, Effort effort, std::uint8_t *out) {
    for (std::size_t i = 0; i < rows.rows * rows.cols; i += 256) {
        const SuperBlock found = encode(rows.x + i, importance_at(rows, i), 2, 1, kPlans[static_cast<int>(effort)]);
        IQ1_M block = {};
        for (int b = 0; b < 16; ++b) {
            const Codes &codes = found.blocks[b].codes;
            for (int g = 0; g < 2; ++g) {
                block.qs[2 * b + g] = static_cast<std::uint8_t>(codes[g].place);
                block.qh[b] |= static_cast<std::uint8_t>((codes[g].place >> 8 | (codes[g].delta < 0) << 3) << 4 * g);
            }
        }
        for (int word = 0; word < 4; ++word) {
            int bits = (found.d >> 4 * word & 15) << 12;
            for (int b = 0; b < 4; ++b) bits |= static_cast<int>(found.blocks[4 * word + b].level) << 3 * b;
            block.scales[2 * word] = static_cast<std::uint8_t>(bits);
            block.scales[2 * word + 1] = static_cast<std::uint8_t>(bits >> 8);
        }
        put(out, i / 256, block);
    }
}

}  // namespace quantpress::reference
