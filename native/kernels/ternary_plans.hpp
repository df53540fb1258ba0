// How much the encoders of TQ1_0 and TQ2_0 search, by effort; the kernels and the scalar reference read it here.
#pragma once

namespace quantpress::ternary_plans {

struct Plan {
    int thresholds;  // as fractions of the largest |x|: first, first ratio, ...
    float first, ratio;
    int rounds;  // of scale and threshold in turn
};

constexpr Plan kPlans[3] = {
    {3, 0.4f, 0.55f, 0},
    {4, 0.45f, 0.65f, 1},
    {32, 0.9f, 0.92f, 4},
};

}  // namespace quantpress::ternary_plans
