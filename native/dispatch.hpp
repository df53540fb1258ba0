// Which instruction set runs.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace quantpress {

// The kernels that this machine can run, best first.
const std::vector<const Kernels *> &available();

// Their names.
std::vector<std::string> isas();

// The types that they encode and decode, by their upper-case names.
std::vector<std::string> types();

// The kernels of that instruction set; of the chosen one (QUANTPRESS_ISA, else the best) where the name is empty.
// Throws std::invalid_argument, naming what there is, if it is not available here.
const Kernels &kernels(const std::string &isa = {});

// The same, with those of the baseline for "reference", which has encoders alone.
const Kernels &kernels_of_codec(const std::string &isa);

// The encoder and decoder of a type; of isa "reference" the scalar encoder. Throws std::invalid_argument, naming what
// there is, for an unknown type.
Codec codec(const std::string &type, const std::string &isa = {});

}  // namespace quantpress
