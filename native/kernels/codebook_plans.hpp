// Which scales the encoders of IQ4_NL, IQ4_XS and MXFP4 try, for the kernels and the reference.
#pragma once

namespace quantpress::codebook_plans {

// A scale such that one weight of the block (the largest, or the one with the largest w x^2) decodes as `level`.
struct Candidate {
    bool heaviest;
    float level;
};

// Chosen one after the other, each the one that lowers the mean error of blocks of Gaussian, Student-t and real weights
// most when added to those before it; so any number of them, from the first on, is a good set of that size. Beyond the
// levels -127 and 113, a weight that matters less than others is cut off. Without importance the largest weight is the
// heaviest too.
constexpr Candidate kWithImportance[64] = {
    {false, -130}, {false, 116}, {false, -145}, {true, -105},
    {false, -121}, {false, 131}, {true, -84}, {true, 112},
    {true, 89}, {true, -125}, {false, -107}, {false, -162},
    {false, -137}, {false, 108}, {false, -189}, {false, 122},
    {true, 70}, {false, 155}, {false, 94}, {false, -100},
    {false, -111}, {false, -127}, {false, -87}, {true, -132},
    {false, -152}, {true, -70}, {false, 139}, {false, 180},
    {false, -213}, {false, -176}, {false, -141}, {false, -134},
    {false, 113}, {false, -81}, {false, 83}, {true, 118},
    {false, -117}, {false, 126}, {false, -124}, {false, 166},
    {false, 148}, {false, 119}, {false, 103}, {false, 73},
    {false, -104}, {false, -237}, {false, 134}, {false, 205},
    {false, 90}, {false, 110}, {true, 92}, {true, -128},
    {true, -81}, {false, -96}, {false, -91}, {false, -168},
    {true, 114}, {false, -148}, {true, -122}, {false, 98},
    {false, -114}, {true, 84}, {false, 117}, {true, -108},
};
constexpr Candidate kWithoutImportance[32] = {
    {false, -129}, {false, 114}, {false, -137}, {false, -122},
    {false, -109}, {false, 121}, {false, 109}, {false, -133},
    {false, -126}, {false, -104}, {false, -142}, {false, 92},
    {false, -119}, {false, 127}, {false, 117}, {false, -112},
    {false, -84}, {false, -124}, {false, -131}, {false, -99},
    {false, 111}, {false, -135}, {false, 106}, {false, -139},
    {false, 95}, {false, 86}, {false, 123}, {false, -107},
    {false, -127}, {false, 119}, {false, -89}, {false, -146},
};

struct Plan {
    int candidates[2];  // of a block's scale, without importance and with it
    int rounds;         // of scales and codes in turn
    int bands, steps;   // of the super-block's scale: the best by estimate of each band of so many steps is tried
    int exponents;      // MXFP4: so many of kExponents
};
constexpr Plan kPlans[3] = {{{8, 12}, 1, 2, 16, 2}, {{16, 20}, 1, 4, 12, 3}, {{32, 64}, 3, 24, 8, 5}};  // by effort

// The largest scale of a super-block is tried as -36 d ... -18 d; the integers end at -32, so that it may be cut off.
constexpr float kMostSteps = 36, kFewestSteps = 18;

// Added to the exponent at which the largest weight decodes as 8 or 12.
constexpr int kExponents[5] = {0, 1, -1, -2, -3};

}  // namespace quantpress::codebook_plans
