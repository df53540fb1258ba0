// IQ1_S and IQ1_M: weights from a grid of {-1, 0, 1}^8, moved by delta = +-1/8, on two levels of scales.
//
// What codes do to the error of a sub-block is in two sums: with v = grid + delta, a scale s takes
// s (2 sum w x v - s sum w v^2) off it. So codes are searched at a few scales, each a trial, and from the sums of the
// trials alone follows the error that any d leaves, with the best sub-scales for it: 16 candidates of d cost less than
// a search. Then codes are searched once more at the scales d (2 sc + 1) that this chose, with both deltas, and d is
// refitted to them: codes found at scales of their own are no longer the cheapest at those that are stored.
//
// The scales of the trials come from rounding without the grid, where all that is left to sum is what |x - s delta| has
// beyond s / 2. That finds the scale well, but not delta, where the grid has the last word.
#pragma once

#include <array>

#include "blocks.hpp"
#include "kernels/batch.hpp"
#include "kernels/iq1_plans.hpp"
#include "kernels/iq1_search.hpp"
#include "kernels/packing.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace iq1 {

using namespace iq1_plans;

constexpr float kDelta = 0.125f;
constexpr float kLeast = -0x1p126f;  // below any gain

// 16 sub-blocks of some groups of 8 weights; a delta holds for a set of `per_delta` groups.
template <int groups, int per_delta> struct SubBlocks {
    static constexpr int kSets = groups / per_delta, kOfSet = 8 * per_delta;
    const Float *x;
    Float w[8 * groups], sum_w[kSets], sum_wx[kSets];
    Float typical;  // scale: sum w x^2 / sum w |x|
};

template <int groups, int per_delta> inline SubBlocks<groups, per_delta> prepare(const Batch<8 * groups> &batch) {
    SubBlocks<groups, per_delta> sub;
    sub.x = batch.x;
    Float sum_wxx = broadcast(0.0f), sum_size = broadcast(0.0f);
    for (int set = 0; set < sub.kSets; ++set) {
        sub.sum_w[set] = sub.sum_wx[set] = broadcast(0.0f);
        UNROLL for (int i = sub.kOfSet * set; i < sub.kOfSet * (set + 1); ++i) {
            const Float w = larger(batch.w[i], broadcast(1e-20f));  // where all are 0, they still round
            const Float wx = w * batch.x[i];
            sub.w[i] = w;
            sub.sum_w[set] = sub.sum_w[set] + w;
            sub.sum_wx[set] = sub.sum_wx[set] + wx;
            sum_wxx = sum_wxx + wx * batch.x[i];
            sum_size = sum_size + absolute(wx);
        }
    }
    sub.typical = sum_wxx / larger(sum_size, broadcast(1e-30f));
    return sub;
}

// What rounding without the grid takes off the error, over 2 scale; bit i of minus: set i has a negative delta.
struct Rounded {
    Float gain;
    Int minus;
};

template <int n> inline Float sum_beyond(const Float *x, const Float *w, const Float &half, const Float &offset) {
    Float sum = broadcast(0.0f);
    UNROLL for (int i = 0; i < n; ++i) sum = sum + w[i] * larger(absolute(x[i] - offset), half);
    return sum;
}

template <int groups, int per_delta>
inline Rounded round_freely(const SubBlocks<groups, per_delta> &sub, const Float &scale) {
    constexpr int n = sub.kOfSet;
    const Float half = scale * 0.5f, offset = scale * kDelta;
    Rounded result = {broadcast(0.0f), broadcast(0)};
    for (int set = 0; set < sub.kSets; ++set) {
        const Float *x = sub.x + n * set, *w = sub.w + n * set;
        const Float tilt = sub.sum_wx[set] * kDelta;
        const Float plus = sum_beyond<n>(x, w, half, offset) + tilt;
        const Float minus = sum_beyond<n>(x, w, half, offset * -1.0f) - tilt;
        // w half was summed for every weight, and s^2 delta^2 is what delta alone costs
        result.gain = result.gain + (larger(plus, minus) - sub.sum_w[set] * (scale * (0.5f + kDelta * kDelta / 2)));
        result.minus = result.minus | ((minus > plus) & (1 << set));
    }
    return result;
}

template <int groups> struct Codes {
    Coded group[groups];
};

template <int groups> inline Fit fit_of(const Codes<groups> &codes) {
    Fit fit = codes.group[0].fit;
    UNROLL for (int g = 1; g < groups; ++g) fit = fit + codes.group[g].fit;
    return fit;
}

