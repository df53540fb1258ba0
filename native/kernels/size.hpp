// The size of a row, some of which rounding to few bits takes away.
//
// Where the sum of squared errors is least, decoded weights y are too small: along x by p = sum w x y / sum w x^2, 0.92
// at two bits. The errors of single weights mostly cancel out in the layer's output; that one does not, as it does the
// same to all of them. By the second moments of layers' inputs, on two models, a quarter of it is worth keeping: rows
// are multiplied by p^(-3/4). Models that normalise what a layer puts out do not notice; of one that does not (Llama's
// form) the divergence fell to 0.2 to 0.4 of what it had been at two bits, to 0.5 to 0.6 at three. Codes stay as they
// are: encoding x times a factor gives the same ones.
#pragma once

#include "blocks.hpp"
#include "codec.hpp"
#include "kernels/error.hpp"
#include "simd/half.hpp"

namespace quantpress {
namespace {
namespace size {

inline void scale(Half &d, float factor) { d = to_scale(from_half(d) * factor); }

template <class Block> inline void scale(Block &block, float factor) { scale(block.d, factor); }

inline void scale(Q2_K &block, float factor) {
    scale(block.d, factor);
    scale(block.dmin, factor);
}

inline void scale(IQ1_M &block, float factor) {  // four bits of d in each word of scales
    unsigned bits = 0;
    for (int i = 0; i < 4; ++i) bits |= (block.scales[2 * i + 1] >> 4 & 15u) << 4 * i;
    Half d = static_cast<Half>(bits);
    scale(d, factor);
    for (int i = 0; i < 4; ++i) {
        std::uint8_t &high = block.scales[2 * i + 1];
        high = static_cast<std::uint8_t>((high & 15) | (d >> 4 * i & 15) << 4);
    }
}

template <class Block> void scale_blocks(std::uint8_t *row, std::size_t blocks, float factor) {
    for (std::size_t i = 0; i < blocks; ++i) {
        Block block;
        std::memcpy(&block, row + i * sizeof block, sizeof block);
        scale(block, factor);
        std::memcpy(row + i * sizeof block, &block, sizeof block);
    }
}

using Scale = void (*)(std::uint8_t *row, std::size_t blocks, float factor);

// Types of less than four bits; of more it is half a percent.
struct Scaled {
    const char *type;
    Scale scale;
};
constexpr Scaled kScaled[] = {
    {"Q2_K", scale_blocks<Q2_K>},       {"Q3_K", scale_blocks<Q3_K>},     {"IQ1_S", scale_blocks<IQ1_S>},
    {"IQ1_M", scale_blocks<IQ1_M>},     {"IQ2_XXS", scale_blocks<IQ2_XXS>}, {"IQ2_XS", scale_blocks<IQ2_XS>},
    {"IQ2_S", scale_blocks<IQ2_S>},     {"IQ3_XXS", scale_blocks<IQ3_XXS>}, {"IQ3_S", scale_blocks<IQ3_S>},
};

// sum w x y
inline double product(const float *x, const float *y, const float *w, std::size_t cols) {
    Double total = broadcast(0.0);
    for (std::size_t i = 0; i < cols; i += kLanes) {
        const Double xy = convert<double>(lanes_at(x, i, cols)) * convert<double>(lanes_at(y, i, cols));
        total = total + (w ? convert<double>(lanes_at(w, i, cols)) * xy : xy);
    }
    return sum(total);
}

}  // namespace size

// Whether encoded rows of a type are to get their size back.
inline bool loses_size(const char *type) {
    for (const size::Scaled &one : size::kScaled)
        if (!std::strcmp(one.type, type)) return true;
    return false;
}

// Multiplies the scales of encoded rows; `decoded`: what they decode as, [rows, cols].
inline void restore_size(const Rows &rows, const Codec &codec, const float *decoded, std::uint8_t *out) {
    const size::Scaled *found = size::kScaled;
    while (std::strcmp(found->type, codec.type)) ++found;
    const std::size_t blocks = rows.cols / codec.block;
    for (std::size_t row = 0; row < rows.rows; ++row) {
        const float *x = rows.x + row * rows.cols, *y = decoded + row * rows.cols;
        const double p = size::product(x, y, rows.importance, rows.cols) / size::product(x, x, rows.importance, rows.cols);
        if (!(p > 0.25 && p < 1)) continue;  // nothing that counts, or nothing lost
        const double root = __builtin_sqrt(p);  // rounded alike everywhere, as pow is not
        found->scale(out + row * blocks * codec.bytes, blocks, static_cast<float>(1 / (root * __builtin_sqrt(root))));
    }
}

}  // namespace
}  // namespace quantpress
