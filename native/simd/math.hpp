// exp and log of our own: the same bits on every machine (libm's differ between versions and instruction sets).
#pragma once

#include "simd/lanes.hpp"

namespace quantpress {
namespace {

// e^x for x <= 0, within 1 ulp; 0 below -87, where float32 nears its denormals; e^-inf = 0.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, and e^r = 1 + r + r^2 q(r); q is the minimax polynomial of degree 4 (Remez,
// relative error 3e-9). ln 2 is split so that n times its high part is exact.
inline Float exp_of_negative(const Float &x) {
    const Float bounded = larger(x, broadcast(-87.0f));
    const Float shifted = bounded * 1.44269504f + kRound;
    const Float n = shifted - kRound;
    const Float r = bounded - n * 0.693145752f - n * 1.42860677e-6f;
    Float q = r * 0.00138145986f + 0.00836871688f;
    q = q * r + 0.0416683880f;
    q = q * r + 0.166665206f;
    q = q * r + 0.499999934f;
    const Float mantissa = r * r * q + r + 1.0f;
    const Int exponent = bits<std::int32_t>(shifted) << 23;  // the bits of kRound leave the word
    const Float power = bits<float>(bits<std::int32_t>(mantissa) + exponent);
    return bits<float>(bits<std::int32_t>(power) & (x > -87.0f));
}

// ln x for a positive, finite, normal x, within about 2 ulp: x = m 2^n with m in [sqrt(1/2), sqrt(2)), and
// ln m = 2 artanh s = 2 (s + s^3/3 + s^5/5 + ...) with s = (m - 1) / (m + 1).
inline double log_of_positive(double x) {
    std::uint64_t word;
    std::memcpy(&word, &x, sizeof word);
    int n = static_cast<int>(word >> 52) - 1023;
    word = (word & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m;
    std::memcpy(&m, &word, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        ++n;
    }
    const double s = (m - 1) / (m + 1);
    double series = 0;
    for (int k = 23; k >= 3; k -= 2) series = (series + 1.0 / k) * (s * s);
    return n * 0.6931471805599453 + 2 * (s + s * series);
}

}  // namespace
}  // namespace quantpress
