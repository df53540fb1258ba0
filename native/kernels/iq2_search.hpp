// The cheapest entry of a grid of 8 weights with 3 levels, for 16 groups at once and without leaving any entry out.
//
// Level l costs w (x - s l)^2: less what the lowest level costs, and with all constants in front, two products a level.
// Costs become integers, with the level's digit (0, 1, 2) times 3^j in the low 13 bits, so that a sum over the weights
// is the cost of an entry and its name at once, and a minimum needs no index beside it. The sums of the four lower
// weights are made for all 81 combinations; each combination of the upper four takes the smallest sum of those that it
// occurs with, and adds its own. Made from the grid by the compiler, this is straight-line code, and where the lists of
// two combinations begin alike, the smallest of the common part is found once: some 130, 200 and 310 minima for the
// 256, 512 and 1024 entries. Shortlists of near entries would take a gather a lane, and miss some.
#pragma once

#include <algorithm>

#include "grids.hpp"
#include "simd/lanes.hpp"

namespace quantpress {
namespace {
namespace iq2 {

constexpr int kQuads = 81;  // combinations of four weights
constexpr int kPowersOf3[8] = {1, 3, 9, 27, 81, 243, 729, 2187};

constexpr std::int32_t kNames = (1 << 13) - 1;  // 3^8 entries have a name
// Sums of costs stay within +- kCostRange, and with kCostBias they are positive: their bits, taken as float32, are
// normal numbers in the same order, of which the minimum is one fast instruction everywhere.
constexpr std::int32_t kCostRange = 0x3f000000, kCostBias = 0x40000000, kNoEntry = 0x7f7fffff;

// The base-3 number of four digits of two bits each.
constexpr int base3(int digits) {
    return (digits & 3) + 3 * (digits >> 2 & 3) + 9 * (digits >> 4 & 3) + 27 * (digits >> 6 & 3);
}

// For each combination of the upper four weights, those of the lower four that it occurs with: the most frequent ones
// first, so that many lists begin alike; and the order in which such lists come together.
struct Partners {
    int count[kQuads] = {};
    std::uint8_t lower[kQuads][kQuads] = {};
    std::uint8_t order[kQuads] = {};
};

template <const auto &grid> constexpr Partners partners() {
    Partners found;
    int frequency[kQuads] = {};
    for (const int entry : grid) ++frequency[base3(entry & 255)];
    for (const int entry : grid) {
        const int upper = base3(entry >> 8);
        found.lower[upper][found.count[upper]++] = static_cast<std::uint8_t>(base3(entry & 255));
    }
    for (int u = 0; u < kQuads; ++u) {
        found.order[u] = static_cast<std::uint8_t>(u);
        std::sort(found.lower[u], found.lower[u] + found.count[u], [&](int a, int b) {
            return frequency[a] != frequency[b] ? frequency[a] > frequency[b] : a < b;
        });
    }
    std::sort(found.order, found.order + kQuads, [&](int a, int b) {
        const auto *first = found.lower[a], *second = found.lower[b];
        return std::lexicographical_compare(first, first + found.count[a], second, second + found.count[b]);
    });
    return found;
}

template <const auto &grid> constexpr Partners kPartners = partners<grid>();

// Costs are searched a register at a time: several parts at once would not stay in registers.
using Costs = Int::Part;

inline Costs smaller_cost(const Costs &a, const Costs &b) {
    const Float::Part x = (Float::Part)a, y = (Float::Part)b;
    if constexpr (Float::kParts == 1)
        return (Costs)smaller(Float{{x}}, Float{{y}}).part[0];
    else
        return (Costs)(x < y ? x : y);
}

// The smallest cost of a combination of the upper weights with one of its partners.
template <const auto &grid, int upper, int... i>
[[gnu::always_inline]] inline Costs cheapest_partner(const Costs *lower, std::integer_sequence<int, i...>) {
    Costs least = lower[kPartners<grid>.lower[upper][0]];
    ((least = smaller_cost(lower[kPartners<grid>.lower[upper][i + 1]], least)), ...);
    return least;
}

template <const auto &grid, int upper>
[[gnu::always_inline]] inline Costs with_upper(const Costs &least, const Costs *lower, const Costs (*pair)[9]) {
    constexpr int kCount = kPartners<grid>.count[upper];
    if constexpr (kCount == 0) {
        return least;
    } else {
        const Costs partner = cheapest_partner<grid, upper>(lower, std::make_integer_sequence<int, kCount - 1>{});
        return smaller_cost(partner + (pair[2][upper % 9] + pair[3][upper / 9]), least);
    }
}

// The smallest cost, with its name, from the costs of two weights: pair[p][level of 2p + 3 * level of 2p + 1].
template <const auto &grid, int... i>
[[gnu::noinline]] Costs cheapest(const Costs (*pair)[9], std::integer_sequence<int, i...>) {
    Costs lower[kQuads];
    for (int k = 0; k < 9; ++k)
        UNROLL for (int m = 0; m < 9; ++m) lower[9 * k + m] = pair[0][m] + pair[1][k];
    Costs least[4];
    for (Costs &one : least) one = Costs{} + kNoEntry;
    ((least[i % 4] = with_upper<grid, kPartners<grid>.order[i]>(least[i % 4], lower, pair)), ...);
    return smaller_cost(smaller_cost(least[0], least[1]), smaller_cost(least[2], least[3]));
}

// A group of 8 weights: what their squared errors weigh, w; w x, negative where the sign is not x's; sums of both's
// absolute values.
struct Group {
    Float w[8], wx[8], sum_w, sum_wx;
};

// The name of the cheapest entry at a scale: sum_j digit[j] 3^j.
template <const auto &grid> inline Int cheapest_entry(const Group &group, const Float &inverse_scale) {
    // (l - 8)(l + 8) and 2 (l - 8) of the levels 25 and 43; no level costs more than 35 w (51 + 2 |x| / s)
    const Float unit = broadcast(kCostRange / 35.0f) / (group.sum_w * 51.0f + group.sum_wx * inverse_scale * 2.0f);
    const Float w1 = unit * 561.0f, x1 = unit * inverse_scale * 34.0f;
    const Float w2 = unit * 1785.0f, x2 = unit * inverse_scale * 70.0f;
    Costs pair[Int::kParts][4][9];
    UNROLL for (int p = 0; p < 4; ++p) {
        Int level[2][3];
        UNROLL for (int k = 0; k < 2; ++k) {
            const int j = 2 * p + k;
            const Int cost1 = convert<std::int32_t>(group.w[j] * w1 - group.wx[j] * x1);
            const Int cost2 = convert<std::int32_t>(group.w[j] * w2 - group.wx[j] * x2);
            level[k][0] = broadcast(j == 0 ? kCostBias : 0);
            level[k][1] = level[k][0] + ((cost1 & ~kNames) | kPowersOf3[j]);
            level[k][2] = level[k][0] + ((cost2 & ~kNames) | (2 * kPowersOf3[j]));
        }
        UNROLL for (int i = 0; i < 9; ++i)
            UNROLL for (int part = 0; part < Int::kParts; ++part)
                pair[part][p][i] = level[0][i % 3].part[part] + level[1][i / 3].part[part];
    }
    Int found;
    for (int part = 0; part < Int::kParts; ++part)
        found.part[part] = cheapest<grid>(pair[part], std::make_integer_sequence<int, kQuads>{});
    return found & kNames;
}

}  // namespace iq2
}  // namespace
}  // namespace quantpress
