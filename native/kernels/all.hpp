// Every kernel; a file of isa/ defines VECTOR_BYTES, includes this and gives the result a name.
#pragma once

#include "blocks.hpp"
#include "kernels/activations.hpp"
#include "kernels/codebook.hpp"
#include "kernels/compensated.hpp"
#include "kernels/decode.hpp"
#include "kernels/divergence.hpp"
#include "kernels/error.hpp"
#include "kernels/finite.hpp"
#include "kernels/floats.hpp"
#include "kernels/iq1.hpp"
#include "kernels/iq2.hpp"
#include "kernels/iq3.hpp"
#include "kernels/k_affine.hpp"
#include "kernels/k_symmetric.hpp"
#include "kernels/legacy.hpp"
#include "kernels/size.hpp"
#include "kernels/table.hpp"
#include "kernels/ternary.hpp"

namespace quantpress {
namespace {

constexpr Codec kCodecs[] = {
    {"F32", 1, 4, encode_f32, decode_f32},
    {"F16", 1, 2, encode_f16, decode_f16},
    {"BF16", 1, 2, encode_bf16, decode_bf16},
    {"Q4_0", 32, sizeof(Q4_0), encode_q4_0, decode_q4_0},
    {"Q4_1", 32, sizeof(Q4_1), encode_q4_1, decode_q4_1},
    {"Q5_0", 32, sizeof(Q5_0), encode_q5_0, decode_q5_0},
    {"Q5_1", 32, sizeof(Q5_1), encode_q5_1, decode_q5_1},
    {"Q8_0", 32, sizeof(Q8_0), encode_q8_0, decode_q8_0},
    {"Q2_K", 256, sizeof(Q2_K), encode_q2_k, decode_q2_k},
    {"Q3_K", 256, sizeof(Q3_K), encode_q3_k, decode_q3_k},
    {"Q4_K", 256, sizeof(Q4_K), encode_q4_k, decode_q4_k},
    {"Q5_K", 256, sizeof(Q5_K), encode_q5_k, decode_q5_k},
    {"Q6_K", 256, sizeof(Q6_K), encode_q6_k, decode_q6_k},
    {"IQ1_S", 256, sizeof(IQ1_S), encode_iq1_s, decode_iq1_s},
    {"IQ1_M", 256, sizeof(IQ1_M), encode_iq1_m, decode_iq1_m},
    {"IQ2_XXS", 256, sizeof(IQ2_XXS), encode_iq2_xxs, decode_iq2_xxs},
    {"IQ2_XS", 256, sizeof(IQ2_XS), encode_iq2_xs, decode_iq2_xs},
    {"IQ2_S", 256, sizeof(IQ2_S), encode_iq2_s, decode_iq2_s},
    {"IQ3_XXS", 256, sizeof(IQ3_XXS), encode_iq3_xxs, decode_iq3_xxs},
    {"IQ3_S", 256, sizeof(IQ3_S), encode_iq3_s, decode_iq3_s},
    {"IQ4_NL", 32, sizeof(IQ4_NL), encode_iq4_nl, decode_iq4_nl},
    {"IQ4_XS", 256, sizeof(IQ4_XS), encode_iq4_xs, decode_iq4_xs},
    {"TQ1_0", 256, sizeof(TQ1_0), encode_tq1_0, decode_tq1_0},
    {"TQ2_0", 256, sizeof(TQ2_0), encode_tq2_0, decode_tq2_0},
    {"MXFP4", 32, sizeof(MXFP4), encode_mxfp4, decode_mxfp4},
};

constexpr Kernels all_kernels(const char *isa) {
    return {isa, add_squares, score, pack, compare, first_beyond, weighted_error, loses_size, restore_size,
            compensate, kCodecs};
}

}  // namespace
}  // namespace quantpress
