// The algorithm is described in kernels/iq2.hpp; sums run in the order that its lanes give.
#include "reference/iq2.hpp"

#include <vector>

#include "grids.hpp"
#include "kernels/iq2_plans.hpp"
#include "reference/scalar.hpp"

namespace quantpress::reference {
namespace {

using namespace iq2_plans;

struct Kind {
    const std::uint16_t *grid;
    int entries, groups;  // groups of 8 weights in a sub-block
    bool even;            // the number of negative weights in a group

    int weights() const { return 8 * groups; }
    int sub_blocks() const { return 256 / weights(); }
};

struct Group {
    float w[8], wx[8];  // importance; times |x|, negative where the sign is not x's
    float sum_w = 0.0f, sum_wx = 0.0f;
    int signs = 0;  // bit j: weight j is negative
};

struct SubBlock {
    std::vector<Group> group, other;  // other: with the second choice of the sign that differs
};

Group turned(Group group, int j) {
    group.wx[j] = -group.wx[j];
    group.signs ^= 1 << j;
    return group;
}

// Of equal ones the first, for the least and then for the second among the others.
void make_even(Group &group, Group &other) {
    int least = 0;
    for (int j = 1; j < 8; ++j)
        if (group.wx[j] < group.wx[least]) least = j;
    int second = least == 0 ? 1 : 0;
    for (int j = 0; j < 8; ++j)
        if (j != least && group.wx[j] < group.wx[second]) second = j;
    other = group;
    if (__builtin_popcount(static_cast<unsigned>(group.signs)) % 2 == 0) return;
    other = turned(group, second);
    group = turned(group, least);
}

SubBlock split(const float *x, const float *w, const Kind &kind) {
    float sum = 0.0f;
    for (int i = 0; i < kind.weights(); ++i) sum += w[i];
    const float share = sum * (kLeastShare / static_cast<float>(kind.weights()));
    const float floor = share > kSmallest ? share : kSmallest;
    SubBlock sub{std::vector<Group>(kind.groups), std::vector<Group>(kind.groups)};
    for (int g = 0; g < kind.groups; ++g) {
        Group &group = sub.group[g];
        for (int j = 0; j < 8; ++j) {
            const int i = 8 * g + j;
            group.w[j] = w[i] > floor ? w[i] : floor;
            group.wx[j] = group.w[j] * std::fabs(x[i]);
            group.sum_w += group.w[j];
            group.sum_wx += group.wx[j];
            group.signs |= std::signbit(x[i]) << j;
        }
        if (kind.even) make_even(group, sub.other[g]);
    }
    return sub;
}

// The entry that costs least at a scale. Costs are integers, multiples of 2^13; among equal ones the base-3 number of
// the levels' indices decides.
int cheapest_entry(const Group &group, float inverse_scale, const Kind &kind) {
    const float unit = 0x3f000000 / 35.0f / (group.sum_w * 51.0f + group.sum_wx * inverse_scale * 2.0f);
    std::int32_t cost[8][3];
    for (int j = 0, power = 1; j < 8; ++j, power *= 3) {
        const float w = group.w[j], wx = group.wx[j];
        const float cost1 = w * (unit * 561.0f) - wx * (unit * inverse_scale * 34.0f);
        const float cost2 = w * (unit * 1785.0f) - wx * (unit * inverse_scale * 70.0f);
        cost[j][0] = 0;
        cost[j][1] = (static_cast<std::int32_t>(cost1) & -8192) + power;
        cost[j][2] = (static_cast<std::int32_t>(cost2) & -8192) + 2 * power;
    }
    int best = 0;
    std::int32_t least = 0x7fffffff;
    for (int i = 0; i < kind.entries; ++i) {
        std::int32_t sum = 0;
        for (int j = 0; j < 8; ++j) sum += cost[j][kind.grid[i] >> 2 * j & 3];
        if (sum < least) {
            least = sum;
            best = i;
        }
    }
    return best;
}

struct Sums {
    float xq = 0.0f, qq = 0.0f;  // sum w x q, sum w q^2

