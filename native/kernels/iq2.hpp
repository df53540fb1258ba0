// IQ2_XXS, IQ2_XS, IQ2_S: groups of 8 weights from a grid, signs beside, a scale of d (sc + 1/2) / 4 a sub-block.
//
// A lane is a sub-block. At a few scales around the one that its mean suggests, the grid is searched without leaving
// any entry out (iq2_search.hpp). What was found there costs, at any other scale s,
//
//   sum w (x - s q)^2 = sum w x^2 - 2 s sum w x q + s^2 sum w q^2
//
// and the minimum over all that was found so far bounds the error of the sub-block at s, closely where s is near one of
// the scales searched. With it, many values of d are compared for little: each sub-block takes its best multiple of
// d / 4. Then the grid is searched again, at the multiples chosen and next to them, what is found joins the rest, and d
// is set by weighted least squares and compared with values around it. Errors are those of the rounded d, so that no
// step can make them larger.
//
// Where a group has no bit for its eighth sign, the number of negative weights must be even: an odd one takes the other
// sign of the weight that matters least, and it is that weight's negative that the grid is searched for. For a smaller
// error the second least is tried too; a third does not help.
#pragma once

#include "blocks.hpp"
#include "kernels/batch.hpp"
#include "kernels/iq2_plans.hpp"
#include "kernels/iq2_search.hpp"
#include "kernels/packing.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace iq2 {

using namespace iq2_plans;

template <int groups> struct SubBlocks {
    Group group[groups], other[groups];      // other: with the second choice of the sign that differs
    Int signs[groups], other_signs[groups];  // bit j: weight j is negative
};

// Turns the sign of the weight (a bit in `which`).
inline void turn(Group &group, Int &signs, const Int &which) {
    signs = signs ^ which;
    UNROLL for (int j = 0; j < 8; ++j) group.wx[j] = select(which == (1 << j), group.wx[j] * -1.0f, group.wx[j]);
}

// Makes the number of negative weights even, by the weight of smallest w |x| or, in the other group, the second; of
// equal ones the first in the group is taken.
inline void make_even(Group &group, Int &signs, Group &other, Int &other_signs) {
    Float least = group.wx[0], second = broadcast(3e38f);
    Int at = broadcast(1), second_at = at;
    UNROLL for (int j = 1; j < 8; ++j) {
        const Int below = group.wx[j] < least, next = group.wx[j] < second;
        second_at = select(below, at, select(next, broadcast(1 << j), second_at));
        second = select(below, least, select(next, group.wx[j], second));
        at = select(below, broadcast(1 << j), at);
        least = select(below, group.wx[j], least);
    }
    const Int four = signs ^ (signs >> 4), two = four ^ (four >> 2);
    const Int odd = ((two ^ (two >> 1)) & 1) == 1;
    other = group;
    other_signs = signs;
    turn(group, signs, at & odd);
    turn(other, other_signs, second_at & odd);
}

template <int groups, bool even> inline SubBlocks<groups> split(const Batch<8 * groups> &batch) {
    SubBlocks<groups> sub;
    Float sum = broadcast(0.0f);
    for (const Float &w : batch.w) sum = sum + w;
    const Float floor = larger(sum * (kLeastShare / (8 * groups)), broadcast(kSmallest));
    for (int g = 0; g < groups; ++g) {
        Group &group = sub.group[g];
        group.sum_w = group.sum_wx = broadcast(0.0f);
        sub.signs[g] = broadcast(0);
        UNROLL for (int j = 0; j < 8; ++j) {
            const Float x = batch.x[8 * g + j];
            group.w[j] = larger(batch.w[8 * g + j], floor);
            group.wx[j] = group.w[j] * absolute(x);
            group.sum_w = group.sum_w + group.w[j];
            group.sum_wx = group.sum_wx + group.wx[j];
            sub.signs[g] = sub.signs[g] | ((bits<std::int32_t>(x) >> 31) & (1 << j));
        }
        if constexpr (even) make_even(group, sub.signs[g], sub.other[g], sub.other_signs[g]);
    }
    return sub;
}

