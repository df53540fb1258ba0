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

inline Int least(const Int &a, const Int &b) { return bits<std::int32_t>(smaller(bits<float>(a), bits<float>(b))); }

// The least of the costs of the second pairs that go with a.
template <const auto &grid, int a> inline Int least_second(const Int *second) {
    constexpr auto &lists = kPairLists<grid>;
    Int low = second[lists.second[lists.first[a]]];
    [&]<int... i>(std::integer_sequence<int, i...>) {
        ((low = least(low, second[lists.second[lists.first[a] + 1 + i]])), ...);
    }(std::make_integer_sequence<int, kEntries<grid, a> - 1>{});
    return low;
}

// Calls step(0), step(1), ... step(7) with compile-time constants.
template <class Step> inline void for_levels(Step step) {
    [&]<int... l>(std::integer_sequence<int, l...>) {
        (step(std::integral_constant<int, l>{}), ...);
    }(std::make_integer_sequence<int, 8>{});
}

// What weight i of the group costs at a level that is `off` from it.
inline Int cost_of(const Float &off, const Float &w, int i, int level) {
    constexpr std::int32_t kCost = -1 << kPatternBits;
    const Int cost = (convert<std::int32_t>(off * off * w) & kCost) | (level << 3 * i);
    return i == 3 ? cost + kNoCost : cost;
}

// The least cost and the levels with it, for weights u = x / s and what a squared offset of each costs.
template <const auto &grid, const auto &levels> [[gnu::noinline]] Int search_grid(const Float *u, const Float *w) {
    Int cost[4][8], second[kPairs];
    for (int i = 0; i < 4; ++i)
        UNROLL for (int l = 0; l < 8; ++l) cost[i][l] = cost_of(u[i] - static_cast<float>(levels[l]), w[i], i, l);
    UNROLL for (int l = 0; l < 8; ++l)
        UNROLL for (int k = 0; k < 8; ++k) second[8 * l + k] = cost[2][k] + cost[3][l];
    Int best = broadcast(kAnyCost);
    for_levels([&](auto q) {
        static_assert(kPairLists<grid>.first[8 * q] < kPairLists<grid>.first[8 * q + 8]);  // kAnyCost is not added to
        Int row = broadcast(kAnyCost);
        for_levels([&](auto p) {
            constexpr int a = 8 * decltype(q)::value + decltype(p)::value;
            if constexpr (kEntries<grid, a> > 0) row = least(row, cost[0][p] + least_second<grid, a>(second));
        });
        best = least(best, row + cost[1][q]);
    });
    return best;
}

// The same with the right signs, and with that of one weight turned round, whichever costs least.
struct Signed {
    Int right, turned;
};

template <const auto &grid, const auto &levels> [[gnu::noinline]] Signed search_signed(const Float *u, const Float *w) {
    Int cost[4][8], turned[4][8], second[kPairs], second_turned[kPairs];
    for (int i = 0; i < 4; ++i)
        UNROLL for (int l = 0; l < 8; ++l) {
            cost[i][l] = cost_of(u[i] - static_cast<float>(levels[l]), w[i], i, l);
            turned[i][l] = cost_of(u[i] + static_cast<float>(levels[l]), w[i], i, l);
        }
    UNROLL for (int l = 0; l < 8; ++l)
        UNROLL for (int k = 0; k < 8; ++k) {
            second[8 * l + k] = cost[2][k] + cost[3][l];
            second_turned[8 * l + k] = least(turned[2][k] + cost[3][l], cost[2][k] + turned[3][l]);
        }
    Signed best = {broadcast(kAnyCost), broadcast(kAnyCost)};
    for_levels([&](auto q) {
        Signed row = {broadcast(kAnyCost), broadcast(kAnyCost)};
        for_levels([&](auto p) {
            constexpr int a = 8 * decltype(q)::value + decltype(p)::value;
            if constexpr (kEntries<grid, a> > 0) {
                const Int low = least_second<grid, a>(second), low_turned = least_second<grid, a>(second_turned);
                row.right = least(row.right, cost[0][p] + low);
                row.turned = least(row.turned, least(cost[0][p] + low_turned, turned[0][p] + low));
            }
        });
        best.right = least(best.right, row.right + cost[1][q]);
        best.turned = least(best.turned, least(row.turned + cost[1][q], row.right + turned[1][q]));
    });
    return best;
}

}  // namespace iq3
}  // namespace
}  // namespace quantpress
