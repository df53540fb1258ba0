// How much the encoders of Q3_K and Q6_K search, by effort; the kernels and the scalar reference read it here.
#pragma once

namespace quantpress::k_symmetric_plans {

struct PlanQ3 {
    int scans;  // codes of x m / top for m = first, first ratio, ...
    float first, ratio;
    int scales;    // vectors of candidates for d
    int integers;  // tried, from the first one on to both sides
    int rounds;    // of integers and d in turn
};

constexpr PlanQ3 kPlansQ3[3] = {
    {5, 3.2f, 1.25f, 1, 0, 0},
    {8, 3.0f, 1.196f, 1, 3, 1},
    {24, 2.5f, 1.068f, 4, 7, 2},
};

struct PlanQ6 {
    float steps;    // integer of the largest scale that clips nothing
    int unclipped;  // integers from the smallest that clips nothing on
    int clipped;    // integers below it, where a weight of little importance may be cut off
    int rounds;
};

constexpr PlanQ6 kPlansQ6[2][3] = {  // by importance and effort
    {{112.0f, 8, 0, 1}, {106.0f, 19, 0, 1}, {96.0f, 30, 3, 2}},
    {{112.0f, 7, 2, 1}, {106.0f, 15, 4, 1}, {96.0f, 26, 12, 2}},
};

}  // namespace quantpress::k_symmetric_plans
