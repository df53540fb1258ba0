// Blocks side by side: lane b of a vector belongs to block b, so that a search over the scale of a block runs for 16
// blocks at once, and a sum over a block is an addition a weight, in the order of the weights.
#pragma once

#include "codec.hpp"
#include "simd/lanes.hpp"

namespace quantpress {
namespace {

// Four floats of each of four rows, one after the other.
inline Float quarters(const float *a, const float *b, const float *c, const float *d) {
    Float v;
#if defined(__AVX512F__)
    const __m512 first = _mm512_castps128_ps512(_mm_loadu_ps(a));
    const __m512 second = _mm512_insertf32x4(first, _mm_loadu_ps(b), 1);
    const __m512 third = _mm512_insertf32x4(second, _mm_loadu_ps(c), 2);
    v.part[0] = (Float::Part)_mm512_insertf32x4(third, _mm_loadu_ps(d), 3);
#elif defined(__AVX2__)
    v.part[0] = (Float::Part)_mm256_loadu2_m128(b, a);
    v.part[1] = (Float::Part)_mm256_loadu2_m128(d, c);
#else
    const float *const row[4] = {a, b, c, d};
    UNROLL for (int i = 0; i < 4; ++i) std::memcpy(reinterpret_cast<float *>(&v) + 4 * i, row[i], 4 * sizeof(float));
#endif
    return v;
}

// In each four lanes: a0 b0 a1 b1, and a2 b2 a3 b3.
inline void interleave(const Float &a, const Float &b, Float &lower, Float &upper) {
    UNROLL for (int i = 0; i < Float::kParts; ++i) {
#if defined(__AVX512F__)
        const __m512 x = (__m512)a.part[i], y = (__m512)b.part[i];
        lower.part[i] = (Float::Part)_mm512_maskz_unpacklo_ps(static_cast<__mmask16>(-1), x, y);
        upper.part[i] = (Float::Part)_mm512_maskz_unpackhi_ps(static_cast<__mmask16>(-1), x, y);
#elif defined(__AVX2__)
        lower.part[i] = (Float::Part)_mm256_unpacklo_ps((__m256)a.part[i], (__m256)b.part[i]);
        upper.part[i] = (Float::Part)_mm256_unpackhi_ps((__m256)a.part[i], (__m256)b.part[i]);
#else
        const Float::Part x = a.part[i], y = b.part[i];
        lower.part[i] = Float::Part{x[0], y[0], x[1], y[1]};
        upper.part[i] = Float::Part{x[2], y[2], x[3], y[3]};
#endif
    }
}

// Each four lanes of the four vectors are a matrix of 4 x 4; to its transpose, by two rounds of interleaving.
inline void transpose_fours(const Float *a, Float *out) {
    Float b[4];
    interleave(a[0], a[2], b[0], b[1]);
    interleave(a[1], a[3], b[2], b[3]);
    interleave(b[0], b[2], out[0], out[1]);
    interleave(b[1], b[3], out[2], out[3]);
}

// Rows [16] of n adjacent floats each, transposed: out[i] holds weight i of each.
template <int n> inline void transpose(const float *const *row, Float *out) {
    static_assert(n % 4 == 0);
    for (int i = 0; i < n; i += 4) {
        Float a[4];
        UNROLL for (int k = 0; k < 4; ++k) a[k] = quarters(row[k] + i, row[4 + k] + i, row[8 + k] + i, row[12 + k] + i);
        transpose_fours(a, out + i);
    }
}

// Sixteen blocks (or sub-blocks) of n weights x, and what their squared errors weigh.
template <int n> struct Batch {
    Float x[n], w[n];
};

// In every lane what `combine`, which commutes, makes of all lanes of its super-block: of two 8 apart, then 4, 2, 1.
template <int lanes, class F> inline Float combined(const Float &v, F combine) {
    if constexpr (lanes == 1)
        return v;
    else
        return combined<lanes / 2>(combine(v, exchanged<lanes / 2>(v)), combine);
}
template <int lanes> inline Float sum_over(const Float &v) {
    return combined<lanes>(v, [](const Float &a, const Float &b) { return a + b; });
}
template <int lanes> inline Float largest_over(const Float &v) {
    return combined<lanes>(v, [](const Float &a, const Float &b) { return larger(a, b); });
}
template <int lanes> inline Float smallest_over(const Float &v) {
    return combined<lanes>(v, [](const Float &a, const Float &b) { return smaller(a, b); });
}

// 1 / x, or 0 of 0 (and of what is far below any scale that is not 0 as a float16).
inline Float reciprocal(const Float &x) {
    const Int none = absolute(x) < 1e-30f;
    return select(none, broadcast(0.0f), broadcast(1.0f) / select(none, broadcast(1.0f), x));
}

// a / b, or 0 where b is next to nothing or negative.
inline Float ratio(const Float &a, const Float &b) {
    const Int some = b > 1e-30f;
    return select(some, a / select(some, b, broadcast(1.0f)), broadcast(0.0f));
}

// The importance of a super-block of `lanes` blocks is scaled so that its largest value is 1 (a scale changes nothing,
// but keeps the sums in range); where all of it is 0, all weights count the same.
template <int n, int lanes> inline void normalise(Float *w) {
    Float top = w[0];
    UNROLL for (int i = 1; i < n; ++i) top = larger(top, w[i]);
    top = largest_over<lanes>(top);
    const Int none = top < 1e-30f;
    const Float factor = broadcast(1.0f) / select(none, broadcast(1.0f), top);
    UNROLL for (int i = 0; i < n; ++i) w[i] = select(none, broadcast(1.0f), w[i] * factor);
}

// Calls step(batch, first, count) with blocks [first, first + count) of n weights, 16 at a time, counted through the
// rows; where fewer are left, the lanes past them repeat the last. A super-block is `lanes` of them, adjacent.
template <int n, int lanes = 1, class Step> inline void for_batches(const Rows &rows, Step step) {
    const std::size_t a_row = rows.cols / n, blocks = rows.rows * a_row;
    Batch<n> batch;
    for (Float &w : batch.w) w = broadcast(1.0f);
    for (std::size_t first = 0; first < blocks; first += kLanes) {
        const std::size_t count = blocks - first < kLanes ? blocks - first : kLanes;
        const float *x[kLanes], *importance[kLanes];
        for (std::size_t b = 0; b < kLanes; ++b) {
            // whole super-blocks are repeated, so that their scales come out the same
            const std::size_t block = first + (b < count ? b : count - lanes + b % lanes);
            x[b] = rows.x + block * n;
            importance[b] = rows.importance ? rows.importance + block % a_row * n : nullptr;
        }
        transpose<n>(x, batch.x);
        if (rows.importance) {
            transpose<n>(importance, batch.w);
            normalise<n, lanes>(batch.w);
        }
        step(static_cast<const Batch<n> &>(batch), first, count);
    }
}

// Writes a block where alignment is not given.
template <class Block> inline void put(std::uint8_t *out, std::size_t index, const Block &block) {
    std::memcpy(out + index * sizeof block, &block, sizeof block);
}

}  // namespace
}  // namespace quantpress
