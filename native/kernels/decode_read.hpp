// What the decoders share: the parts of a block, read where alignment is not given, and 16 codes made weights.
#pragma once

#include <cstddef>

#include "blocks.hpp"
#include "codec.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {

using Byte = Lanes<std::uint8_t>;
using SignedByte = Lanes<std::int8_t>;

template <class T> inline T read(const std::uint8_t *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class T> inline Lanes<T> read_lanes(const std::uint8_t *from) {
    Lanes<T> v;
    UNROLL for (int i = 0; i < v.kParts; ++i) std::memcpy(&v.part[i], from + i * sizeof v.part[i], sizeof v.part[i]);
    return v;
}

// 16 bytes as two words, the first in front.
template <class T = std::uint8_t> inline Lanes<T> bytes_of(std::uint64_t first, std::uint64_t second) {
    static_assert(sizeof(T) == 1);
    typedef std::uint64_t Two __attribute__((vector_size(16)));
    return {{(typename Lanes<T>::Part)Two{first, second}}};
}

inline std::uint64_t joined(std::uint32_t first, std::uint32_t second) { return first | std::uint64_t{second} << 32; }

inline float read_half(const std::uint8_t *from) { return from_half(read<Half>(from)); }

inline Float to_float(const SignedByte &q) { return convert<float>(convert<std::int32_t>(q)); }
inline Float to_float(const Byte &q) { return convert<float>(convert<std::int32_t>(q)); }

// q - offset for codes below 128.
inline SignedByte minus(const Byte &q, std::int8_t offset) { return bits<std::int8_t>(q) - offset; }

inline Byte low_half(const Byte &v) { return v & std::uint8_t{15}; }
inline Byte high_half(const Byte &v) { return v >> std::uint8_t{4}; }

// Bits [at, at + n) of each byte.
inline Byte bits_at(const Byte &v, int at, int n) {
    return (v >> static_cast<std::uint8_t>(at)) & static_cast<std::uint8_t>((1 << n) - 1);
}

// Calls step(block, x) with each block and the place of its n weights.
template <class Block, int n, class Step>
inline void for_blocks(const std::uint8_t *in, std::size_t blocks, float *x, Step step) {
    for (std::size_t i = 0; i < blocks; ++i) step(in + i * sizeof(Block), x + i * n);
}

}  // namespace
}  // namespace quantpress
