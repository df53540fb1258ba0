#include "reference/table.hpp"

#include "reference/codebook.hpp"
#include "reference/iq1.hpp"
#include "reference/iq2.hpp"
#include "reference/iq3.hpp"
#include "reference/k_affine.hpp"
#include "reference/k_symmetric.hpp"
#include "reference/legacy.hpp"
#include "reference/ternary.hpp"

namespace quantpress::reference {

std::span<const Encoder> encoders() {
    static constexpr Encoder kEncoders[] = {
        {"Q4_0", encode_q4_0},       {"Q4_1", encode_q4_1},   {"Q5_0", encode_q5_0},     {"Q5_1", encode_q5_1},
        {"Q8_0", encode_q8_0},       {"Q2_K", encode_q2_k},   {"Q3_K", encode_q3_k},     {"Q4_K", encode_q4_k},
        {"Q5_K", encode_q5_k},       {"Q6_K", encode_q6_k},   {"IQ1_S", encode_iq1_s},   {"IQ1_M", encode_iq1_m},
        {"IQ2_XXS", encode_iq2_xxs}, {"IQ2_XS", encode_iq2_xs}, {"IQ2_S", encode_iq2_s}, {"IQ3_XXS", encode_iq3_xxs},
        {"IQ3_S", encode_iq3_s},     {"IQ4_NL", encode_iq4_nl}, {"IQ4_XS", encode_iq4_xs}, {"TQ1_0", encode_tq1_0},
        {"TQ2_0", encode_tq2_0},     {"MXFP4", encode_mxfp4},
    };
    return kEncoders;
}

}  // namespace quantpress::reference