    float error(float scale) const { return scale * (scale * qq - xq * 2.0f); }  // less sum w x^2
};

Sums sums_of(const Group &group, int entry, const Kind &kind) {
    Sums sums;
    for (int j = 0; j < 8; ++j) {
        const float q = kLevelsIQ2[kind.grid[entry] >> 2 * j & 3];
        sums.xq += group.wx[j] * q;
        sums.qq += group.w[j] * q * q;
    }
    return sums;
}

// The entries and signs of a sub-block found at some scale, and the scale at which they cost least.
struct Found {
    int entry[4], signs[4];
    Sums sums;
    float scale;
};

Found find(const SubBlock &sub, float wanted, int choices, const Kind &kind) {
    const float scale = wanted > kSmallest ? wanted : kSmallest, inverse = 1.0f / scale;
    Found found;
    for (int g = 0; g < kind.groups; ++g) {
        const Group *group = &sub.group[g];
        int entry = cheapest_entry(*group, inverse, kind);
        Sums sums = sums_of(*group, entry, kind);
        if (kind.even && choices == 2) {
            const int other_entry = cheapest_entry(sub.other[g], inverse, kind);
            const Sums other = sums_of(sub.other[g], other_entry, kind);
            if (other.error(scale) < sums.error(scale)) {
                group = &sub.other[g];
                entry = other_entry;
                sums = other;
            }
        }
        found.entry[g] = entry;
        found.signs[g] = group->signs;
        found.sums = {found.sums.xq + sums.xq, found.sums.qq + sums.qq};
    }
    found.scale = found.sums.xq / found.sums.qq;
    return found;
}

struct Choice {
    const Found *found;
    float sc, error;
};

Choice choose(const std::vector<Found> &pool, float step) {
    const float inverse = 1.0f / (step > kSmallest ? step : kSmallest);
    Choice best{nullptr, 0.0f, 3e38f};
    for (const Found &found : pool) {
        const float sc = clamp(nearest(found.scale * inverse - 0.5f), 0.0f, 15.0f);
        const float error = found.sums.error((sc + 0.5f) * step);
        if (error < best.error) best = {&found, sc, error};
    }
    return best;
}

// The sum over the sub-blocks b of value(b): halves are added to each other.
template <class F> float total(int sub_blocks, F value) {
    float sum[16] = {};
    for (int b = 0; b < sub_blocks; ++b) sum[b] = value(b);
    for (int half = sub_blocks / 2; half; half /= 2)
        for (int b = 0; b < half; ++b) sum[b] += sum[b + half];
    return sum[0];
}

struct SuperBlock {
    Half d = 0;
    float step = 0.0f, error = 3e38f;  // step: d / 4
    std::vector<SubBlock> sub;
    std::vector<std::vector<Found>> pools;  // all that was found for each sub-block