struct Sums {
    Float xq, qq;  // sum w x q, sum w q^2

    Float error(const Float &scale) const { return scale * (scale * qq - xq * 2.0f); }  // less sum w x^2
};

inline Sums sums_of(const Group &group, const Int &name) {
    static constexpr float kEven[kLanes] = {8, 25, 43, 8, 25, 43, 8, 25, 43};  // of two weights' levels
    static constexpr float kOdd[kLanes] = {8, 8, 8, 25, 25, 25, 43, 43, 43};
    const Int upper = (name * 6473) >> 19, lower = name - upper * 81;  // name / 81, exactly
    Sums sums{broadcast(0.0f), broadcast(0.0f)};
    const auto add = [&](int j, const Float &q) {
        sums.xq = sums.xq + group.wx[j] * q;
        sums.qq = sums.qq + group.w[j] * q * q;
    };
    UNROLL for (int p = 0; p < 4; ++p) {
        const Int quad = p < 2 ? lower : upper, second = (quad * 57) >> 9;  // quad / 9
        const Int pair = p % 2 ? second : quad - second * 9;
        add(2 * p, lookup(load(kEven), pair));
        add(2 * p + 1, lookup(load(kOdd), pair));
    }
    return sums;
}

constexpr std::int32_t kOther = 1 << 13;  // in a name: the other signs go with it

// What was found at some scale.
template <int groups> struct Found {
    Int name[groups];
    Sums sums;
    Float scale;  // where this costs least
};

template <const auto &grid, int groups>
inline Found<groups> find(const SubBlocks<groups> &sub, const Float &wanted, int choices) {
    const Float scale = larger(wanted, broadcast(kSmallest)), inverse = broadcast(1.0f) / scale;
    Found<groups> found;
    found.sums = {broadcast(0.0f), broadcast(0.0f)};
    for (int g = 0; g < groups; ++g) {
        Int name = cheapest_entry<grid>(sub.group[g], inverse);
        Sums sums = sums_of(sub.group[g], name);
        if (choices == 2) {
            const Int other_name = cheapest_entry<grid>(sub.other[g], inverse);
            const Sums other = sums_of(sub.other[g], other_name);
            const Int better = other.error(scale) < sums.error(scale);
            name = select(better, other_name | kOther, name);
            sums = {select(better, other.xq, sums.xq), select(better, other.qq, sums.qq)};
        }
        found.name[g] = name;
        found.sums = {found.sums.xq + sums.xq, found.sums.qq + sums.qq};
    }
    found.scale = found.sums.xq / found.sums.qq;
    return found;
}

// All that was found for 16 sub-blocks.
template <int groups> struct Pool {
    int count = 0;
    Found<groups> found[kMostFound];
};

struct Choice {
    Float error, sc;
    Int at;  // in the pool
    Sums sums;
};

// The best that is known for scales of step (sc + 1/2).
template <int groups> inline Choice choose(const Pool<groups> &pool, const Float &step) {
    const Float inverse = broadcast(1.0f) / larger(step, broadcast(kSmallest));
    Choice best;
    best.error = broadcast(3e38f);
    best.sc = best.sums.xq = best.sums.qq = broadcast(0.0f);
    best.at = broadcast(0);
    for (int i = 0; i < pool.count; ++i) {
        const Found<groups> &found = pool.found[i];
        const Float sc = clamp(nearest(found.scale * inverse - 0.5f), 0.0f, 15.0f);
        const Float error = found.sums.error((sc + 0.5f) * step);
        const Int better = error < best.error;
        best.error = select(better, error, best.error);
        best.sc = select(better, sc, best.sc);
        best.at = select(better, broadcast(i), best.at);
        best.sums = {select(better, found.sums.xq, best.sums.xq), select(better, found.sums.qq, best.sums.qq)};
    }
    return best;
}

