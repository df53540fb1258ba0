// What the encoders of IQ3_XXS and IQ3_S try, for the kernels and the reference.
#pragma once

#include "grids.hpp"

namespace quantpress::iq3_plans {

// A scale of a sub-block is its super-block's times unit (code + 1/2), code in 0 ... 15.
struct XXS {
    static constexpr auto &grid = kGridIQ3XXS;
    static constexpr auto &levels = kLevelsIQ3XXS;
    static constexpr float unit = 0.5f, step = 8.0f;  // step: between levels
    static constexpr bool even = true;                // the number of negative signs in a group of 8
};

struct S {
    static constexpr auto &grid = kGridIQ3S;
    static constexpr auto &levels = kLevelsIQ3S;
    static constexpr float unit = 2.0f, step = 2.0f;
    static constexpr bool even = false;
};

// How many scales to try: of a sub-block, from kFirst times its estimate on, each `ratio` times the one before; then
// near the best of them, the signs included; and of the super-block. Over the ranges given here lie the best scales of
// nine sub-blocks in ten of Gaussian, Student-t and real weights.
struct Plan {
    int coarse;
    float ratio;
    int fine, scales;
};
constexpr Plan kPlans[3] = {{4, 1.19f, 0, 16}, {5, 1.157f, 1, 24}, {14, 1.05f, 5, 64}};  // by effort
constexpr float kFirst = 0.95f;
constexpr float kNear[5] = {1.0f, 0.95f, 1.05f, 0.9f, 1.1f};
constexpr int kMostBounds = 1 + 14 + 5;

// The largest scale of a super-block is tried as that of a code between these less 1/2.
constexpr float kHighest = 15.9f, kLowest = 9.0f;

// Where the importance is 0, weights still count so much (the largest importance is 1), to be rounded sensibly.
constexpr float kLeastImportance = 1e-6f;

// In the search of the grid, the heaviest weight of four costs this much where it is a step off. Weights are cut to so
// many steps; then even 17.25 off for one weight, 9.5 for the others, add up to less than 2^19.
constexpr float kCostOfStep = 896.0f;
constexpr float kLeastOffset = -1.5f, kMostOffset = 9.5f;

}  // namespace quantpress::iq3_plans