template <int groups>
inline Codes<groups> select(const Int &mask, const Codes<groups> &yes, const Codes<groups> &no) {
    Codes<groups> result;
    UNROLL for (int g = 0; g < groups; ++g) result.group[g] = select(mask, yes.group[g], no.group[g]);
    return result;
}

// The codes of a set at this scale and delta.
template <int n> inline Codes<n> search_set(const Float *x, const Float *w, const Float &scale, const Float &delta) {
    Codes<n> codes;
    for (int g = 0; g < n; ++g) codes.group[g] = cheapest_entry(x + 8 * g, w + 8 * g, scale, delta);
    return codes;
}

// The codes of sub-blocks at this scale; `choose` makes those of a set from its weights.
template <int groups, int per_delta, class Choose>
inline Codes<groups> search(const SubBlocks<groups, per_delta> &sub, Choose choose) {
    Codes<groups> codes;
    for (int set = 0; set < sub.kSets; ++set) {
        const Codes<per_delta> found = choose(sub.x + sub.kOfSet * set, sub.w + sub.kOfSet * set, set);
        UNROLL for (int g = 0; g < per_delta; ++g) codes.group[per_delta * set + g] = found.group[g];
    }
    return codes;
}

template <int groups, int per_delta>
inline Codes<groups> search_one(const SubBlocks<groups, per_delta> &sub, const Float &scale, const Int &minus) {
    return search(sub, [&](const Float *x, const Float *w, int set) {
        const Float delta = select((minus & (1 << set)) != 0, broadcast(-kDelta), broadcast(kDelta));
        return search_set<per_delta>(x, w, scale, delta);
    });
}

template <int groups, int per_delta>
inline Codes<groups> search_both(const SubBlocks<groups, per_delta> &sub, const Float &scale) {
    return search(sub, [&](const Float *x, const Float *w, int) {
        const Codes<per_delta> plus = search_set<per_delta>(x, w, scale, broadcast(kDelta));
        const Codes<per_delta> minus = search_set<per_delta>(x, w, scale, broadcast(-kDelta));
        return select(gain(fit_of(minus), scale) > gain(fit_of(plus), scale), minus, plus);
    });
}

// Where the grid has no good entry at the signs of a group, one at another sign of a light weight may cost less.
template <int groups, int per_delta>
inline void flip_signs(const SubBlocks<groups, per_delta> &sub, const Float &scale, int flips, Codes<groups> &codes) {
    for (int g = 0; g < groups; ++g) {
        const Float *x = sub.x + 8 * g, *w = sub.w + 8 * g;
        const Float delta = select((codes.group[g].code & kMinus) != 0, broadcast(-kDelta), broadcast(kDelta));
        Int flipped = broadcast(0);
        for (int i = 0; i < flips; ++i) {
            const Int flip = least_certain(x, w, scale * delta, flipped);
            const Coded other = cheapest_entry_flipped(x, w, scale, delta, flip);
            codes.group[g] = select(gain(other.fit, scale) > gain(codes.group[g].fit, scale), other, codes.group[g]);
            flipped = flipped | flip;
        }
    }
}

inline Float best_scale(const Fit &fit) { return ratio(fit.wxv, fit.wvv); }

// The scale of a sub-scale, and the sub-scale of the nearest to twice half_scale.
inline Float scale_of(const Float &level, const Float &d) { return level * (d + d) + d; }
inline Float nearest_level(const Float &half_scale, const Float &inverse_of_d) {
    return clamp(nearest(half_scale * inverse_of_d - 0.5f), 0.0f, 7.0f);
}

struct Trials {
    int count;
    Fit fit[kMostTrials];
};

