// IQ3_XXS and IQ3_S: four absolute values at once from a grid, signs beside, sub-blocks of 32 whose scale is a few bits
// of the super-block's.
//
// A lane is a sub-block, two super-blocks a vector. With the levels l of its weights chosen, the error of a sub-block
// is a parabola of its scale s,
//
//   e(s) = sum w (x - s l)^2 = s^2 ll - 2 s lx + sum w x^2,    ll = sum w l^2, lx = sum w l x
//
// so a search of the grid at one scale bounds the error at the scales near it, and a few searches bound it everywhere
// by the lowest of their parabolas. On these bounds, which cost next to nothing, many scales of the super-block are
// tried, each with the codes of the sub-blocks that suit it best. Only for the best is the grid searched again, at the
// scales as they will be decoded; the scale of the super-block then follows by least squares.
//
// IQ3_XXS can only have an even number of negative signs in a group of 8. Where it is odd, one sign is turned round.
// The first searches turn that of the weight for which it looks cheapest, the later ones find the best together with
// the entries of the grid.
#pragma once

#include "blocks.hpp"
#include "kernels/iq3_plans.hpp"
#include "kernels/iq3_search.hpp"
#include "kernels/packing.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace iq3 {

using namespace iq3_plans;

// Sums over a sub-block; `at` leaves out the part that neither s nor l changes.
struct Parabola {
    Float ll, lx;
    Float at(const Float &s) const { return s * (s * ll - (lx + lx)); }
};

// -1 where the number of bits set in byte h is odd.
inline Int odd_bits(const Int &word, int h) {
    Int byte = word >> 8 * h;
    byte = byte ^ (byte >> 4);
    byte = byte ^ (byte >> 2);
    byte = byte ^ (byte >> 1);
    return broadcast(0) - (byte & 1);
}

inline Int bit(int i) { return broadcast(static_cast<std::int32_t>(1u << i)); }

