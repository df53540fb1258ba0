// IQ3_XXS and IQ3_S, one super-block after the other.
#pragma once

#include "codec.hpp"

namespace quantpress::reference {

void encode_iq3_xxs(const Rows &rows, Effort effort, std::uint8_t *out);
void encode_iq3_s(const Rows &rows, Effort effort, std::uint8_t *out);

}  // namespace quantpress::reference
