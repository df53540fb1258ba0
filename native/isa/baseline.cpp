// Compiled with the compiler's defaults: SSE2 on x86-64, NEON on AArch64.
#define VECTOR_BYTES 16
#include "kernels/all.hpp"

const quantpress::Kernels quantpress::kBaseline = all_kernels("baseline");
