// Codes of several weights (IQ1, IQ2, IQ3) under a quadratic form: the entry of a grid, and the signs beside it, whose
// errors e keep |e M|^2 small for the triangle M of the group's own columns.
//
// Signs are those of the targets; where their number must be even and is not, the two that cost least to turn round are
// tried. Where a group of eight is two codes, the second knows the errors of the first.
//
// The nearest entry is found by branch and bound. A term of the sum depends on its own and earlier weights only: the
// first half of an entry, its head, has a cost that the whole entry cannot fall below. Heads are few, and tried for 16
// rows at once, a lane a row. Then row by row, a lane an entry, the entries of the cheapest head are compared, and of
// those others that cost no more than the best of these.
#pragma once

#include "alphabet.hpp"
#include "kernels/batch.hpp"

namespace quantpress {
namespace {
namespace entries {

constexpr int kGroup = 8;
constexpr float kNever = 3e38f, kInfinite = __builtin_inff();

using Triangle = float[kGroup][kGroup];  // [k][j], k <= j

// Of 16 rows.
struct Chosen {
    Float cost;
    Int code[kGroup];
    Float level[kGroup];  // with their signs
};

// Of the entries with these signs the nearest to v [width] of each row, the first of equal ones.
template <int width> class Nearest {
public:
    // before: what earlier errors have left; m: the triangle of these columns, [k][j] at m[k * kGroup + j].
    Nearest(const Grid &grid, const Float *v, const Float *sign, const Float *before, const float *m) : grid_(grid) {
        for (int k = 0; k < width; ++k) {
            store(magnitude_[k], v[k] * sign[k]);
            for (int j = k; j < width; ++j) store(factor_[k][j], sign[k] * m[k * kGroup + j]);
        }
        open<0>(before, broadcast(0.0f), 0);
        for (int head = kHeads; head < kVectors * kLanes; ++head) bound_[head] = broadcast(kInfinite);
        for (int i = 0; i < kVectors; ++i) by_rows(bound_ + i * kLanes);
    }

    // The code, as a float, and its cost; of those below `limit`: code 0 and the limit where there are none.
    void find(int row, float limit, float &code, float &cost) const {
        Float lowest = bound_[row], costs = broadcast(limit), codes = broadcast(0.0f);
        UNROLL for (int i = 1; i < kVectors; ++i) lowest = smaller(lowest, bound_[i * kLanes + row]);
        visit(heads_within(smallest_over<kLanes>(lowest), row).first(), row, costs, codes);
        Heads left = heads_within(smallest_over<kLanes>(costs), row);
        for (; left.low; left.low &= left.low - 1) visit(__builtin_ctzll(left.low), row, costs, codes);
        for (; left.high; left.high &= left.high - 1) visit(64 + __builtin_ctzll(left.high), row, costs, codes);
        const Float least = smallest_over<kLanes>(costs);
        cost = first_lane(least);
        code = first_lane(smallest_over<kLanes>(select(costs == least, codes, broadcast(kNever))));
    }

private:
    static constexpr int kHalf = width / 2, kLevels = width == 8 ? 3 : 8, kHeads = width == 8 ? 81 : 64,
                         kVectors = (kHeads + kLanes - 1) / kLanes;

    struct Heads {
        std::uint64_t low, high;  // the first 64, and the others: a bit each
        int first() const { return low ? __builtin_ctzll(low) : high ? 64 + __builtin_ctzll(high) : 0; }
    };

    // All heads that begin with the k levels of `head`; r: what the errors of these leave of all weights.
    template <int k> void open(const Float *r, const Float &cost, int head) {
        if constexpr (k == kHalf) {
            keep(r, cost, head);
        } else {
            for (int level = 0; level < kLevels; ++level) {
                const Float e = load(magnitude_[k]) - grid_.levels[level];
                Float rest[width];
                UNROLL for (int j = k; j < width; ++j) rest[j] = fused(r[j], e, load(factor_[k][j]));
                open<k + 1>(rest, fused(cost, rest[k], rest[k]), head * kLevels + level);
            }
        }
    }

    // No entry of a head costs less than the head and the cheapest level of the weight after it.
    void keep(const Float *r, const Float &cost, int head) {
        store(cost_[head], cost);
        UNROLL for (int j = 0; j < kHalf; ++j) store(rest_[head][j], r[kHalf + j]);
        Float next = broadcast(kInfinite);
        for (int level = 0; level < kLevels && grid_.starts[head] < grid_.starts[head + 1]; ++level) {
            const Float e = load(magnitude_[kHalf]) - grid_.levels[level];
            next = smaller(absolute(fused(r[kHalf], e, load(factor_[kHalf][kHalf]))), next);
        }
        bound_[head] = fused(cost, next, next);
    }

    // Sixteen heads of 16 rows: from a vector a head to a vector a row.
    static void by_rows(Float *bounds) {
        float from[kLanes][kLanes];
        const float *head[kLanes];
        for (int i = 0; i < kLanes; ++i) {
            store(from[i], bounds[i]);
            head[i] = from[i];
        }
        transpose<kLanes>(head, bounds);
    }

    Heads heads_within(const Float &cost, int row) const {
        std::uint64_t within[2] = {};
        UNROLL for (int i = 0; i < kVectors; ++i)
            within[i / 4] |= std::uint64_t{lanes_of(bound_[i * kLanes + row] <= cost)} << i % 4 * kLanes;
        return {within[0], within[1]};
    }

    // Compares the entries of a head with the nearest so far.
    void visit(int head, int row, Float &least, Float &code) const {
        for (int i = grid_.starts[head]; i < grid_.starts[head + 1]; ++i) {
            Float cost = broadcast(cost_[head][row]), r[kHalf];
            UNROLL for (int j = 0; j < kHalf; ++j) r[j] = broadcast(rest_[head][j][row]);
            UNROLL for (int k = 0; k < kHalf; ++k) {
                const Float e = broadcast(magnitude_[kHalf + k][row]) - load(grid_.tails + (i * kHalf + k) * kLanes);
                UNROLL for (int j = k; j < kHalf; ++j)
                    r[j] = fused(r[j], e, broadcast(factor_[kHalf + k][kHalf + j][row]));
                cost = fused(cost, r[k], r[k]);
            }
            const Float own = load(grid_.codes + i * kLanes);
            const Int better = (cost < least) | ((cost == least) & (own < code));
            least = select(better, cost, least);
            code = select(better, own, code);
        }
    }

    const Grid &grid_;
    alignas(Float) float magnitude_[width][kLanes];
    alignas(Float) float factor_[width][width][kLanes];
    alignas(Float) float cost_[kHeads][kLanes];
    alignas(Float) float rest_[kHeads][kHalf][kLanes];
    Float bound_[kVectors * kLanes];
};

// The signs of where the errors so far would have these weights: of v + the solution of shift M = before.
template <int width> inline void turn_to(const Float *v, const Float *before, const float *m, Float *sign) {
    Float shift[width];
    for (int j = 0; j < width; ++j) {
        Float sum = before[j];
        for (int k = 0; k < j; ++k) sum = sum - shift[k] * m[k * kGroup + j];
        shift[j] = sum / m[j * kGroup + j];
        sign[j] = select(v[j] + shift[j] < 0.0f, broadcast(-1.0f), broadcast(1.0f));
    }
}

// One code after the other, of some rows (a bit each). v: in steps, already without what the group's own columns do to
// each other.
template <int width>
inline Chosen with_signs(const Alphabet &of, const Float *v, const Float *sign, const Triangle &m, unsigned rows,
                         const Float &limit) {
    float limits[kLanes];
    store(limits, limit);
    Chosen found;
    found.cost = broadcast(0.0f);
    Float before[kGroup], signs[kGroup];
    for (int j = 0; j < kGroup; ++j) before[j] = broadcast(0.0f), signs[j] = sign[j];
    for (int at = 0; at < kGroup; at += width) {
        if (at && of.signs == Signs::kFree) turn_to<width>(v + at, before + at, m[at] + at, signs + at);
        float cost[kLanes] = {}, code[kLanes] = {};
        const Nearest<width> search(*of.grid, v + at, signs + at, before + at, m[at] + at);
        for (unsigned left = rows; left; left &= left - 1) {
            const int row = __builtin_ctz(left);
            search.find(row, limits[row], code[row], cost[row]);
        }
        found.cost = found.cost + load(cost);
        found.code[at / width] = convert<std::int32_t>(load(code));
        for (int k = 0; k < width; ++k) {
            float level[kLanes];
            for (int row = 0; row < kLanes; ++row) level[row] = of.entries[k * of.size + static_cast<int>(code[row])];
            found.level[at + k] = load(level) * signs[at + k];
            const Float e = v[at + k] - found.level[at + k];
            for (int j = at + width; j < kGroup; ++j) before[j] = before[j] + e * m[at + k][j];
        }
    }
    return found;
}

// The two weights whose signs cost least to turn round.
inline void cheapest_signs(const Float *v, const Triangle &m, Int *which) {
    Float least[2] = {broadcast(kNever), broadcast(kNever)};
    which[0] = broadcast(0), which[1] = broadcast(1);
    for (int k = 0; k < kGroup; ++k) {
        const Float cost = absolute(v[k]) * (m[k][k] * m[k][k]);
        const Int first = cost < least[0], second = cost < least[1];
        least[1] = select(first, least[0], select(second, cost, least[1]));
        which[1] = select(first, which[0], select(second, broadcast(k), which[1]));
        least[0] = select(first, cost, least[0]);
        which[0] = select(first, broadcast(k), which[0]);
    }
}

template <int width> inline Chosen choose(const Alphabet &of, const Float *v, const Triangle &m) {
    constexpr unsigned all = 0xffff;
    Float sign[kGroup], turned[kGroup];
    Int odd = broadcast(0), which[2];
    for (int k = 0; k < kGroup; ++k) {
        const Int negative = v[k] < 0.0f;
        sign[k] = of.signs == Signs::kNone ? broadcast(1.0f) : select(negative, broadcast(-1.0f), broadcast(1.0f));
        odd = odd ^ negative;
    }
    if (of.signs != Signs::kEven) return with_signs<width>(of, v, sign, m, all, broadcast(kNever));
    cheapest_signs(v, m, which);
    const auto turn = [&](const Int &one) {
        for (int k = 0; k < kGroup; ++k) turned[k] = select(odd & (one == k), sign[k] * -1.0f, sign[k]);
    };
    turn(which[0]);
    Chosen best = with_signs<width>(of, v, turned, m, all, broadcast(kNever));
    turn(which[1]);
    const Chosen other = with_signs<width>(of, v, turned, m, lanes_of(odd), best.cost);
    const Int better = odd & (other.cost < best.cost);
    best.cost = select(better, other.cost, best.cost);
    for (int i = 0; i < kGroup / width; ++i) best.code[i] = select(better, other.code[i], best.code[i]);
    for (int k = 0; k < kGroup; ++k) best.level[k] = select(better, other.level[k], best.level[k]);
    return best;
}

}  // namespace entries
}  // namespace
}  // namespace quantpress
