// The small vector type that the kernels are written over: always 16 lanes, whatever the registers hold.
//
// A fixed number of lanes gives every instruction set the same order of operations, hence the same bits. The
// instruction set supplies only VECTOR_BYTES, the width of its registers; 16 lanes are as many of them as it takes.
// Everything has internal linkage: each file of isa/ compiles its own copy with its own flags, and no copy can be
// linked in another's place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINED __attribute__((always_inline))  // of lambdas too

namespace quantpress {
namespace {

constexpr int kLanes = 16;

template <class T> struct Lanes {
    typedef T Part __attribute__((vector_size(VECTOR_BYTES < kLanes * sizeof(T) ? VECTOR_BYTES : kLanes * sizeof(T))));
    static constexpr int kWidth = static_cast<int>(sizeof(Part) / sizeof(T));
    static constexpr int kParts = kLanes / kWidth;
    Part part[kParts];
};

using Float = Lanes<float>;
using Double = Lanes<double>;
using Int = Lanes<std::int32_t>;  // also the masks that comparisons of Float give: -1 or 0 a lane
using Short = Lanes<std::uint16_t>;

template <class T> inline Lanes<T> load(const T *from) {
    Lanes<T> v;
    UNROLL for (int i = 0; i < v.kParts; ++i) std::memcpy(&v.part[i], from + i * v.kWidth, sizeof v.part[i]);
    return v;
}

template <class T> inline void store(T *to, const Lanes<T> &v) {
    UNROLL for (int i = 0; i < v.kParts; ++i) std::memcpy(to + i * v.kWidth, &v.part[i], sizeof v.part[i]);
}

template <class T> inline Lanes<T> broadcast(T x) {
    Lanes<T> v;
    // x - 0 is x, even for -0
    UNROLL for (int i = 0; i < Lanes<T>::kParts; ++i) v.part[i] = x - typename Lanes<T>::Part{};
    return v;
}

inline Int lane_numbers() {
    constexpr std::int32_t numbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return load(numbers);
}

#define QUANTPRESS_OPERATOR(op)                                                               \
    template <class T> inline Lanes<T> operator op(Lanes<T> a, const Lanes<T> &b) {           \
        UNROLL for (int i = 0; i < Lanes<T>::kParts; ++i) a.part[i] = a.part[i] op b.part[i]; \
        return a;                                                                             \
    }                                                                                         \
    template <class T> inline Lanes<T> operator op(const Lanes<T> &a, T b) { return a op broadcast(b); }
QUANTPRESS_OPERATOR(+)
QUANTPRESS_OPERATOR(-)
QUANTPRESS_OPERATOR(*)
QUANTPRESS_OPERATOR(/)
QUANTPRESS_OPERATOR(&)
QUANTPRESS_OPERATOR(|)
QUANTPRESS_OPERATOR(^)
QUANTPRESS_OPERATOR(<<)
QUANTPRESS_OPERATOR(>>)
#undef QUANTPRESS_OPERATOR

#define QUANTPRESS_COMPARISON(op)                                                                           \
    template <class T> inline Int operator op(const Lanes<T> &a, const Lanes<T> &b) {                       \
        static_assert(sizeof(T) == sizeof(std::int32_t));                                                   \
        Int result;                                                                                         \
        UNROLL for (int i = 0; i < Int::kParts; ++i) result.part[i] = (Int::Part)(a.part[i] op b.part[i]);  \
        return result;                                                                                      \
    }                                                                                                       \
    template <class T> inline Int operator op(const Lanes<T> &a, T b) { return a op broadcast(b); }
QUANTPRESS_COMPARISON(<)
QUANTPRESS_COMPARISON(<=)
QUANTPRESS_COMPARISON(>)
QUANTPRESS_COMPARISON(==)
QUANTPRESS_COMPARISON(!=)
#undef QUANTPRESS_COMPARISON

template <class To, class From> inline Lanes<To> bits(const Lanes<From> &v) {
    Lanes<To> result;
    UNROLL for (int i = 0; i < v.kParts; ++i) result.part[i] = (typename Lanes<To>::Part)v.part[i];
    return result;
}

template <class T> inline Lanes<T> select(const Int &mask, const Lanes<T> &yes, const Lanes<T> &no) {
    Lanes<T> result;
    UNROLL for (int i = 0; i < Lanes<T>::kParts; ++i) result.part[i] = mask.part[i] ? yes.part[i] : no.part[i];
    return result;
}

template <class T> inline Lanes<T> larger(const Lanes<T> &a, const Lanes<T> &b) { return select(a > b, a, b); }
template <class T> inline Lanes<T> smaller(const Lanes<T> &a, const Lanes<T> &b) { return select(a < b, a, b); }
template <class T> inline Lanes<T> clamp(const Lanes<T> &x, T low, T high) {
    return smaller(larger(x, broadcast(low)), broadcast(high));
}

inline Float absolute(const Float &x) { return bits<float>(bits<std::int32_t>(x) & 0x7fffffff); }

// A float32 of this size has no fraction: adding it rounds, and leaves the integer in the low bits.
constexpr float kRound = 0x1.8p23f;

// To the nearest integer, ties to even, for |x| <= 2^22.
inline Float nearest(const Float &x) { return x + kRound - kRound; }

// table[index] a lane, 0 <= index < 16.
template <class T> inline Lanes<T> lookup(const Lanes<T> &table, const Int &index) {
    static_assert(sizeof(T) == sizeof(std::int32_t));
    Lanes<T> result;
#if defined(__AVX512F__)
    // "maskz": the other form warns of an undefined source under GCC 12
    const __m512i at = (__m512i)index.part[0], from = (__m512i)table.part[0];
    result.part[0] = (typename Lanes<T>::Part)_mm512_maskz_permutexvar_epi32(static_cast<__mmask16>(-1), at, from);
#elif defined(__AVX2__)
    UNROLL for (int i = 0; i < 2; ++i) {
        const __m256i at = (__m256i)index.part[i];
        const __m256i low = _mm256_permutevar8x32_epi32((__m256i)table.part[0], at);
        const __m256i high = _mm256_permutevar8x32_epi32((__m256i)table.part[1], at);
        const __m256 upper = (__m256)_mm256_slli_epi32(at, 28);  // bit 3 of the index to the sign
        result.part[i] = (typename Lanes<T>::Part)_mm256_blendv_ps((__m256)low, (__m256)high, upper);
    }
#else
    T values[kLanes];
    std::int32_t at[kLanes];
    std::memcpy(values, &table, sizeof table);
    std::memcpy(at, &index, sizeof index);
    for (int lane = 0; lane < kLanes; ++lane) at[lane] = at[lane] & (kLanes - 1);
    T found[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) found[lane] = values[at[lane]];
    std::memcpy(&result, found, sizeof result);
#endif
    return result;
}

// Lanes [first, first + n) of a part, as a vector of their own.
template <class T, int first, int n, class Part> inline auto slice(const Part &part) {
    typedef T Slice __attribute__((vector_size(n * sizeof(T))));
    if constexpr (n * sizeof(T) == sizeof(Part)) {
        return part;
#if __has_builtin(__builtin_shufflevector)
    } else {
        return [&]<int... i>(std::integer_sequence<int, i...>) -> Slice {
            return __builtin_shufflevector(part, part, (first + i)...);
        }(std::make_integer_sequence<int, n>{});
    }
#else
    }
    Slice result;
    std::memcpy(&result, reinterpret_cast<const T *>(&part) + first, sizeof result);
    return result;
#endif
}

// Where GCC does not find the instruction, by its name: 8 floats to double here, bytes to integers below.
template <class To, class From> inline To converted(const From &slice) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<To, Double::Part> && std::is_same_v<std::decay_t<decltype(slice[0])>, float>)
        return (To)_mm512_maskz_cvtps_pd(0xff, (__m256)slice);
    else
