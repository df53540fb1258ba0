// How hard the encoders of IQ1_S and IQ1_M look for the scales, for the kernel and the scalar reference alike.
//
// Scales are multiples of a typical one of the sub-block (scans), then of the best of those (trials).
#pragma once

namespace quantpress::iq1_plans {

constexpr int kMostScans = 6, kMostTrials = 4;

struct Plan {
    int scans;               // scales at which the weights are rounded without regard to the grid
    float scan[kMostScans];
    int trials;              // scales at which the grid is searched before d is chosen
    float trial[kMostTrials];
    bool both;               // trials with both deltas, not only with the one that rounding without the grid prefers
    int levels;              // with d chosen, sub-scales tried: the best for the trials, its neighbours (1 to 3)
    int flips;               // weights of each group that may take the sign that costs more
};

constexpr Plan kPlans[3] = {  // by effort
    {4, {0.75f, 0.98f, 1.27f, 1.65f}, 1, {1.05f}, false, 1, 0},
    {4, {0.75f, 0.98f, 1.27f, 1.65f}, 3, {0.85f, 1.0f, 1.18f}, false, 1, 1},
    {6, {0.7f, 0.84f, 1.0f, 1.2f, 1.45f, 1.75f}, 4, {0.81f, 0.94f, 1.08f, 1.25f}, true, 3, 2},
};

// Candidates of the super-block's d, in units of a fifteenth of the largest scale of its sub-blocks; then a float16.
constexpr float kSteps[16] = {0.600f, 0.634f, 0.669f, 0.707f, 0.746f, 0.788f, 0.832f, 0.879f,
                              0.928f, 0.980f, 1.035f, 1.093f, 1.154f, 1.218f, 1.287f, 1.359f};

}  // namespace quantpress::iq1_plans
