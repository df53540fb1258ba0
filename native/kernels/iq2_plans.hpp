// What the encoders of IQ2_XXS, IQ2_XS and IQ2_S try, for the kernels and the reference.
#pragma once

namespace quantpress::iq2_plans {

// At how many scales the grid is searched: first at `scales`, each `ratio` times the one before; then, in each round,
// at the multiple of d / 4 chosen and this many neighbours to both sides, with this many choices of the sign that is
// not the weight's.
struct Plan {
    int scales;
    float first, ratio;  // first: times the estimate kMean
    int rounds, neighbours, choices;
};
constexpr Plan kPlans[3] = {  // by effort
    {4, 0.6f, 1.4f, 1, 0, 1},
    {5, 0.58f, 1.33f, 1, 0, 2},
    {10, 0.5f, 1.17f, 3, 1, 2},
};
constexpr int kMostFound = kPlans[2].scales + kPlans[2].rounds * (2 * kPlans[2].neighbours + 1);

// The scale of a sub-block, roughly, is the mean of |x| times this.
constexpr float kMean = 1.0f / 18.5f;

// The first values of d / 4: the largest scale is these multiples of it.
constexpr float kMultiples[8] = {10.0f, 10.8f, 11.6f, 12.4f, 13.2f, 14.0f, 14.8f, 15.6f};

// Where d is set anew, these times the least squares are tried.
constexpr float kAround[5] = {0.98f, 0.99f, 1.0f, 1.01f, 1.02f};

// What a weight counts at least, of the mean of its sub-block: one of no importance is rounded to something near.
constexpr float kLeastShare = 1e-4f;

// Scales and the importance of a sub-block are at least this: products and their inverses stay finite.
constexpr float kSmallest = 1e-15f;

}  // namespace quantpress::iq2_plans
