// Compares every encoder, on every instruction set, with its scalar reference, and prints a digest of the bytes a type:
// the same on every machine. Without Python, for sanitizers and for other processors under emulation:
//
//   cmake -S native -B build/check -DQUANTPRESS_CHECK=ON && cmake --build build/check && build/check/check [blocks]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "tile.hpp"

namespace quantpress {
namespace {

struct Input {
    std::string name;
    std::vector<float> x, importance;
};

// Numbers that are the same everywhere: integers, and float operations that are exact or correctly rounded.
class Draw {
public:
    std::uint32_t word() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<std::uint32_t>(state_ >> 33);
    }
    float uniform() { return static_cast<float>(word() >> 7) * 0x1p-24f; }
    // About normal: the sum of four uniform numbers; every 16th with a heavy tail.
    float weight() {
        const float sum = uniform() + uniform() + uniform() + uniform() - 2.0f;
        return word() % 16 ? sum * 0.05f : sum * 0.05f / (uniform() + 0.1f);
    }

private:
    std::uint64_t state_ = 1;
};

template <class F> Input input(std::string name, std::size_t cols, F fill) {
    Input made{std::move(name), {}, {}};
    Draw draw;
    for (std::size_t i = 0; i < cols; ++i) {
        const float x = draw.weight(), importance = draw.uniform();
        const auto [weight, weighs] = fill(i, x, importance * importance);
        made.x.push_back(weight), made.importance.push_back(weighs);
    }
    return made;
}

std::vector<Input> inputs(std::size_t cols) {
    using Pair = std::pair<float, float>;
    return {
        input("ordinary", cols, [](std::size_t, float x, float w) { return Pair(x, w); }),
        input("zeros", cols, [](std::size_t, float, float w) { return Pair(0.0f, w); }),
        input("one outlier", cols, [](std::size_t i, float x, float w) { return Pair(i % 256 == 7 ? 60000 : x, w); }),
        input("denormal", cols, [](std::size_t, float x, float w) { return Pair(x * 1e-40f, w); }),
        input("tiny", cols, [](std::size_t, float x, float w) { return Pair(x * 1e-7f, w); }),
        input("large", cols, [](std::size_t, float x, float w) { return Pair(x > 0 ? 65504.0f : -65504.0f, w); }),
        input("equal", cols, [](std::size_t, float, float w) { return Pair(-0.37f, w); }),
        input("positive", cols, [](std::size_t, float x, float w) { return Pair(std::fabs(x), w); }),
        input("sparse", cols, [](std::size_t i, float x, float w) { return Pair(i % 37 ? 0.0f : x, w); }),
        input("no importance", cols, [](std::size_t, float x, float) { return Pair(x, 0.0f); }),
        input("importance in places", cols, [](std::size_t i, float x, float w) { return Pair(x, i % 3 ? 0 : w); }),
        input("large importance", cols, [](std::size_t, float x, float w) { return Pair(x, w * 1e15f); }),
        input("small importance", cols, [](std::size_t, float x, float w) { return Pair(x, w * 1e-38f); }),
    };
}

std::vector<std::uint8_t> encoded(const Codec &codec, const Input &from, const float *importance, int effort) {
    const std::size_t cols = from.x.size();
    std::vector<std::uint8_t> out(row_bytes(codec, cols));
    codec.encode(Rows{from.x.data(), importance, 1, cols}, static_cast<Effort>(effort), out.data());
    return out;
}

// With the size that rounding takes, by the kernels of an instruction set.
std::vector<std::uint8_t> restored(const Kernels &use, const Codec &codec, const Input &from, const float *importance,
                                   std::vector<std::uint8_t> bytes) {
    std::vector<float> decoded(from.x.size());
    codec.decode(bytes.data(), bytes.size() / codec.bytes, decoded.data());
    if (use.loses_size(codec.type))
        use.restore_size(Rows{from.x.data(), importance, 1, from.x.size()}, codec, decoded.data(), bytes.data());
    return bytes;
}

bool finite(const Codec &codec, const std::vector<std::uint8_t> &bytes) {
    std::vector<float> x(bytes.size() / codec.bytes * codec.block);
    codec.decode(bytes.data(), bytes.size() / codec.bytes, x.data());
    for (const float value : x)
        if (!std::isfinite(value)) return false;
    return true;
}

// The digest (FNV-1a) of a type's bytes for one input; reports what differs or is not finite.
bool check(const Codec &scalar, const Input &from, const float *importance, int effort, std::uint64_t &digest) {
    const std::vector<std::uint8_t> expected = encoded(scalar, from, importance, effort);
    const std::vector<std::uint8_t> sized = restored(kernels("baseline"), scalar, from, importance, expected);
    bool good = finite(scalar, expected) && finite(scalar, sized);
    if (!good) std::fprintf(stderr, "%s, %s: a scale is not finite\n", scalar.type, from.name.c_str());
    for (const auto *bytes : {&expected, &sized})
        for (const std::uint8_t byte : *bytes) digest = (digest ^ byte) * 0x100000001b3u;
    for (const Kernels *use : available()) {
        const Codec own = codec(scalar.type, use->isa);
        const bool same = encoded(own, from, importance, effort) == expected;
        if (same && restored(*use, own, from, importance, expected) == sized) continue;
        std::fprintf(stderr, "%s, %s%s, effort %d: %s differs from the reference\n", scalar.type, from.name.c_str(),
                     importance ? "" : ", unweighted", effort, use->isa);
        good = false;
    }
    return good;
}

// What feedback needs, of inputs that hang together with their neighbours: each column's errors count in the next two.
struct Inputs {
    std::vector<float> factor, diagonal, importance;
    std::vector<std::int32_t> order;