// Sub-blocks being encoded. Weights are positive, except for a sign turned round, and scaled by a power of two.
template <class Grid> struct SubBlocks {
    Float x[32], w[32];
    Float heaviest[8], cost[32];  // the largest w of each four, and what kCostOfStep makes of w relative to it
    Float power;                  // that the weights were multiplied by, the same in a super-block
    Float estimate;               // of the scale
    Int negative;                 // signs of the weights as they are
    Int levels[8], signs;         // found by the last search

    // The largest weight of a super-block comes to lie in [1, 2), so that no sum of products leaves the range of
    // float32. Where the importance is 0, weights still count enough to be rounded sensibly.
    explicit SubBlocks(const Batch<32> &batch) {
        Float top = broadcast(0.0f);
        for (const Float &v : batch.x) top = larger(absolute(v), top);
        const Int exponent = bits<std::int32_t>(largest_over<8>(top)) & 0x7f800000;
        power = bits<float>(broadcast(254 << 23) - exponent);
        negative = broadcast(0);
        for (int i = 0; i < 32; ++i) {
            x[i] = absolute(batch.x[i]) * power;
            w[i] = larger(batch.w[i], broadcast(kLeastImportance));
            negative = negative | ((batch.x[i] < 0.0f) & bit(i));
        }
        signs = negative;
        for (int g = 0; g < 8; ++g) price(g);
        const Float mean = mean_of_large(top * power);
        estimate = mean * (1.0f / Grid::levels[7]);
        for (int h = 0; Grid::even && h < 4; ++h) turn_sign(h, mean);
    }

    // What the search lets the squared errors of a group of four cost: relative to each other only, to make the most of
    // the bits of a cost.
    void price(int g) {
        const Float *four = w + 4 * g;
        heaviest[g] = larger(larger(four[0], four[1]), larger(four[2], four[3]));
        const Float factor = broadcast(kCostOfStep * (1 << kPatternBits) / (Grid::step * Grid::step)) / heaviest[g];
        for (int i = 0; i < 4; ++i) cost[4 * g + i] = four[i] * factor;
    }

    // A mean that leans to the largest weights, sum w x^5 / sum w x^4: the highest level should come to lie near it.
    Float mean_of_large(const Float &top) const {
        Float fifths = broadcast(0.0f), fourths = broadcast(0.0f);
        const Float inverse = ratio(broadcast(1.0f), top);
        for (int i = 0; i < 32; ++i) {
            const Float v = x[i] * inverse, square = v * v, fourth = square * square * w[i];
            fifths = fifths + fourth * v;
            fourths = fourths + fourth;
        }
        return top * ratio(fifths, fourths);
    }

    // Of the weights of the group h of 8, if a sign has to be turned round, the one for which it looks cheapest. At the
    // lowest level l the error of a small weight grows by 4 x l, that of a larger one, which has a level nearby, by
    // about (x + l)^2.
    void turn_sign(int h, const Float &mean) {
        Float low = broadcast(3e38f);
        Int which = broadcast(0);
        for (int i = 8 * h; i < 8 * h + 8; ++i) {
            const Float loss = w[i] * x[i] * (x[i] + mean * 0.25f);
            which = select(loss < low, bit(i), which);
            low = smaller(loss, low);
        }
        which = which & odd_bits(negative, h);
        for (int i = 8 * h; i < 8 * h + 8; ++i) x[i] = turned(x[i], which, i);
    }

    static Float turned(const Float &v, const Int &which, int i) {
        return select((which & bit(i)) != 0, broadcast(0.0f) - v, v);
    }

    // The level of weight i of four.
    static Float level(const Int &four, int i) {
        float values[kLanes];
        UNROLL for (int l = 0; l < kLanes; ++l) values[l] = Grid::levels[l % 8];
        return lookup(load(values), (four >> 3 * i) & 7);
    }

    // All weights at the lowest level, which fits best where they are all alike.
    Parabola lowest() const {
        Parabola sums = {broadcast(0.0f), broadcast(0.0f)};
        for (int i = 0; i < 32; ++i) add(sums, broadcast<float>(Grid::levels[0]), i, x[i]);
        return sums;
    }

    // Searches the grid for sub-blocks of scale s, with the signs as they are.
    Parabola search(const Float &s) {
        const Float inverse = ratio(broadcast(1.0f), s);
        Parabola found = {broadcast(0.0f), broadcast(0.0f)};
        for (int g = 0; g < 8; ++g) {
            Float u[4];
            for (int i = 0; i < 4; ++i)
                u[i] = clamp(x[4 * g + i] * inverse, kLeastOffset * Grid::step, kMostOffset * Grid::step);
            levels[g] = search_grid<Grid::grid, Grid::levels>(u, cost + 4 * g);
            for (int i = 0; i < 4; ++i) add(found, level(levels[g], i), 4 * g + i, x[4 * g + i]);
        }
        return found;
    }

    void add(Parabola &sums, const Float &l, int i, const Float &v) const {
        const Float wl = w[i] * l;
        sums.ll = sums.ll + wl * l;
        sums.lx = sums.lx + wl * v;
    }

    // Searches the grid and the sign to turn round together.
    Parabola search_with_signs(const Float &s) {
        if constexpr (!Grid::even) return search(s);
        const Float inverse = ratio(broadcast(1.0f), s);
        Parabola found = {broadcast(0.0f), broadcast(0.0f)};
        signs = negative;
        for (int h = 0; h < 4; ++h) {
            Signed<Int> half[2];
            Float right[2], wrong[2];
            for (int k = 0; k < 2; ++k) {
                const int g = 2 * h + k;
                Float u[4];
                for (int i = 0; i < 4; ++i)
                    u[i] = smaller(absolute(x[4 * g + i]) * inverse, broadcast(kMostOffset * Grid::step));
                half[k] = search_signed<Grid::grid, Grid::levels>(u, cost + 4 * g);
                right[k] = convert<float>((half[k].right - kNoCost) >> kPatternBits) * heaviest[g];
                wrong[k] = convert<float>((half[k].turned - kNoCost) >> kPatternBits) * heaviest[g];
            }
            const Int odd = odd_bits(negative, h), first = wrong[0] + right[1] < right[0] + wrong[1];
            take(found, 2 * h, half[0], odd & first);
            take(found, 2 * h + 1, half[1], odd & (first ^ -1));
        }
        return found;
    }

    // Four weights as found, with a sign turned round where `turn` says so.
    void take(Parabola &sums, int g, const Signed<Int> &four, const Int &turn) {
        levels[g] = select(turn, four.turned, four.right);
        Float l[4], low = broadcast(3e38f);
        Int which = broadcast(0);
        for (int i = 0; i < 4; ++i) {
            const int j = 4 * g + i;
            l[i] = level(levels[g], i);
            const Float loss = l[i] * absolute(x[j]) * w[j];
            which = select(loss < low, bit(j), which);
            low = smaller(loss, low);
        }
        which = which & turn;
        signs = signs ^ which;
        for (int i = 0; i < 4; ++i) add(sums, l[i], 4 * g + i, turned(absolute(x[4 * g + i]), which, 4 * g + i));
    }
};

