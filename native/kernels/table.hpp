// The kernels of one instruction set, as a value: what isa/ makes and dispatch.cpp chooses from.
#pragma once

#include <span>

#include "codec.hpp"
#include "compensate.hpp"

namespace quantpress {

struct Comparison {
    double nll;     // -ln q(target)
    double kld;     // KL(packed || logits), nats
    bool same_top;  // both have the same most probable token
};

struct Kernels {
    const char *isa;
    void (*add_squares)(const float *x, std::size_t cols, double *sums);
    double (*score)(const float *logits, std::size_t vocab, std::int32_t target);
    double (*pack)(const float *logits, std::size_t vocab, std::int32_t target, std::uint16_t *packed);
    Comparison (*compare)(const std::uint16_t *packed, const float *logits, std::size_t vocab, std::int32_t target);
    std::size_t (*first_beyond)(const float *x, std::size_t n, float limit);
    double (*weighted_error)(const float *x, const float *y, const float *importance, std::size_t cols);
    bool (*loses_size)(const char *type);
    void (*restore_size)(const Rows &rows, const Codec &codec, const float *decoded, std::uint8_t *out);
    Compensate compensate;
    std::span<const Codec> codecs;
};

// 16-bit words of a packed row, an even number. Static: of an inline function the linker keeps one copy for all files,
// which could be that of an instruction set that this machine lacks.
static constexpr std::size_t packed_words(std::size_t vocab) { return 4 + vocab + vocab % 2; }

extern const Kernels kAvx512, kAvx2, kBaseline;

}  // namespace quantpress