    void try_step(float wanted) {
        const Half half = to_scale(wanted * 4.0f);
        const float value = from_half(half) * 0.25f;
        const float sum = total(static_cast<int>(sub.size()), [&](int b) { return choose(pools[b], value).error; });
        if (sum >= error) return;
        d = half;
        step = value;
        error = sum;
    }
};

void set_first_step(SuperBlock &block, const Plan &plan, const Kind &kind) {
    float top = 0.0f;
    for (int b = 0; b < kind.sub_blocks(); ++b) {
        float sum_w = 0.0f, sum_wx = 0.0f, least = 3e38f;
        for (const Group &group : block.sub[b].group) {
            sum_w += group.sum_w;
            sum_wx += group.sum_wx;
        }
        float scale = sum_wx / sum_w * (plan.first * kMean), best = scale;
        for (int i = 0; i < plan.scales; ++i, scale *= plan.ratio) {
            const Found found = find(block.sub[b], scale, 1, kind);
            const float error = found.sums.error(found.scale);
            if (error < least) {
                least = error;
                best = found.scale;
            }
            block.pools[b].push_back(found);
        }
        top = b == 0 || best > top ? best : top;
    }
    for (const float multiple : kMultiples) block.try_step(top * (1.0f / multiple));
}

void refine(SuperBlock &block, const Plan &plan, const Kind &kind) {
    std::vector<Choice> choices;
    for (int b = 0; b < kind.sub_blocks(); ++b) {
        const float sc = choose(block.pools[b], block.step).sc;
        for (int i = -plan.neighbours; i <= plan.neighbours; ++i) {
            const float multiple = clamp(sc + static_cast<float>(i), 0.0f, 15.0f) + 0.5f;
            block.pools[b].push_back(find(block.sub[b], multiple * block.step, plan.choices, kind));
        }
        choices.push_back(choose(block.pools[b], block.step));
    }
    const auto multiple = [&](int b) { return choices[b].sc + 0.5f; };
    const auto sums = [&](int b) { return choices[b].found->sums; };
    const float xq = total(kind.sub_blocks(), [&](int b) { return multiple(b) * sums(b).xq; });
    const float qq = total(kind.sub_blocks(), [&](int b) { return multiple(b) * multiple(b) * sums(b).qq; });
    block.try_step(block.step);
    for (const float factor : kAround) block.try_step(xq / qq * factor);
}

// Calls pack(d, the choices of the sub-blocks) for each super-block, which gives the block to write.
template <class Pack>
void encode(const Rows &rows, Effort effort, std::uint8_t *out, const Kind &kind, Pack pack) {
    const Plan &plan = kPlans[static_cast<int>(effort)];
    for (std::size_t i = 0; i < rows.rows * rows.cols / 256; ++i) {
        float w[256];
        normalise(importance_at(rows, 256 * i), 256, w);
        SuperBlock block;
        block.pools.resize(kind.sub_blocks());
        for (int k = 0; k < 256; k += kind.weights()) block.sub.push_back(split(rows.x + 256 * i + k, w + k, kind));
        set_first_step(block, plan, kind);
        for (int round = 0; round < plan.rounds; ++round) refine(block, plan, kind);
        std::vector<Choice> choices;
        for (const std::vector<Found> &pool : block.pools) choices.push_back(choose(pool, block.step));
        put(out, i, pack(block.d, choices));
    }
}

template <class Block> void pack_scales(const std::vector<Choice> &choices, Block &block) {
    for (int b = 0; b < 16; b += 2)
        block.scales[b / 2] =
            static_cast<std::uint8_t>(static_cast<int>(choices[b].sc) | static_cast<int>(choices[b + 1].sc) << 4);
}

}  // namespace

void encode_iq2_xxs(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode(rows, effort, out, {kGridIQ2XXS, 256, 4, true}, [](Half d, const std::vector<Choice> &choices) {
        IQ2_XXS block;
        block.d = d;
        for (int b = 0; b < 8; ++b) {
            std::uint32_t indices = 0, signs = static_cast<std::uint32_t>(choices[b].sc) << 28;
            for (int g = 0; g < 4; ++g) {
                indices |= static_cast<std::uint32_t>(choices[b].found->entry[g]) << 8 * g;
                signs |= static_cast<std::uint32_t>(choices[b].found->signs[g] & 127) << 7 * g;
            }
            for (int half = 0; half < 2; ++half) {
                block.qs[4 * b + half] = static_cast<std::uint16_t>(indices >> 16 * half);
                block.qs[4 * b + 2 + half] = static_cast<std::uint16_t>(signs >> 16 * half);
            }
        }
        return block;
    });
}

void encode_iq2_xs(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode(rows, effort, out, {kGridIQ2XS, 512, 2, true}, [](Half d, const std::vector<Choice> &choices) {
        IQ2_XS block;
        block.d = d;
        for (int i = 0; i < 32; ++i) {
            const Found &found = *choices[i / 2].found;
            block.qs[i] = static_cast<std::uint16_t>(found.entry[i % 2] | (found.signs[i % 2] & 127) << 9);
        }
        pack_scales(choices, block);
        return block;
    });
}

void encode_iq2_s(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode(rows, effort, out, {kGridIQ2S, 1024, 2, false}, [](Half d, const std::vector<Choice> &choices) {
        IQ2_S block = {};
        block.d = d;
        for (int i = 0; i < 32; ++i) {
            const Found &found = *choices[i / 2].found;
            block.qs[i] = static_cast<std::uint8_t>(found.entry[i % 2]);
            block.qh[i / 4] |= static_cast<std::uint8_t>(found.entry[i % 2] >> 8 << 2 * (i % 4));
            block.signs[i] = static_cast<std::uint8_t>(found.signs[i % 2]);
        }
        pack_scales(choices, block);
        return block;
    });
}

}  // namespace quantpress::reference