// The bounds of the errors, and the best scale of each super-block and codes of its sub-blocks by them.
template <class Grid> struct Scales {
    Parabola bound[kMostBounds];
    int bounds = 0;
    Float scale = broadcast(0.0f), lowest = broadcast(0.0f);  // of each sub-block on its own
    Float d = broadcast(0.0f), code = broadcast(0.0f), error = broadcast(0.0f);
    Float power;

    explicit Scales(const Float &factor) : power(factor) {}

    void add(const Parabola &parabola) {
        const Float s = ratio(parabola.lx, parabola.ll), bottom = parabola.at(s);
        scale = select(bottom < lowest, s, scale);
        lowest = smaller(bottom, lowest);
        bound[bounds++] = parabola;
    }

    static Float decoded(const Float &d, const Float &code) { return d * ((code + 0.5f) * Grid::unit); }

    Int stored(const Float &wanted) const { return to_scale(wanted / power); }

    // The lowest bound of each sub-block, and its code, one of the two next to its own scale.
    Float best_code(const Float &tried, Float &best) const {
        const Float below = nearest(ratio(scale, tried * Grid::unit) - 1.0f);
        const Float first = clamp(below, 0.0f, 15.0f), second = clamp(below + 1.0f, 0.0f, 15.0f);
        const Float s = decoded(tried, first), t = decoded(tried, second);
        Float low = bound[0].at(s), other = bound[0].at(t);
        for (int k = 1; k < bounds; ++k) {
            low = smaller(bound[k].at(s), low);
            other = smaller(bound[k].at(t), other);
        }
        best = select(other < low, second, first);
        return smaller(other, low);
    }

    void consider(const Float &wanted) {
        const Float tried = from_half(stored(wanted)) * power;
        Float codes = broadcast(0.0f);
        const Float sum = sum_over<8>(best_code(tried, codes));
        const Int better = sum < error;
        d = select(better, tried, d);
        code = select(better, codes, code);
        error = smaller(sum, error);
    }

    // The d of least squares for parabolas and codes.
    Float least_squares(const Parabola &parabola) const {
        const Float m = (code + 0.5f) * Grid::unit;
        return ratio(sum_over<8>(m * parabola.lx), sum_over<8>(m * m * parabola.ll));
    }

    // The parabola that is lowest at the scales chosen.
    Parabola chosen() const {
        const Float s = decoded(d, code);
        Parabola best = bound[0];
        for (int k = 1; k < bounds; ++k) {
            const Int lower = bound[k].at(s) < best.at(s);
            best.ll = select(lower, bound[k].ll, best.ll);
            best.lx = select(lower, bound[k].lx, best.lx);
        }
        return best;
    }

    // Tries `count` scales of the super-block, then those of least squares.
    void choose(int count) {
        const Float longest = largest_over<8>(scale) * (1.0f / Grid::unit);
        const float step = (kHighest - kLowest) / static_cast<float>(count);
        for (int k = 0; k < count; ++k) consider(longest / broadcast(kHighest - step * static_cast<float>(k)));
        for (int k = 0; k < 2; ++k) consider(least_squares(chosen()));
    }
};

