// TQ1_0 and TQ2_0, one block after the other.
#pragma once

#include "codec.hpp"

namespace quantpress::reference {

void encode_tq1_0(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_tq2_0(const Rows &rows, Effort effort, std::uint8_t *out);

}  // namespace quantpress::reference
