// Compiled with -mavx2 -mfma -mbmi -mbmi2.
#define VECTOR_BYTES 32
#include "kernels/all.hpp"

const quantpress::Kernels quantpress::kAvx2 = all_kernels("avx2");
