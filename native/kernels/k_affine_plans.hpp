// What the encoders of Q2_K, Q4_K and Q5_K try, for the kernels and for the scalar reference.
#pragma once

#include "codec.hpp"

namespace quantpress::k_affine_plans {

// The search runs on integers: the weights of a sub-block that matter lie in 0 ... kSteps, importance in 1 ... kSteps.
constexpr float kSteps = 4096.0f;

// The others lie within these bounds, and the products of importance and weight are kept in units of kUnit.
constexpr float kFarBelow = -2048.0f, kFarAbove = 6144.0f, kUnit = 64.0f;

// A weight matters for the range of its sub-block if it has this part of sum w (x - mean)^2: cutting off an outlier
// without importance costs less than a wider range costs the others.
constexpr float kMatters = 0.003f;

constexpr float kLeast = 0x1p-24f;  // the smallest float16: scales are never 0, so that all can divide by them

// Codes are (x + shift) rate, rounded and clamped. x + shift has 13 bits, rate eleven: the product is exact.
struct Candidate {
    float shift, rate;
};

// From the code `low` for the smallest weight to `high` less than the top code for the largest, both in hundredths;
// where they are negative, weights are cut off.
struct Range {
    short low, high;
};

constexpr Candidate candidate(int top, Range range) {
    const int unit = 1024 / (top + 1), codes = ((100 * top - range.low - range.high) * unit + 50) / 100;
    const float rate = static_cast<float>(codes) / (static_cast<float>(unit) * kSteps);
    const float shift = static_cast<float>(range.low) * 0.01f / rate;
    return {static_cast<float>(static_cast<int>(shift + (shift < 0 ? -0.5f : 0.5f))), rate};
}

template <class Type> struct CandidateList {
    Candidate list[sizeof Type::kRanges / sizeof(Range)]{};

    constexpr CandidateList() {
        int k = 0;
        for (const Range range : Type::kRanges) list[k++] = candidate(Type::kTop, range);
    }
};

template <class Type> inline constexpr CandidateList<Type> kCandidates;

// How much is tried: candidates of a sub-block; scales and minima of a super-block in a draw, draws, rounds of fitting
// them again after each, and rounds with the exact weights.
struct Plan {
    int candidates, scales, draws, rounds, exact;
};

constexpr int kMostScales = 8;

// Codes 0 ... kTop; the scales of a sub-block are 1 ... kTopScale, its minima 0 ... kTopScale. The (d, dmin) tried are
// the largest scale and minimum over kMost, kMost - kStep, ... (kTopScale among them, for equal weights to come out
// right). The ranges are in the order of what each adds to those before it, chosen greedily on Gaussian, Laplace and
// Student-t weights.
struct Q2 {
    static constexpr int kWeights = 16, kTop = 3, kTopScale = 15;
    static constexpr float kMost = 15.8f, kStep = 0.4f;
    static constexpr Plan kPlans[] = {{12, 5, 1, 1, 0}, {23, 7, 1, 2, 1}, {40, 8, 4, 3, 2}};
    static constexpr Range kRanges[] = {
        {-40, -40}, {-70, -10}, {-10, -60},  {0, -100},    {-20, -10},  {-150, -10}, {10, -20},    {-100, -120},
        {-30, 10},  {0, -180},  {-10, 90},   {-130, -70},  {-70, -160}, {-80, 20},   {-30, -50},   {-180, 30},
        {-70, -40}, {20, -40},  {-170, -50}, {-40, -180},  {0, 20},     {-30, -90},  {-130, -120}, {-180, 0},
        {40, -180}, {0, -10},   {-40, 30},   {-180, 50},   {-90, -140}, {10, -120},  {-140, -50},  {0, 70},
        {-180, -120}, {-50, -20}, {50, -10}, {-100, 0},    {-80, -60},  {10, -180},  {70, 0},      {-70, -180},
    };
};

struct Q4 {
    static constexpr int kWeights = 32, kTop = 15, kTopScale = 63;
    static constexpr float kMost = 63.0f, kStep = 1.0f;
    static constexpr Plan kPlans[] = {{16, 4, 1, 1, 0}, {36, 6, 1, 2, 1}, {64, 8, 4, 3, 2}};
    static constexpr Range kRanges[] = {
        {-25, -25},  {-50, 25},  {0, -50},    {100, 0},    {-25, 0},    {25, 0},     {0, -100},   {-100, -25},
        {125, -25},  {-25, 100}, {-150, 0},   {-50, 0},    {-25, 175},  {-25, -50},  {-25, -200}, {-250, -25},
        {25, -50},   {0, 25},    {0, -275},   {-75, -50},  {-300, 0},   {0, 75},     {25, 175},   {0, -25},
        {-25, -100}, {-125, -25}, {200, 100}, {75, 25},    {0, -150},   {-25, 25},   {0, 0},      {-75, -275},
        {-75, -100}, {100, 125}, {25, -25},   {-25, 75},   {-225, -50}, {25, -300},  {-50, -25},  {-75, 25},
        {-50, -150}, {100, 75},  {-225, -275}, {-50, -300}, {-200, 0},  {-25, -75},  {75, 200},   {-150, -75},
        {-300, -25}, {25, 25},   {-75, 0},    {75, 125},   {25, 100},   {-50, -50},  {0, -225},   {100, 175},
        {0, -75},    {-300, 25}, {100, 25},   {-300, -100}, {-75, -25}, {-25, -150}, {-100, -250}, {200, 0},
    };
};

struct Q5 {
    static constexpr int kWeights = 32, kTop = 31, kTopScale = 63;
    static constexpr float kMost = 63.0f, kStep = 1.0f;
    static constexpr Plan kPlans[] = {{16, 4, 1, 1, 0}, {28, 6, 1, 1, 1}, {64, 8, 4, 3, 2}};
    static constexpr Range kRanges[] = {
        {0, 0},      {-25, 75},   {25, -25},  {-25, 25},   {200, 0},     {125, 0},    {200, 100},   {100, 25},
        {-25, -75},  {-75, -25},  {-25, -25}, {200, 200},  {0, 175},     {-25, 200},  {-100, 0},    {0, -175},
        {175, 125},  {25, 0},     {0, 25},    {25, -75},   {0, 75},      {-175, -25}, {-25, 100},   {125, 175},
        {-275, 0},   {-25, -50},  {-25, -275}, {-50, 0},   {0, -125},    {175, 225},  {175, 25},    {-25, 125},
        {200, 175},  {125, -25},  {-25, 0},   {75, 200},   {-200, 0},    {0, -75},    {125, 75},    {100, 0},
        {0, -25},    {-50, 25},   {-300, 0},  {25, 25},    {200, 75},    {25, -300},  {-75, -50},   {75, 75},
        {-150, 0},   {-25, -225}, {200, 25},  {225, 125},  {-275, -150}, {-225, 25},  {225, 200},   {0, -275},
        {-25, -150}, {225, 0},    {-75, -125}, {25, 125},  {0, -50},     {-125, -25}, {75, 175},    {175, 200},
    };
};

}  // namespace quantpress::k_affine_plans
