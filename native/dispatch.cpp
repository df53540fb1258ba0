#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

#include "reference/table.hpp"

namespace quantpress {
namespace {

constexpr const char *kReference = "reference";

std::vector<const Kernels *> detect() {
    std::vector<const Kernels *> found;
#ifdef QUANTPRESS_X86_64
    // Just what CMakeLists.txt lets the compiler use: tests/native/test_dispatch.py compares.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    if (avx512) found.push_back(&kAvx512);
    if (avx2) found.push_back(&kAvx2);
#endif
    found.push_back(&kBaseline);
    return found;
}

std::string joined(const std::vector<std::string> &names) {
    std::string list;
    for (const std::string &name : names) list += (list.empty() ? "" : ", ") + name;
    return list;
}

const Kernels &named(const std::string &isa, const char *origin) {
    for (const Kernels *candidate : available())
        if (isa == candidate->isa) return *candidate;
    throw std::invalid_argument(std::string(origin) + ": expected one of " + joined(isas()) +
                                " on this machine, found " + isa);
}

const Kernels &choose() {
    const char *wanted = std::getenv("QUANTPRESS_ISA");
    return wanted && *wanted ? named(wanted, "QUANTPRESS_ISA") : *available().front();
}

}  // namespace

const std::vector<const Kernels *> &available() {
    static const std::vector<const Kernels *> found = detect();
    return found;
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Kernels *candidate : available()) names.emplace_back(candidate->isa);
    return names;
}

std::vector<std::string> types() {
    std::vector<std::string> names;
    for (const Codec &codec : kBaseline.codecs) names.emplace_back(codec.type);
    return names;
}

const Kernels &kernels(const std::string &isa) {
    if (!isa.empty()) return named(isa, "isa");
    static const Kernels &chosen = choose();
    return chosen;
}

const Kernels &kernels_of_codec(const std::string &isa) { return kernels(isa == kReference ? kBaseline.isa : isa); }

Codec codec(const std::string &type, const std::string &isa) {
    for (Codec found : kernels_of_codec(isa).codecs) {
        if (type != found.type) continue;
        for (const reference::Encoder &encoder : reference::encoders())
            if (isa == kReference && type == encoder.type) found.encode = encoder.encode;
        return found;
    }
    throw std::invalid_argument("type: expected one of " + joined(types()) + ", found " + type);
}

}  // namespace quantpress
