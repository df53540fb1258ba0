// Compiled with -march=x86-64-v4.
#define VECTOR_BYTES 64
#include "kernels/all.hpp"

const quantpress::Kernels quantpress::kAvx512 = all_kernels("avx512");
