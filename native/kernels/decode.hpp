// Decoders: packed blocks (blocks.hpp) to float32, bit for bit what the gguf package makes of them.
//
// That holds for any bytes, a scale that is NaN or infinite included (only the payload of a NaN is open), so the order
// of the float operations is the one there: an offset of q is subtracted as an integer, then scale * q, then the
// minimum. A factor of a power of two may go anywhere, and a sign as well: neither rounds.
#pragma once

#include "kernels/decode_iq.hpp"
#include "kernels/decode_k.hpp"
#include "kernels/decode_legacy.hpp"
