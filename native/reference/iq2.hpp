// IQ2_XXS, IQ2_XS and IQ2_S, one super-block after the other.
#pragma once

#include "blocks.hpp"
#include "codec.hpp"

namespace quantpress::reference {

void encode_iq2_xxs(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_iq2_xs(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_iq2_s(const Rows &rows, Effort effort, std::uint8_t *out);

}  // namespace quantpress::reference
