// Which instruction set runs.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace quantpress {

// The kernels that this machine can run, best first.
const std::vector<const Kernels *> &available();

// The kernels of that instruction set; of the chosen one (QUANTPRESS_ISA, else the best) where the name is empty.
// Throws std::invalid_argument, naming what there is, if it is not available here.
const Kernels &kernels(const std::string &isa = {});

// The encoder and decoder of a type, by its upper-case name; of isa "reference" the scalar encoder. Throws
// std::invalid_argument, naming what there is, for an unknown type.
Codec codec(const std::string &type, const std::string &isa = {});

}  // namespace quantpress