// d of the super-block with sub-blocks [first, first + lanes). Here a lane is a candidate of d.
template <int lanes>
inline float choose_d(const Trials &trials, const Float &candidates, int first) {
    float wxv[kMostTrials][kLanes], wvv[kMostTrials][kLanes], half_scale[kMostTrials][kLanes];
    for (int i = 0; i < trials.count; ++i) {
        store(wxv[i], trials.fit[i].wxv);
        store(wvv[i], trials.fit[i].wvv);
        store(half_scale[i], best_scale(trials.fit[i]) * 0.5f);
    }
    const Float d = from_half(to_scale(candidates)), inverse = ratio(broadcast(1.0f), d);
    Float sum = broadcast(0.0f);
    for (int b = first; b < first + lanes; ++b) {
        Float best = broadcast(kLeast);
        for (int i = 0; i < trials.count; ++i) {
            const Float scale = scale_of(nearest_level(broadcast(half_scale[i][b]), inverse), d);
            best = larger(gain({broadcast(wxv[i][b]), broadcast(wvv[i][b])}, scale), best);
        }
        sum = sum + best;
    }
    float gains[kLanes], values[kLanes];
    store(gains, sum);
    store(values, d);
    int best = 0;
    for (int i = 1; i < kLanes; ++i) best = gains[i] > gains[best] ? i : best;
    return values[best];
}

// The scale of each sub-block at which rounding without the grid takes most off its error.
template <int groups, int per_delta>
inline Float scan(const SubBlocks<groups, per_delta> &sub, const Plan &plan) {
    Float best = sub.typical, most_gain = broadcast(kLeast);
    for (int i = 0; i < plan.scans; ++i) {
        const Float scale = sub.typical * plan.scan[i];
        const Float found = scale * round_freely(sub, scale).gain;
        best = select(found > most_gain, scale, best);
        most_gain = larger(found, most_gain);
    }
    return best;
}

template <int groups, int per_delta>
inline Trials search_trials(const SubBlocks<groups, per_delta> &sub, const Plan &plan) {
    const Float middle = scan(sub, plan);
    Trials trials;
    trials.count = plan.trials;
    for (int i = 0; i < plan.trials; ++i) {
        const Float scale = middle * plan.trial[i];
        trials.fit[i] = fit_of(plan.both ? search_both(sub, scale)
                                         : search_one(sub, scale, round_freely(sub, scale).minus));
    }
    return trials;
}

template <int lanes> inline Float choose_ds(const Trials &trials) {
    Float largest = broadcast(0.0f);
    for (int i = 0; i < trials.count; ++i) largest = larger(best_scale(trials.fit[i]), largest);
    float unit[kLanes], d[kLanes];
    store(unit, largest_over<lanes>(largest) * (1.0f / 15.0f));
    for (int first = 0; first < kLanes; first += lanes) {
        const float found = choose_d<lanes>(trials, load(kSteps) * unit[first], first);
        for (int b = first; b < first + lanes; ++b) d[b] = found;
    }
    return load(d);
}

// Sub-scales for d: the best for the trials, and its neighbour that comes next.
struct Levels {
    Float best, next;
};

inline Levels choose_levels(const Trials &trials, const Float &d) {
    const Float inverse = ratio(broadcast(1.0f), d);
    Levels levels = {broadcast(0.0f), broadcast(1.0f)};
    Float most_gain = broadcast(kLeast);
    for (int i = 0; i < trials.count; ++i) {
        const Float half_scale = best_scale(trials.fit[i]) * 0.5f;
        const Float level = nearest_level(half_scale, inverse);
        const Float beside = select(half_scale * inverse - 0.5f < level, level - 1.0f, level + 1.0f);
        const Float found = gain(trials.fit[i], scale_of(level, d));
        const Int better = found > most_gain;
        levels = {select(better, level, levels.best), select(better, beside, levels.next)};
        most_gain = larger(found, most_gain);
    }
    return levels;
}

template <int groups> struct Encoded {
    Float d, level;
    Codes<groups> codes;
};

// d by least squares, and sub-scales for it.
template <int groups> inline Encoded<groups> refit(const Float &level, const Codes<groups> &codes) {
    constexpr int lanes = 32 / groups;
    const Fit fit = fit_of(codes);
    const Float factor = level * 2.0f + 1.0f;
    const Float sum_wxv = sum_over<lanes>(fit.wxv * factor);
    const Float sum_wvv = sum_over<lanes>(fit.wvv * factor * factor);
    const Float d = from_half(to_scale(ratio(sum_wxv, sum_wvv)));
    return {d, nearest_level(best_scale(fit) * 0.5f, ratio(broadcast(1.0f), d)), codes};
}

