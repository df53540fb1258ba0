// IQ4_NL, IQ4_XS and MXFP4, one block after the other.
#pragma once

#include "blocks.hpp"
#include "codec.hpp"

namespace quantpress::reference {

void encode_iq4_nl(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_iq4_xs(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_mxfp4(const Rows &rows, Effort effort, std::uint8_t *out);

}  // namespace quantpress::reference
