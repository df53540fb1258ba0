// How many candidates the encoders of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 go through: [with importance][effort]. Without
// importance the farthest weights count as much as all others, and the best scale is close to where they fit.
#pragma once

namespace quantpress::legacy_plans {

// Codes nearest(x (half + first + step c)), c = 0 ..., of x whose farthest weight is -1; then `rounds` of fitting the
// scale to the codes and the codes to the scale.
struct ScalePlan {
    int candidates;
    float first, step;
    bool both;  // with the other sign too: code -half has no positive counterpart
    int rounds;
};

constexpr ScalePlan kPlansQ4_0[2][3] = {
    {{3, -0.8f, 0.66f, false, 0}, {7, -1.0f, 0.33f, false, 1}, {17, -2.0f, 0.25f, true, 2}},
    {{4, -1.0f, 1.0f, true, 1}, {9, -2.0f, 0.75f, true, 1}, {40, -3.0f, 0.25f, true, 2}},
};

constexpr ScalePlan kPlansQ5_0[2][3] = {
    {{4, -1.0f, 0.8f, false, 0}, {9, -2.0f, 0.5f, false, 1}, {24, -4.0f, 0.3f, true, 2}},
    {{7, -2.0f, 1.0f, false, 1}, {15, -4.0f, 0.63f, false, 1}, {40, -5.0f, 0.3f, true, 2}},
};

// Codes nearest(x factor + shift) of x in [0, 1]. The factors are top + first + step c, c = 0 ...; of each, 3 `triples`
// shifts, `apart` of each other, are spread around the one that takes the middle of x to the middle of the codes. Then
// three shifts each, near_apart, of `near` factors, near_step apart, around what fits the best codes; then `rounds`.
struct RangePlan {
    int factors;
    float first, step;
    int triples;
    float apart;
    int near;
    float near_step, near_apart;
    int rounds;
};

constexpr RangePlan kPlansQ4_1[2][3] = {
    {{1, 0.2f, 0.0f, 1, 0.35f, 0, 0.0f, 0.0f, 0},
     {2, -0.5f, 0.8f, 1, 0.35f, 0, 0.0f, 0.0f, 0},
     {5, -1.0f, 0.6f, 2, 0.3f, 3, 0.5f, 0.25f, 1}},
    {{3, -0.6f, 1.8f, 2, 0.4f, 3, 0.4f, 0.2f, 1},
     {4, -1.0f, 1.5f, 3, 0.35f, 3, 0.5f, 0.25f, 1},
     {16, -2.0f, 0.6f, 4, 0.3f, 9, 0.3f, 0.2f, 2}},
};

constexpr RangePlan kPlansQ5_1[2][3] = {
    {{1, 0.2f, 0.0f, 1, 0.35f, 0, 0.0f, 0.0f, 0},
     {3, -1.0f, 1.0f, 1, 0.35f, 0, 0.0f, 0.0f, 1},
     {5, -1.0f, 0.7f, 2, 0.3f, 4, 0.6f, 0.25f, 1}},
    {{3, -0.6f, 2.2f, 2, 0.4f, 3, 0.6f, 0.3f, 1},
     {5, -2.0f, 1.5f, 2, 0.4f, 5, 0.7f, 0.3f, 1},
     {16, -2.0f, 0.8f, 4, 0.3f, 9, 0.4f, 0.2f, 2}},
};

// Float16 scales, `stride` apart, from the one at which the farthest weight is -128 upwards; then `near` neighbours of
// the best on either side.
struct BytePlan {
    int candidates, stride, near;
};

constexpr BytePlan kPlansQ8_0[2][3] = {
    {{2, 12, 0}, {4, 9, 0}, {24, 4, 2}},
    {{2, 12, 0}, {4, 10, 0}, {24, 4, 2}},
};

}  // namespace quantpress::legacy_plans