    explicit Inputs(std::size_t cols) {
        for (std::size_t first = 0; first < cols; first += kPanel)
            for (std::size_t row = 0; row < first + kPanel; ++row)
                for (std::size_t k = first; k < first + kPanel; ++k)
                    factor.push_back(row == k ? 1.0f : row + 1 == k ? 0.5f : row + 2 == k ? -0.25f : 0.0f);
        Draw draw;
        for (std::size_t i = 0; i < cols; ++i) {
            diagonal.push_back(draw.uniform() + 0.01f);
            importance.push_back(diagonal.back());
            order.push_back(static_cast<std::int32_t>((i + kPanel) % cols));  // the last block first
        }
    }
};

std::vector<std::uint8_t> compensated(const Kernels &use, const Codec &codec, const Input &from, const Inputs &inputs) {
    constexpr std::size_t rows = 3;
    const std::size_t cols = from.x.size() / rows;
    std::vector<std::uint8_t> out(rows * row_bytes(codec, cols));
    const Feedback feedback{inputs.factor.data(), inputs.diagonal.data(), inputs.importance.data(),
                            inputs.order.data(), 2};
    compensate(use, {codec, *alphabet(codec.type), feedback, Effort::kFast}, Rows{from.x.data(), nullptr, rows, cols},
               out.data(), 1);
    return out;
}

// The same of encoding with feedback, which has no scalar twin: the instruction sets are compared with each other.
bool check_feedback(const Codec &listed, std::uint64_t &digest) {
    const Inputs moments(512);
    bool good = true;
    for (const Input &from : inputs(3 * 512)) {
        if (from.name.find("importance") != std::string::npos) continue;  // their weights are the ordinary ones
        const std::vector<std::uint8_t> expected = compensated(kernels(), listed, from, moments);
        good &= finite(listed, expected);
        for (const std::uint8_t byte : expected) digest = (digest ^ byte) * 0x100000001b3u;
        for (const Kernels *use : available())
            good &= compensated(*use, codec(listed.type, use->isa), from, moments) == expected;
        if (!good) std::fprintf(stderr, "%s, %s: feedback differs or is not finite\n", listed.type, from.name.c_str());
    }
    return good;
}

int run(std::size_t blocks) {
    bool good = true;
    for (const Codec &listed : kernels().codecs) {
        const Codec scalar = codec(listed.type, "reference");
        std::uint64_t digest = 0xcbf29ce484222325u;
        for (const Input &from : inputs(blocks * 256))
            for (const float *importance : {from.importance.data(), static_cast<const float *>(nullptr)})
                for (int effort = 0; effort <= 2; ++effort) good &= check(scalar, from, importance, effort, digest);
        if (alphabet(listed.type)) good &= check_feedback(listed, digest);
        std::printf("%-8s %016llx\n", listed.type, static_cast<unsigned long long>(digest));
        std::fflush(stdout);
    }
    return good ? 0 : 1;
}

}  // namespace
}  // namespace quantpress

int main(int count, char **words) {
    return quantpress::run(count > 1 ? std::strtoul(words[1], nullptr, 10) : 3);
}
