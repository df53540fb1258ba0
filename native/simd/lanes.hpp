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
#include <utility>

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

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

#define QUANTPRESS_OPERATOR(op)                                                               \
    template <class T> inline Lanes<T> operator op(Lanes<T> a, const Lanes<T> &b) {           \
        UNROLL for (int i = 0; i < Lanes<T>::kParts; ++i) a.part[i] = a.part[i] op b.part[i]; \
        return a;                                                                             \
    }                                                                                         \
    template <class T> inline Lanes<T> operator op(const Lanes<T> &a, T b) { return a op broadcast(b); }
QUANTPRESS_OPERATOR(+)
QUANTPRESS_OPERATOR(-)
QUANTPRESS_OPERATOR(*)
QUANTPRESS_OPERATOR(&)
QUANTPRESS_OPERATOR(|)
QUANTPRESS_OPERATOR(<<)
#undef QUANTPRESS_OPERATOR

#define QUANTPRESS_COMPARISON(op)                                                                          \
    inline Int operator op(const Float &a, const Float &b) {                                               \
        Int mask;                                                                                          \
        UNROLL for (int i = 0; i < Float::kParts; ++i) mask.part[i] = (Int::Part)(a.part[i] op b.part[i]); \
        return mask;                                                                                       \
    }                                                                                                      \
    inline Int operator op(const Float &a, float b) { return a op broadcast(b); }
QUANTPRESS_COMPARISON(<)
QUANTPRESS_COMPARISON(>)
QUANTPRESS_COMPARISON(==)
QUANTPRESS_COMPARISON(!=)
#undef QUANTPRESS_COMPARISON

template <class To, class From> inline Lanes<To> bits(const Lanes<From> &v) {
    Lanes<To> result;
    UNROLL for (int i = 0; i < v.kParts; ++i) result.part[i] = (typename Lanes<To>::Part)v.part[i];
    return result;
}

inline Float select(const Int &mask, const Float &yes, const Float &no) {
    Float result;
    UNROLL for (int i = 0; i < Float::kParts; ++i) result.part[i] = mask.part[i] ? yes.part[i] : no.part[i];
    return result;
}

inline Float larger(const Float &a, const Float &b) { return select(a > b, a, b); }
inline Float smaller(const Float &a, const Float &b) { return select(a < b, a, b); }

// Lanes [first, first + n) of a part, as a vector of their own.
template <class T, int n, class Part> inline auto slice(const Part &part, int first) {
    typedef T Slice __attribute__((vector_size(n * sizeof(T))));
    if constexpr (n * sizeof(T) == sizeof(Part)) {
        return part;
#if __has_builtin(__builtin_shufflevector)
    } else {
        return [&]<int... i>(std::integer_sequence<int, i...>) -> Slice {
            return first ? __builtin_shufflevector(part, part, (n + i)...) : __builtin_shufflevector(part, part, i...);
        }(std::make_integer_sequence<int, n>{});
    }
#else
    }
    Slice result;
    std::memcpy(&result, reinterpret_cast<const T *>(&part) + first, sizeof result);
    return result;
#endif
}

// Lane by lane to another type. Where the wider type takes more parts, each part of the other is cut or filled in turn.
template <class To, class From> inline Lanes<To> convert(const Lanes<From> &v) {
    constexpr int to = Lanes<To>::kWidth, from = Lanes<From>::kWidth, n = to < from ? to : from;
    typedef To Slice __attribute__((vector_size(n * sizeof(To))));
    Lanes<To> result;
    UNROLL for (int i = 0; i < kLanes; i += n) {
        const Slice slice_ = __builtin_convertvector((slice<From, n>(v.part[i / from], i % from)), Slice);
        std::memcpy(reinterpret_cast<To *>(&result.part[i / to]) + i % to, &slice_, sizeof slice_);
    }
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

// Calls step(lanes, offset) over `n` values; the last lanes, where n is no multiple of 16, are filled up with `fill`.
template <class T, class F> inline void for_lanes(const T *values, std::size_t n, T fill, F step) {
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) step(load(values + i), i);
    if (i == n) return;
    T last[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) last[lane] = i + lane < n ? values[i + lane] : fill;
    step(load(last), i);
}

}  // namespace
}  // namespace quantpress
