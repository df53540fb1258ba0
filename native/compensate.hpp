// Encoding with feedback: the error of one weight is paid back by those that follow.
//
// With the second moments H of a layer's inputs, what a row's errors e cost at the layer's output is e H e^T. Let
// H = U D U^T with U upper and of unit diagonal (a Cholesky factorization from the last column to the first). Then
//
//   e H e^T  =  sum_j D_j (e_j + sum_{k<j} e_k U_kj)^2
//
// and if the weights are chosen in the order j = 0, 1, ..., each term is as small as it can be made when weight j is
// taken for the nearest to w_j + sum_{k<j} e_k U_kj, where e_k = w_k - (its decoded weight). GPTQ (Frantar et al. 2022)
// does this with the inverse of H; that both are the same is shown with QuIP's LDLQ (Chee et al. 2023).
#pragma once

#include "alphabet.hpp"
#include "codec.hpp"

namespace quantpress {

// Columns whose targets are brought up to date together.
constexpr std::size_t kPanel = 256;

// Columns are taken in any order that keeps blocks together, and the weights of one code in their own order.
struct Feedback {
    const float *factor;        // U by panels of columns: all rows above the panel and its own, [rows][columns]
    const float *diagonal;      // D [cols], in the order taken
    const float *importance;    // [cols], by column: what errors weigh when scales are looked for
    const std::int32_t *order;  // [cols]: the column that is taken at each place
    int rounds;                 // of scales and codes in turn; a row's block keeps the cheapest
};

struct Compensation {
    Codec codec;
    const Alphabet &alphabet;
    Feedback feedback;
    Effort effort;
};

using Compensate = void (*)(const Compensation &how, const Rows &rows, std::uint8_t *out);

}  // namespace quantpress