template <int groups, int per_delta>
inline Encoded<groups> encode(const Batch<8 * groups> &batch, const Plan &plan) {
    constexpr int lanes = 32 / groups;
    const SubBlocks<groups, per_delta> sub = prepare<groups, per_delta>(batch);
    const Trials trials = search_trials(sub, plan);
    const Float d = choose_ds<lanes>(trials);
    const Levels levels = choose_levels(trials, d);
    Float level = levels.best;
    Codes<groups> codes = search_both(sub, scale_of(level, d));
    for (int i = 1; i < plan.levels; ++i) {
        const Float beside = i == 1 ? levels.next : levels.best * 2.0f - levels.next;
        const Float other = clamp(beside, 0.0f, 7.0f);
        const Codes<groups> found = search_both(sub, scale_of(other, d));
        const Int better = gain(fit_of(found), scale_of(other, d)) > gain(fit_of(codes), scale_of(level, d));
        level = select(better, other, level);
        codes = select(better, found, codes);
    }
    flip_signs(sub, scale_of(level, d), plan.flips, codes);
    return refit<groups>(level, codes);
}

// Bits as digits in base 3; the name of an entry is that of the weights used, plus that of those negative.
constexpr std::array<std::uint16_t, 256> in_base_3() {
    std::array<std::uint16_t, 256> number = {};
    for (std::size_t i = 1; i < 256; ++i) number[i] = static_cast<std::uint16_t>(3 * number[i / 2] + i % 2);
    return number;
}

constexpr std::array<std::uint16_t, 256> kInBase3 = in_base_3();

constexpr Indices<6561> kIndices(kGridIQ1, [](int levels) {
    const Entry entry = entry_of(levels);
    return kInBase3[entry.used] + kInBase3[entry.negative];
});

inline int index_of(std::int32_t code) {
    return kIndices.of[kInBase3[code & 255] + kInBase3[code & code >> 8 & 255]];
}

// Results as arrays [group][lane].
template <int groups> struct Stored {
    std::int32_t d[kLanes], level[kLanes], index[groups][kLanes], minus[groups][kLanes];

    explicit Stored(const Encoded<groups> &encoded) {
        store(d, to_scale(encoded.d));
        store(level, convert<std::int32_t>(encoded.level));
        for (int g = 0; g < groups; ++g) {
            store(minus[g], encoded.codes.group[g].code >> 16);
            store(index[g], encoded.codes.group[g].code);
            for (std::int32_t &code : index[g]) code = index_of(code);
        }
    }
};

inline void encode_iq1_s(const Rows &rows, Effort effort, std::uint8_t *out) {
    for_batches<32, 8>(rows, [&](const Batch<32> &batch, std::size_t first, std::size_t count) {
        const Stored<4> codes(encode<4, 4>(batch, kPlans[static_cast<int>(effort)]));
        for (std::size_t lane = 0; lane < count; lane += 8) {
            IQ1_S block;
            block.d = static_cast<Half>(codes.d[lane]);
            for (std::size_t b = 0; b < 8; ++b) {
                int word = codes.level[lane + b] << 12 | codes.minus[0][lane + b] << 15;
                for (std::size_t g = 0; g < 4; ++g) {
                    const int index = codes.index[g][lane + b];
                    block.qs[4 * b + g] = static_cast<std::uint8_t>(index);
                    word |= (index >> 8) << 3 * g;
                }
                block.qh[b] = static_cast<std::uint16_t>(word);
            }
            put(out, (first + lane) / 8, block);
        }
    });
}

inline void encode_iq1_m(const Rows &rows, Effort effort, std::uint8_t *out) {
    for_batches<16, 16>(rows, [&](const Batch<16> &batch, std::size_t first, std::size_t) {
        const Stored<2> codes(encode<2, 1>(batch, kPlans[static_cast<int>(effort)]));
        IQ1_M block;
        int words[4];
        for (int i = 0; i < 4; ++i) words[i] = (codes.d[0] >> 4 * i & 15) << 12;
        for (int b = 0; b < 16; ++b) {
            words[b / 4] |= codes.level[b] << 3 * (b % 4);
            int upper = 0;
            for (int g = 0; g < 2; ++g) {
                block.qs[2 * b + g] = static_cast<std::uint8_t>(codes.index[g][b]);
                upper |= (codes.index[g][b] >> 8 | codes.minus[g][b] << 3) << 4 * g;
            }
            block.qh[b] = static_cast<std::uint8_t>(upper);
        }
        for (int i = 0; i < 8; ++i) block.scales[i] = static_cast<std::uint8_t>(words[i / 2] >> 8 * (i % 2));
        put(out, first / 16, block);
    });
}

}  // namespace iq1

using iq1::encode_iq1_m;
using iq1::encode_iq1_s;

}  // namespace
}  // namespace quantpress
