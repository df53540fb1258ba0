// Q3_K and Q6_K, one super-block after the other.
#pragma once

#include "codec.hpp"

namespace quantpress::reference {

void encode_q3_k(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_q6_k(const Rows &rows, Effort effort, std::uint8_t *out);

}  // namespace quantpress::reference