// The best d so far, as d / 4 and as it is stored, and its error.
struct Step {
    Float value, error;
    Int half;
};

template <int lanes, int groups> inline void try_step(Step &best, const Pool<groups> &pool, const Float &wanted) {
    const Int half = to_scale(wanted * 4.0f);
    const Float value = from_half(half) * 0.25f;
    const Float error = sum_over<lanes>(choose(pool, value).error);
    const Int better = error < best.error;
    best.value = select(better, value, best.value);
    best.error = select(better, error, best.error);
    best.half = select(better, half, best.half);
}

// Fills the pool and picks d from what is in it.
template <const auto &grid, int lanes, int groups>
inline Step first_step(const SubBlocks<groups> &sub, const Plan &plan, Pool<groups> &pool) {
    Float sum_w = broadcast(0.0f), sum_wx = sum_w;
    for (const Group &group : sub.group) {
        sum_w = sum_w + group.sum_w;
        sum_wx = sum_wx + group.sum_wx;
    }
    Float scale = sum_wx / sum_w * (plan.first * kMean), best = scale, least = broadcast(3e38f);
    for (int i = 0; i < plan.scales; ++i, scale = scale * plan.ratio) {
        const Found<groups> &found = pool.found[pool.count++] = find<grid>(sub, scale, 1);
        const Float error = found.sums.error(found.scale);
        best = select(error < least, found.scale, best);
        least = smaller(error, least);
    }
    const Float top = largest_over<lanes>(best);
    Step step{broadcast(0.0f), broadcast(3e38f), broadcast(0)};
    for (const float multiple : kMultiples) try_step<lanes>(step, pool, top * (1.0f / multiple));
    return step;
}

// Searches at the multiples chosen and next to them, and sets d anew.
template <const auto &grid, int lanes, int groups>
inline void refine(Step &step, const SubBlocks<groups> &sub, const Plan &plan, int choices, Pool<groups> &pool) {
    const Float sc = choose(pool, step.value).sc;
    for (int i = -plan.neighbours; i <= plan.neighbours; ++i) {
        const Float multiple = clamp(sc + static_cast<float>(i), 0.0f, 15.0f) + 0.5f;
        pool.found[pool.count++] = find<grid>(sub, multiple * step.value, choices);
    }
    const Choice choice = choose(pool, step.value);
    const Float multiple = choice.sc + 0.5f;
    const Float square = multiple * multiple * choice.sums.qq;
    const Float centre = sum_over<lanes>(multiple * choice.sums.xq) / sum_over<lanes>(square);
    try_step<lanes>(step, pool, step.value);  // what was found makes it better
    for (const float factor : kAround) try_step<lanes>(step, pool, centre * factor);
}

// 16 sub-blocks, ready to be packed.
template <int groups> struct Coded {
    std::int32_t name[groups][kLanes], signs[groups][kLanes], sc[kLanes], d[kLanes];
};

template <bool even, int groups>
inline Coded<groups> coded(const SubBlocks<groups> &sub, const Pool<groups> &pool, const Step &step) {
    const Choice choice = choose(pool, step.value);
    Coded<groups> result;
    for (int g = 0; g < groups; ++g) {
        Int name = broadcast(0);
        for (int i = 0; i < pool.count; ++i) name = select(choice.at == i, pool.found[i].name[g], name);
        store(result.name[g], name & kNames);
        if constexpr (even)
            store(result.signs[g], select((name & kOther) == 0, sub.signs[g], sub.other_signs[g]));
        else
            store(result.signs[g], sub.signs[g]);
    }
    store(result.sc, convert<std::int32_t>(choice.sc));
    store(result.d, step.half);
    return result;
}