#endif
        return __builtin_convertvector(slice, To);
}

#if defined(__AVX2__)
template <class Byte> inline Int widened(const Lanes<Byte> &bytes) {
    constexpr bool is_signed = std::is_signed_v<Byte>;
    const __m128i all = (__m128i)bytes.part[0];
#if defined(__AVX512F__)
    constexpr __mmask16 lanes = 0xffff;
    return {{(Int::Part)(is_signed ? _mm512_maskz_cvtepi8_epi32(lanes, all) : _mm512_maskz_cvtepu8_epi32(lanes, all))}};
#else
    const __m128i high = _mm_srli_si128(all, 8);
    if constexpr (is_signed) return {{(Int::Part)_mm256_cvtepi8_epi32(all), (Int::Part)_mm256_cvtepi8_epi32(high)}};
    return {{(Int::Part)_mm256_cvtepu8_epi32(all), (Int::Part)_mm256_cvtepu8_epi32(high)}};
#endif
}
#endif

// Lane by lane to another type. Where the wider type takes more parts, each part of the other is cut or filled in turn.
template <class To, class From> inline Lanes<To> convert(const Lanes<From> &v) {
#if defined(__AVX2__)
    if constexpr (sizeof(From) == 1 && std::is_same_v<To, std::int32_t>) return widened(v);
#endif
    constexpr int to = Lanes<To>::kWidth, from = Lanes<From>::kWidth, n = to < from ? to : from;
    typedef To Slice __attribute__((vector_size(n * sizeof(To))));
    Lanes<To> result;
    const auto convert_slice = [&]<int i>(std::integral_constant<int, i>) {
        const Slice slice_ = converted<Slice>(slice<From, i % from, n>(v.part[i / from]));
        std::memcpy(reinterpret_cast<To *>(&result.part[i / to]) + i % to, &slice_, sizeof slice_);
    };
    [&]<int... k>(std::integer_sequence<int, k...>) {
        (convert_slice(std::integral_constant<int, k * n>{}), ...);
    }(std::make_integer_sequence<int, kLanes / n>{});
    return result;
}