// What a block holds, a lane a sub-block.
struct Found {
    std::int32_t levels[8][kLanes], signs[kLanes], codes[kLanes], d[kLanes];
};

// Calls pack(super-block, its first lane, what was found).
template <class Grid, class Pack> inline void encode(const Rows &rows, Effort effort, Pack pack) {
    const Plan &plan = kPlans[static_cast<int>(effort)];
    for_batches<32, 8>(rows, [&](const Batch<32> &batch, std::size_t first, std::size_t count) {
        SubBlocks<Grid> blocks(batch);
        Scales<Grid> scales(blocks.power);
        scales.add(blocks.lowest());
        Float s = blocks.estimate * kFirst;
        for (int k = 0; k < plan.coarse; ++k, s = s * plan.ratio) scales.add(blocks.search(s));
        for (int k = 0; k < plan.fine; ++k) scales.add(blocks.search_with_signs(scales.scale * kNear[k]));
        scales.choose(plan.scales);
        const Parabola last = blocks.search_with_signs(scales.decoded(scales.d, scales.code));
        Found found;
        for (int g = 0; g < 8; ++g) store(found.levels[g], blocks.levels[g] & ((1 << kPatternBits) - 1));
        store(found.signs, blocks.signs);
        store(found.codes, convert<std::int32_t>(scales.code));
        store(found.d, scales.stored(scales.least_squares(last)));
        for (std::size_t lane = 0; lane < count; lane += 8) pack((first + lane) / 8, lane, found);
    });
}

template <const auto &grid> constexpr Indices<1 << kPatternBits> kIndices(grid, [](int levels) { return levels; });

inline void encode_iq3_xxs(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<XXS>(rows, effort, [out](std::size_t index, std::size_t lane, const Found &found) {
        IQ3_XXS block;
        block.d = static_cast<Half>(found.d[lane]);
        for (std::size_t b = 0; b < 8; ++b) {
            for (std::size_t g = 0; g < 8; ++g) {
                const int entry = kIndices<kGridIQ3XXS>.of[found.levels[g][lane + b]];
                block.qs[8 * b + g] = static_cast<std::uint8_t>(entry);
            }
            const std::uint32_t signs = static_cast<std::uint32_t>(found.signs[lane + b]);
            std::uint32_t word = static_cast<std::uint32_t>(found.codes[lane + b]) << 28;
            for (int h = 0; h < 4; ++h) word |= (signs >> 8 * h & 127) << 7 * h;
            std::memcpy(block.signs + 4 * b, &word, sizeof word);
        }
        put(out, index, block);
    });
}

inline void encode_iq3_s(const Rows &rows, Effort effort, std::uint8_t *out) {
    encode<S>(rows, effort, [out](std::size_t index, std::size_t lane, const Found &found) {
        IQ3_S block = {};
        block.d = static_cast<Half>(found.d[lane]);
        for (std::size_t b = 0; b < 8; ++b) {
            for (std::size_t g = 0; g < 8; ++g) {
                const int entry = kIndices<kGridIQ3S>.of[found.levels[g][lane + b]];
                block.qs[8 * b + g] = static_cast<std::uint8_t>(entry);
                block.qh[b] |= static_cast<std::uint8_t>(entry >> 8 << g);
            }
            std::memcpy(block.signs + 4 * b, &found.signs[lane + b], sizeof found.signs[0]);
            block.scales[b / 2] |= static_cast<std::uint8_t>(found.codes[lane + b] << 4 * (b % 2));
        }
        put(out, index, block);
    });
}

}  // namespace iq3

using iq3::encode_iq3_s;
using iq3::encode_iq3_xxs;

}  // namespace
}  // namespace quantpress
