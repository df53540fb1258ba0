// The scalar encoders: one block after the other, plain loops, the oracle that every kernel's bytes are compared with.
// Decoders are written plainly in kernels/ already, and the gguf package is their oracle.
#pragma once

#include <span>

#include "codec.hpp"

namespace quantpress::reference {

struct Encoder {
    const char *type;
    Encode encode;
};

// Every quantized type.
std::span<const Encoder> encoders();

}  // namespace quantpress::reference