// The sum, maximum or minimum of the lanes, halving: lane i with lane i + 8, then 4, 2, 1.
template <class T, class F> inline T fold(const Lanes<T> &v, F combine) {
    T lane[kLanes];
    std::memcpy(lane, &v, sizeof v);
    for (int half = kLanes / 2; half; half /= 2)
        UNROLL for (int i = 0; i < half; ++i) lane[i] = combine(lane[i], lane[i + half]);
    return lane[0];
}

inline double sum(const Double &v) {
    return fold(v, [](double a, double b) { return a + b; });
}
inline float maximum(const Float &v) {
    return fold(v, [](float a, float b) { return a > b ? a : b; });
}
inline float minimum(const Float &v) {
    return fold(v, [](float a, float b) { return a < b ? a : b; });
}
inline bool any(const Int &mask) {
    return fold(mask, [](std::int32_t a, std::int32_t b) { return a | b; }) != 0;
}

// The lanes of a mask, a bit each.
inline unsigned lanes_of(const Int &mask) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)mask.part[0]);
#else
    unsigned found = 0;
    UNROLL for (int i = 0; i < Int::kParts; ++i) {
#if defined(__AVX2__)
        found |= static_cast<unsigned>(_mm256_movemask_ps((__m256)mask.part[i])) << 8 * i;
#elif defined(__SSE2__)
        found |= static_cast<unsigned>(_mm_movemask_ps((__m128)mask.part[i])) << 4 * i;
#else
        for (int lane = 0; lane < Int::kWidth; ++lane) found |= (mask.part[i][lane] & 1u) << (Int::kWidth * i + lane);
#endif
    }
    return found;
#endif
}

inline float first_lane(const Float &v) { return v.part[0][0]; }

// Calls step(lanes, offset) over `n` values; the last lanes, where n is no multiple of 16, are filled up with `fill`.
template <class T, class F> inline void for_lanes(const T *values, std::size_t n, T fill, F step) {
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) step(load(values + i), i);
    if (i == n) return;
    T last[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) last[lane] = i + lane < n ? values[i + lane] : fill;
    step(load(last), i);
}

#if defined(__SSE2__)
// As the templates above, to the bit (the second operand where neither is larger), in one instruction.
#if defined(__AVX512F__)
#define QUANTPRESS_EXTREME(name, a, b) _mm512_maskz_##name##_ps(static_cast<__mmask16>(-1), a, b)
#elif defined(__AVX2__)
#define QUANTPRESS_EXTREME(name, a, b) _mm256_##name##_ps(a, b)
#else
#define QUANTPRESS_EXTREME(name, a, b) _mm_##name##_ps(a, b)
#endif
inline Float larger(const Float &a, const Float &b) {
    Float result;
    UNROLL for (int i = 0; i < Float::kParts; ++i)
        result.part[i] = (Float::Part)QUANTPRESS_EXTREME(max, a.part[i], b.part[i]);
    return result;
}
inline Float::Part smaller(Float::Part a, Float::Part b) { return (Float::Part)QUANTPRESS_EXTREME(min, a, b); }
inline Float smaller(const Float &a, const Float &b) {
    Float result;
    UNROLL for (int i = 0; i < Float::kParts; ++i) result.part[i] = smaller(a.part[i], b.part[i]);
    return result;
}
#undef QUANTPRESS_EXTREME
#else
inline Float::Part smaller(Float::Part a, Float::Part b) { return a < b ? a : b; }
#endif

