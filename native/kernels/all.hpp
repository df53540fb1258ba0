// Every kernel; a file of isa/ defines VECTOR_BYTES, includes this and gives the result a name.
#pragma once

#include "kernels/activations.hpp"
#include "kernels/divergence.hpp"
#include "kernels/table.hpp"

namespace quantpress {
namespace {

constexpr Kernels all_kernels(const char *isa) { return {isa, add_squares, score, pack, compare}; }

}  // namespace
}  // namespace quantpress
