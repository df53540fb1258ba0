// The grid entry of IQ3 that costs least, among all of them, for 16 groups of four weights at once.
//
// At a scale s an entry costs the sum over its weights of w (x / s - level)^2. The sum splits into two pairs of
// weights, each with 64 values at most, and with the entries sorted by their first pair
//
//   min first[a] + second[b] over entries (a, b) = min over a of (first[a] + min over its b of second[b])
//
// takes one minimum an entry and a few operations a first pair, all in registers and the first-level cache: less than
// collecting a few candidates near the rounded weights would, which differ from lane to lane, and exact.
//
// A cost is an integer of 19 bits, so that it can carry what it belongs to: below it are the levels of the four
// weights, three bits each, and adding the costs of weights puts these together:
//
//   bit  31  30 ........... 12 | 11 ... 9 | 8 .... 6 | 5 .... 3 | 2 .... 0
//         0 | cost             | level 3  | level 2  | level 1  | level 0
//
// Integers without a sign compare like the floats of the same bits, for which every instruction set has a minimum. The
// cost of the fourth weight begins at 2^23, as below that such a float would be denormal.
#pragma once

#include <utility>

#include "kernels/batch.hpp"

namespace quantpress {
namespace {
namespace iq3 {

constexpr int kPairs = 64;
constexpr std::int32_t kPatternBits = 12, kNoCost = 1 << 23, kAnyCost = 0x7f000000;

// The second pairs of the entries whose first pair is a: second[first[a]] ... second[first[a + 1] - 1].
template <std::size_t n> struct PairLists {
    std::uint8_t second[n];
    std::uint16_t first[kPairs + 1];
};

template <std::size_t n> constexpr PairLists<n> pair_lists(const std::uint16_t (&grid)[n]) {
    PairLists<n> lists{};
    std::uint16_t count = 0;
    for (int a = 0; a < kPairs; ++a) {
        lists.first[a] = count;
        for (const std::uint16_t entry : grid)
            if (entry % kPairs == a) lists.second[count++] = static_cast<std::uint8_t>(entry / kPairs);
    }
    lists.first[kPairs] = count;
    return lists;
}

template <const auto &grid> inline constexpr auto kPairLists = pair_lists(grid);
template <const auto &grid, int a>
inline constexpr int kEntries = kPairLists<grid>.first[a + 1] - kPairLists<grid>.first[a];

// Costs of as many groups as a register has lanes, and weights of these. Of Ints, which may be several registers, GCC 12
// makes copies in memory at every step: thirty times slower on AVX2.
using Costs = Int::Part;
using Weights = Float::Part;

inline Costs least(Costs a, Costs b) { return (Costs)smaller((Weights)a, (Weights)b); }

// The least of the costs of the second pairs that go with a.
template <const auto &grid, int a> INLINED inline Costs least_second(const Costs *second) {
    constexpr auto &lists = kPairLists<grid>;
    Costs low = second[lists.second[lists.first[a]]];
    [&]<int... i>(std::integer_sequence<int, i...>) INLINED {
        ((low = least(low, second[lists.second[lists.first[a] + 1 + i]])), ...);
    }(std::make_integer_sequence<int, kEntries<grid, a> - 1>{});
    return low;
}

// Calls step(0), step(1), ... step(7) with compile-time constants.
template <class Step> INLINED inline void for_levels(Step step) {
    [&]<int... l>(std::integer_sequence<int, l...>) INLINED {
        (step(std::integral_constant<int, l>{}), ...);
    }(std::make_integer_sequence<int, 8>{});
}

// What weight i of the group costs at a level that is `off` from it.
inline Costs cost_of(Weights off, Weights w, int i, int level) {
    constexpr std::int32_t kCost = -1 << kPatternBits;
    const Costs cost = (converted<Costs>(off * off * w) & kCost) | (level << 3 * i);
    return i == 3 ? cost + kNoCost : cost;
}

template <const auto &grid, const auto &levels>
[[gnu::noinline]] Costs search_part(const Float *u, const Float *w, int part) {
    Costs cost[4][8], second[kPairs];
    for (int i = 0; i < 4; ++i)
        UNROLL for (int l = 0; l < 8; ++l)
            cost[i][l] = cost_of(u[i].part[part] - static_cast<float>(levels[l]), w[i].part[part], i, l);
    UNROLL for (int l = 0; l < 8; ++l)
        UNROLL for (int k = 0; k < 8; ++k) second[8 * l + k] = cost[2][k] + cost[3][l];
    Costs best = Costs{} + kAnyCost;
    for_levels([&](auto q) INLINED {
        static_assert(kPairLists<grid>.first[8 * q] < kPairLists<grid>.first[8 * q + 8]);  // kAnyCost is not added to
        Costs row = Costs{} + kAnyCost;
        for_levels([&](auto p) INLINED {
            constexpr int a = 8 * decltype(q)::value + decltype(p)::value;
            if constexpr (kEntries<grid, a> > 0) row = least(row, cost[0][p] + least_second<grid, a>(second));
        });
        best = least(best, row + cost[1][q]);
    });
    return best;
}

// The least cost and the levels with it, for weights u = x / s and what a squared offset of each costs.
template <const auto &grid, const auto &levels> inline Int search_grid(const Float *u, const Float *w) {
    Int best;
    for (int part = 0; part < Int::kParts; ++part) best.part[part] = search_part<grid, levels>(u, w, part);
    return best;
}

// The same with the right signs, and with that of one weight turned round, whichever costs least.
template <class Cost> struct Signed {
    Cost right, turned;
};

template <const auto &grid, const auto &levels>
[[gnu::noinline]] Signed<Costs> search_signed_part(const Float *u, const Float *w, int part) {
    Costs cost[4][8], turned[4][8], second[kPairs], second_turned[kPairs];
    for (int i = 0; i < 4; ++i)
        UNROLL for (int l = 0; l < 8; ++l) {
            const float level = static_cast<float>(levels[l]);
            cost[i][l] = cost_of(u[i].part[part] - level, w[i].part[part], i, l);
            turned[i][l] = cost_of(u[i].part[part] + level, w[i].part[part], i, l);
        }
    UNROLL for (int l = 0; l < 8; ++l)
        UNROLL for (int k = 0; k < 8; ++k) {
            second[8 * l + k] = cost[2][k] + cost[3][l];
            second_turned[8 * l + k] = least(turned[2][k] + cost[3][l], cost[2][k] + turned[3][l]);
        }
    Costs right = Costs{} + kAnyCost, wrong = right;
    for_levels([&](auto q) INLINED {
        Costs row = Costs{} + kAnyCost, row_wrong = row;
        for_levels([&](auto p) INLINED {
            constexpr int a = 8 * decltype(q)::value + decltype(p)::value;
            if constexpr (kEntries<grid, a> > 0) {
                const Costs low = least_second<grid, a>(second), low_turned = least_second<grid, a>(second_turned);
                row = least(row, cost[0][p] + low);
                row_wrong = least(row_wrong, least(cost[0][p] + low_turned, turned[0][p] + low));
            }
        });
        right = least(right, row + cost[1][q]);
        wrong = least(wrong, least(row_wrong + cost[1][q], row + turned[1][q]));
    });
    return {right, wrong};
}

template <const auto &grid, const auto &levels> inline Signed<Int> search_signed(const Float *u, const Float *w) {
    Signed<Int> best;
    for (int part = 0; part < Int::kParts; ++part) {
        const Signed<Costs> found = search_signed_part<grid, levels>(u, w, part);
        best.right.part[part] = found.right;
        best.turned.part[part] = found.turned;
    }
    return best;
}

}  // namespace iq3
}  // namespace
}  // namespace quantpress