// Lane i with lane i ^ apart (8, 4, 2 or 1).
template <int apart> inline Float exchanged(const Float &v) {
    Float result;
#if defined(__AVX512F__)
    const __m512 from = (__m512)v.part[0];
    const __mmask16 all = static_cast<__mmask16>(-1);  // as in `lookup`
    constexpr int swap = apart == 8 || apart == 2 ? 0x4e : 0xb1;  // halves, or neighbours
    if constexpr (apart >= 4) result.part[0] = (Float::Part)_mm512_maskz_shuffle_f32x4(all, from, from, swap);
    if constexpr (apart < 4) result.part[0] = (Float::Part)_mm512_maskz_permute_ps(all, from, swap);
#elif __has_builtin(__builtin_shufflevector)
    constexpr int n = Float::kWidth;
    UNROLL for (int i = 0; i < Float::kParts; ++i) {
        if constexpr (apart >= n) {
            result.part[i] = v.part[i ^ (apart / n)];
        } else {
            const auto &from = v.part[i];
            result.part[i] = [&]<int... k>(std::integer_sequence<int, k...>) {
                return __builtin_shufflevector(from, from, (k ^ apart)...);
            }(std::make_integer_sequence<int, n>{});
        }
    }
#else
    float from[kLanes], to[kLanes];
    store(from, v);
    UNROLL for (int i = 0; i < kLanes; ++i) to[i] = from[i ^ apart];
    result = load(to);
#endif
    return result;
}

// x - nearest(x), for |x| <= 2^22.
inline Float offset_from_nearest(const Float &x) {
#if defined(__AVX512DQ__)
    constexpr int kToEven = 8;  // and no exceptions
    Float result;
    result.part[0] = (Float::Part)_mm512_maskz_reduce_ps(static_cast<__mmask16>(-1), (__m512)x.part[0], kToEven);
    return result;
#else
    return x - nearest(x);
#endif
}

// table[index] a lane, in memory.
inline Int gather(const std::int32_t *table, const Int &index) {
    Int result;
#if defined(__AVX512F__)
    const __mmask16 all = static_cast<__mmask16>(-1);  // as in `lookup`
    result.part[0] = (Int::Part)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), all, (__m512i)index.part[0], table, 4);
#elif defined(__AVX2__)
    UNROLL for (int i = 0; i < 2; ++i)
        result.part[i] = (Int::Part)_mm256_i32gather_epi32(table, (__m256i)index.part[i], 4);
#else
    std::int32_t at[kLanes];
    store(at, index);
    for (std::int32_t &v : at) v = table[v];
    result = load(at);
#endif
    return result;
}

// sum + a * b where the product is exact in float32, which is for the caller to see to: then it makes no difference
// whether the two steps are fused.
inline Float add_product(const Float &sum, const Float &a, const Float &b) {
#if defined(__AVX512F__)
    Float result;
    result.part[0] = (Float::Part)_mm512_fmadd_ps((__m512)a.part[0], (__m512)b.part[0], (__m512)sum.part[0]);
    return result;
#elif defined(__FMA__)
    Float result;
    UNROLL for (int i = 0; i < 2; ++i)
        result.part[i] = (Float::Part)_mm256_fmadd_ps((__m256)a.part[i], (__m256)b.part[i], (__m256)sum.part[i]);
    return result;
#else
    return sum + a * b;
#endif
}

// sum + a * b rounded once, on every instruction set.
inline Float fused(const Float &sum, const Float &a, const Float &b) {
#if defined(__AVX512F__) || defined(__FMA__)
    return add_product(sum, a, b);
#else
    Float result;
    UNROLL for (int i = 0; i < Float::kParts; ++i)
        for (int lane = 0; lane < Float::kWidth; ++lane)
            result.part[i][lane] = __builtin_fmaf(a.part[i][lane], b.part[i][lane], sum.part[i][lane]);
    return result;
#endif
}

}  // namespace
}  // namespace quantpress
