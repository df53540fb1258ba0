// Q4_0, Q5_0, Q4_1, Q5_1 and Q8_0, one block after the other.
#pragma once

#include "blocks.hpp"
#include "codec.hpp"

namespace quantpress::reference {

void encode_q4_0(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_q5_0(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_q4_1(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_q5_1(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_q8_0(const Rows &rows, Effort effort, std::uint8_t *out);

}  // namespace quantpress::reference