// Calls pack(coded, its first lane) for each super-block, which gives the block to write.
template <const auto &grid, int groups, bool even, class Pack>
inline void encode_iq2(const Rows &rows, Effort effort, std::uint8_t *out, Pack pack) {
    constexpr int n = 8 * groups, lanes = 256 / n;
    const Plan &plan = kPlans[static_cast<int>(effort)];
    for_batches<n, lanes>(rows, [&](const Batch<n> &batch, std::size_t first, std::size_t count) {
        const SubBlocks<groups> sub = split<groups, even>(batch);
        Pool<groups> pool;
        Step step = first_step<grid, lanes>(sub, plan, pool);
        for (int round = 0; round < plan.rounds; ++round)
            refine<grid, lanes>(step, sub, plan, even ? plan.choices : 1, pool);
        const Coded<groups> result = coded<even>(sub, pool, step);
        for (std::size_t lane = 0; lane < count; lane += lanes) put(out, (first + lane) / lanes, pack(result, lane));
    });
}

template <const auto &grid>
constexpr Indices<6561> kIndices(grid, [](int entry) { return base3(entry & 255) + kQuads * base3(entry >> 8); });

inline void encode_iq2_xxs(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode_iq2<kGridIQ2XXS, 4, true>(rows, effort, out, [](const Coded<4> &coded, std::size_t lane) {
        IQ2_XXS block;
        block.d = static_cast<Half>(coded.d[lane]);
        for (std::size_t b = 0; b < 8; ++b) {
            std::uint32_t indices = 0, signs = static_cast<std::uint32_t>(coded.sc[lane + b]) << 28;
            for (int g = 0; g < 4; ++g) {
                indices |= std::uint32_t{kIndices<kGridIQ2XXS>.of[coded.name[g][lane + b]]} << 8 * g;
                signs |= static_cast<std::uint32_t>(coded.signs[g][lane + b] & 127) << 7 * g;
            }
            for (int half = 0; half < 2; ++half) {
                block.qs[4 * b + half] = static_cast<std::uint16_t>(indices >> 16 * half);
                block.qs[4 * b + 2 + half] = static_cast<std::uint16_t>(signs >> 16 * half);
            }
        }
        return block;
    });
}

template <class Block> inline void pack_scales(const std::int32_t *sc, Block &block) {
    for (int b = 0; b < 8; ++b) block.scales[b] = static_cast<std::uint8_t>(sc[2 * b] | sc[2 * b + 1] << 4);
}

inline void encode_iq2_xs(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode_iq2<kGridIQ2XS, 2, true>(rows, effort, out, [](const Coded<2> &coded, std::size_t) {
        IQ2_XS block;
        block.d = static_cast<Half>(coded.d[0]);
        for (int i = 0; i < 32; ++i) {
            const int index = kIndices<kGridIQ2XS>.of[coded.name[i % 2][i / 2]];
            block.qs[i] = static_cast<std::uint16_t>(index | (coded.signs[i % 2][i / 2] & 127) << 9);
        }
        pack_scales(coded.sc, block);
        return block;
    });
}

inline void encode_iq2_s(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode_iq2<kGridIQ2S, 2, false>(rows, effort, out, [](const Coded<2> &coded, std::size_t) {
        IQ2_S block;
        block.d = static_cast<Half>(coded.d[0]);
        for (int i = 0; i < 8; ++i) block.qh[i] = 0;
        for (int i = 0; i < 32; ++i) {
            const int index = kIndices<kGridIQ2S>.of[coded.name[i % 2][i / 2]];
            block.qs[i] = static_cast<std::uint8_t>(index);
            block.qh[i / 4] |= static_cast<std::uint8_t>(index >> 8 << 2 * (i % 4));
            block.signs[i] = static_cast<std::uint8_t>(coded.signs[i % 2][i / 2]);
        }
        pack_scales(coded.sc, block);
        return block;
    });
}

}  // namespace iq2

using iq2::encode_iq2_s;
using iq2::encode_iq2_xs;
using iq2::encode_iq2_xxs;

}  // namespace
}  // namespace quantpress
