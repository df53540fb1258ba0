// IQ1_S and IQ1_M, one super-block after the other.
#pragma once

#include "codec.hpp"

namespace quantpress::reference {

void encode_iq1_s(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_iq1_m(const Rows &rows, Effort effort, std::uint8_t *out);

}  // namespace quantpress::reference
