// The cheapest entry of the grid of IQ1 for 16 groups of 8 weights at once, at a given scale s and delta.
//
// With t = x - s delta, a weight that the entry has at 0 costs w t^2, and at the sign of t it costs w (s^2 - 2 s |t|)
// more. The other sign never pays but where the grid leaves no choice. So a group sees 2^8 of the 3^8 patterns, those
// that use or leave each weight at its sign; the grid has about half of them, whatever the signs: a table of 256 bits
// for each of the 256 combinations of signs. All 256 are looked at: the four lower weights make 16 sums, the four upper
// ones 16 more, and a bit tells whether a pair of them is an entry. Costs are integers with the pattern below, so that
// a minimum needs no index beside it. Shortlists of near entries are longer, and miss some.
#pragma once

#include "grids.hpp"
#include "simd/lanes.hpp"

namespace quantpress {
namespace {
namespace iq1 {

// An entry as bits j of the weights j that it has not at 0, and of those at -1.
struct Entry {
    int used, negative;
};

constexpr Entry entry_of(int levels) {
    Entry entry = {0, 0};
    for (int j = 0; j < 8; ++j) {
        entry.used |= ((levels >> 2 * j & 3) != 1) << j;
        entry.negative |= ((levels >> 2 * j & 3) == 0) << j;
    }
    return entry;
}

// Bit used % 32 of word[used / 32][signs]: the grid has an entry that uses these weights at these signs (of all eight).
struct Patterns {
    std::int32_t word[8][256];
};

constexpr Patterns patterns() {
    Patterns grid = {};
    for (const int levels : kGridIQ1) {
        const Entry entry = entry_of(levels);
        for (int signs = 0; signs < 256; ++signs) {
            if ((signs & entry.used) != entry.negative) continue;
            grid.word[entry.used / 32][signs] |= static_cast<std::int32_t>(1u << entry.used % 32);
        }
    }
    return grid;
}

constexpr Patterns kPatterns = patterns();

// What the values v = grid + delta of some weights fit: sum w x v and sum w v^2.
struct Fit {
    Float wxv, wvv;
};

inline Fit operator+(const Fit &a, const Fit &b) { return {a.wxv + b.wxv, a.wvv + b.wvv}; }

// What the values at this scale take off the error of zeros.
inline Float gain(const Fit &fit, const Float &scale) { return scale * (fit.wxv * 2.0f - scale * fit.wvv); }

constexpr int kMinus = 1 << 16;

// The entry of a group: bits 0 to 7 are the weights used, 8 to 15 the signs (of all eight), kMinus a negative delta.
struct Coded {
    Fit fit;
    Int code;
};

inline Coded select(const Int &mask, const Coded &yes, const Coded &no) {
    return {{select(mask, yes.fit.wxv, no.fit.wxv), select(mask, yes.fit.wvv, no.fit.wvv)},
            select(mask, yes.code, no.code)};
}

// The sums of all subsets of four numbers, sum[i] of those with a bit in i.
inline void subset_sums(const Int *number, Int *sum) {
    sum[0] = broadcast(0);
    UNROLL for (int i = 1; i < 16; ++i) sum[i] = sum[i & (i - 1)] + number[__builtin_ctz(i)];
}

using Part = Int::Part;

// The smaller of a and b where word has this bit, else b.
inline Part smaller_where(const Part &word, const Part &bit, const Part &a, const Part &b) {
#if defined(__AVX512F__)
    const __mmask16 mask = _mm512_test_epi32_mask((__m512i)word, (__m512i)bit);
    return (Part)_mm512_mask_min_epi32((__m512i)b, mask, (__m512i)a, (__m512i)b);
#else
    const Part candidate = (word & bit) != 0 ? a : b;
    return candidate < b ? candidate : b;
#endif
}

// The smallest of low[i] + high[k] with the bit 16 (k % 2) + i in word[k / 2].
inline Part smallest_sum(const Part *word, const Part *low, const Part *high) {
    Part least[16];
    UNROLL for (Part &v : least) v = Part{} + 0x3fffffff;
    Part even = Part{} + 1, odd = Part{} + 0x10000;
    for (int i = 0; i < 16; ++i) {
        UNROLL for (int k = 0; k < 8; ++k) {
            least[2 * k] = smaller_where(word[k], even, low[i], least[2 * k]);
            least[2 * k + 1] = smaller_where(word[k], odd, low[i], least[2 * k + 1]);
        }
        even = even << 1;
        odd = odd << 1;
    }
    Part smallest = Part{} + 0x7fffffff;
    UNROLL for (int k = 0; k < 16; ++k) {
        const Part sum = least[k] + high[k];
        smallest = sum < smallest ? sum : smallest;
    }
    return smallest;
}

// The weights used by the cheapest entry, from the cost of using each: below 2^19, times 2^8, and on top 2^j.
[[gnu::noinline]] inline Int cheapest_pattern(const Int *cost, const Int &signs) {
    Int low[16], high[16], word[8];
    subset_sums(cost, low);
    subset_sums(cost + 4, high);
    UNROLL for (int k = 0; k < 8; ++k) word[k] = gather(kPatterns.word[k], signs);
    Int pattern;
    UNROLL for (int part = 0; part < Int::kParts; ++part) {
        Part w[8], l[16], h[16];
        UNROLL for (int k = 0; k < 8; ++k) w[k] = word[k].part[part];
        UNROLL for (int k = 0; k < 16; ++k) l[k] = low[k].part[part], h[k] = high[k].part[part];
        pattern.part[part] = smallest_sum(w, l, h);
    }
    return pattern & 255;
}

// Bit j for the weight whose sign matters least: the smallest w |t| but for the weights in `done`.
inline Int least_certain(const Float *x, const Float *w, const Float &offset, const Int &done) {
    Float least = broadcast(0x1p126f);
    Int weight = broadcast(0);
    UNROLL for (int j = 0; j < 8; ++j) {
        const Float certainty = select((done & (1 << j)) != 0, broadcast(0x1p127f), w[j] * absolute(x[j] - offset));
        weight = select(certainty < least, broadcast(1 << j), weight);
        least = smaller(certainty, least);
    }
    return weight;
}

// What the pattern stands for.
inline Coded coded(const Float *x, const Float *w, const Float &delta, const Int &used, const Int &signs) {
    constexpr std::int32_t kOne = 0x3f800000;  // as a float32
    Fit fit = {broadcast(0.0f), broadcast(0.0f)};
    UNROLL for (int j = 0; j < 8; ++j) {
        const Float entry = bits<float>(((signs << (31 - j)) & INT32_MIN) | kOne);
        const Float value = select((used & (1 << j)) != 0, delta + entry, delta);
        const Float weighted = w[j] * value;
        fit.wxv = fit.wxv + weighted * x[j];
        fit.wvv = fit.wvv + weighted * value;
    }
    return {fit, used | (signs << 8) | ((bits<std::int32_t>(delta) >> 31) & kMinus)};
}

// The cheapest entry; with the signs of the weights in `flip` the other way where any are.
template <bool flips>
[[gnu::noinline]] Coded cheapest(const Float *x, const Float *w, const Float &scale, const Float &delta,
                                 const Int &flip) {
    const Float offset = scale * delta;
    Float cost[8], top = broadcast(1e-30f);
    Int signs = broadcast(0);
    UNROLL for (int j = 0; j < 8; ++j) {
        const Float t = x[j] - offset;
        signs = signs | ((bits<std::int32_t>(t) >> 31) & (1 << j));
        Float along = absolute(t);
        if (flips) along = select((flip & (1 << j)) != 0, along * -1.0f, along);
        cost[j] = w[j] * (scale - (along + along));
        top = larger(absolute(cost[j]), top);
    }
    if (flips) signs = signs ^ flip;
    // kRound leaves an integer in the low bits; of the upper ones only 2^30 is not shifted out
    const Float unit = broadcast(0x1p19f) / top;
    Int number[8];
    UNROLL for (int j = 0; j < 8; ++j)
        number[j] = (bits<std::int32_t>(cost[j] * unit + kRound) << 8) - (0x40000000 - (1 << j));
    return coded(x, w, delta, cheapest_pattern(number, signs), signs);
}

inline Coded cheapest_entry(const Float *x, const Float *w, const Float &scale, const Float &delta) {
    return cheapest<false>(x, w, scale, delta, broadcast(0));
}

inline Coded cheapest_entry_flipped(const Float *x, const Float *w, const Float &scale, const Float &delta,
                                    const Int &flip) {
    return cheapest<true>(x, w, scale, delta, flip);
}

}  // namespace iq1
}  // namespace
}  // namespace quantpress
