// Compiled with the flags of avx2.cpp and -mavx512{f,bw,cd,dq,vl}.
#define VECTOR_BYTES 64
#include "kernels/all.hpp"

const quantpress::Kernels quantpress::kAvx512 = all_kernels("avx512");
