// Q2_K, Q4_K and Q5_K, one super-block after the other.
#pragma once

#include "blocks.hpp"
#include "codec.hpp"

namespace quantpress::reference {

void encode_q2_k(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_q4_k(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_q5_k(const Rows &rows, Effort effort, std::uint8_t *out);

}  // namespace quantpress::reference
