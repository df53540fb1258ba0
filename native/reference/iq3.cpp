// The method is explained in kernels/iq3.hpp; here every entry of the grid is simply tried.
#include "reference/iq3.hpp"

#include <iterator>

#include "blocks.hpp"
#include "kernels/iq3_plans.hpp"
#include "reference/scalar.hpp"

namespace quantpress::reference {
namespace {

using namespace iq3_plans;

float ratio(float a, float b) { return b > 1e-30f ? a / b : 0.0f; }
float larger(float a, float b) { return a > b ? a : b; }

float sum_of_eight(const float *v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// sum w (x - s l)^2 without the part that neither s nor l changes.
struct Parabola {
    float ll = 0.0f, lx = 0.0f;
    float at(float s) const { return s * (s * ll - (lx + lx)); }
    void add(float w, float l, float x) {
        const float wl = w * l;
        ll += wl * l;
        lx += wl * x;
    }
};

// The cheapest entry: its index, its cost, and which weight's sign is turned round for it, -1 for none.
struct Entry {
    int index, turned;
    std::uint32_t cost;
};

template <class Grid> struct SubBlock {
    float x[32], w[32], cost[32], estimate;
    std::uint32_t negative = 0, signs;
    int entries[8];

    SubBlock() = default;
    SubBlock(const float *weights, const float *importance, float power) {
        float top = 0.0f, high = 0.0f, low = 0.0f;
        for (int i = 0; i < 32; ++i) {
            x[i] = std::fabs(weights[i]) * power;
            w[i] = larger(importance[i], kLeastImportance);
            top = larger(x[i], top);
            if (weights[i] < 0.0f) negative |= 1u << i;
        }
        signs = negative;
        const float unit = kCostOfStep * 4096.0f / (Grid::step * Grid::step);
        for (int i = 0; i < 32; ++i) cost[i] = w[i] * (unit / heaviest(i / 4));
        const float inverse = ratio(1.0f, top);
        for (int i = 0; i < 32; ++i) {
            const float v = x[i] * inverse, square = v * v, fourth = square * square * w[i];
            high += fourth * v;
            low += fourth;
        }
        const float mean = top * ratio(high, low);
        estimate = mean * (1.0f / Grid::levels[7]);
        for (int h = 0; Grid::even && h < 4; ++h)
            if (odd(h)) turn_cheapest(8 * h, mean);
    }

    float heaviest(int g) const { return larger(larger(w[4 * g], w[4 * g + 1]), larger(w[4 * g + 2], w[4 * g + 3])); }
    bool odd(int h) const { return Grid::even && std::popcount(negative >> 8 * h & 255) % 2; }

    void turn_cheapest(int first, float mean) {
        int which = first;
        float low = 3e38f;
        for (int i = first; i < first + 8; ++i) {
            const float loss = w[i] * x[i] * (x[i] + mean * 0.25f);
            if (loss < low) low = loss, which = i;
        }
        x[which] = -x[which];
    }

    static float level(int entry, int i) { return Grid::levels[Grid::grid[entry] >> 3 * i & 7]; }

    // What weight i, which is u = x / s, costs at a level.
    std::uint32_t cost_of(int i, float u, float level) const {
        const float off = u - level;
        return static_cast<std::uint32_t>(off * off * cost[i]) >> 12;
    }

    // The cheapest entry for four weights, with all signs as they are, or with one turned round.
    Entry cheapest(int g, const float *u, bool turn) const {
        Entry best = {0, -1, 0xffffffff};
        for (int e = 0; e < static_cast<int>(std::size(Grid::grid)); ++e)
            for (int turned = turn ? 0 : -1; turned < (turn ? 4 : 0); ++turned) {
                std::uint32_t sum = 0;
                for (int i = 0; i < 4; ++i) sum += cost_of(4 * g + i, u[i], i == turned ? -level(e, i) : level(e, i));
                if (sum < best.cost) best = {e, turned, sum};
            }
        return best;
    }

    Parabola lowest() const {
        Parabola sums;
        for (int i = 0; i < 32; ++i) sums.add(w[i], Grid::levels[0], x[i]);
        return sums;
    }

    Parabola search(float s) {
        const float inverse = ratio(1.0f, s);
        Parabola sums;
        for (int g = 0; g < 8; ++g) {
            float u[4];
            for (int i = 0; i < 4; ++i)
                u[i] = clamp(x[4 * g + i] * inverse, kLeastOffset * Grid::step, kMostOffset * Grid::step);
            entries[g] = cheapest(g, u, false).index;
            for (int i = 0; i < 4; ++i) sums.add(w[4 * g + i], level(entries[g], i), x[4 * g + i]);
        }
        return sums;
    }

    Parabola search_with_signs(float s) {
        if (!Grid::even) return search(s);
        Parabola sums;
        signs = negative;
        for (int h = 0; h < 4; ++h) {
            Entry right[2], turned[2];
            float price[2], price_turned[2];
            for (int k = 0; k < 2; ++k) {
                const int g = 2 * h + k;
                float u[4];
                for (int i = 0; i < 4; ++i)
                    u[i] = clamp(std::fabs(x[4 * g + i]) * ratio(1.0f, s), 0.0f, kMostOffset * Grid::step);
                right[k] = cheapest(g, u, false);
                turned[k] = cheapest(g, u, true);
                price[k] = static_cast<float>(right[k].cost) * heaviest(g);
                price_turned[k] = static_cast<float>(turned[k].cost) * heaviest(g);
            }
            const bool first = price_turned[0] + price[1] < price[0] + price_turned[1];
            take(sums, 2 * h, odd(h) && first ? turned[0] : right[0]);
            take(sums, 2 * h + 1, odd(h) && !first ? turned[1] : right[1]);
        }
        return sums;
    }

    // The sign turned round is the one that costs least without rounding.
    void take(Parabola &sums, int g, const Entry &entry) {
        entries[g] = entry.index;
        int which = -1;
        float low = 3e38f;
        for (int i = 0; entry.turned >= 0 && i < 4; ++i) {
            const float loss = level(entry.index, i) * std::fabs(x[4 * g + i]) * w[4 * g + i];
            if (loss < low) low = loss, which = i;
        }
        if (which >= 0) signs ^= 1u << (4 * g + which);
        for (int i = 0; i < 4; ++i) {
            const float magnitude = std::fabs(x[4 * g + i]);
            sums.add(w[4 * g + i], level(entry.index, i), i == which ? -magnitude : magnitude);
        }
    }
};

// The bounds of a sub-block's error, and what they say.
struct Bounds {
    Parabola parabola[32];
    int count = 0;
    float scale = 0.0f, lowest = 0.0f;

    void add(const Parabola &p) {
        const float s = ratio(p.lx, p.ll), bottom = p.at(s);
        if (bottom < lowest) lowest = bottom, scale = s;
        parabola[count++] = p;
    }

    const Parabola &at(float s) const {
        const Parabola *best = parabola;
        for (int k = 1; k < count; ++k)
            if (parabola[k].at(s) < best->at(s)) best = parabola + k;
        return *best;
    }
};

template <class Grid> struct SuperBlock {
    SubBlock<Grid> block[8];
    Bounds bounds[8];
    float power, d = 0.0f, error = 0.0f, code[8] = {};

    SuperBlock(const float *x, const float *w) {
        float top = 0.0f;
        for (int i = 0; i < 256; ++i) top = larger(std::fabs(x[i]), top);
        power = std::bit_cast<float>((254u << 23) - (std::bit_cast<std::uint32_t>(top) & 0x7f800000));
        for (int b = 0; b < 8; ++b) block[b] = SubBlock<Grid>(x + 32 * b, w + 32 * b, power);
    }

    static float multiplier(float code) { return (code + 0.5f) * Grid::unit; }

    Half stored(float wanted) const { return to_scale(wanted / power); }

    void consider(float wanted) {
        const float tried = from_half(stored(wanted)) * power;
        float codes[8], errors[8];
        for (int b = 0; b < 8; ++b) {
            const float below = nearest(ratio(bounds[b].scale, tried * Grid::unit) - 1.0f);
            const float first = clamp(below, 0.0f, 15.0f), second = clamp(below + 1.0f, 0.0f, 15.0f);
            const float s = tried * multiplier(first), t = tried * multiplier(second);
            const float low = bounds[b].at(s).at(s), other = bounds[b].at(t).at(t);
            codes[b] = other < low ? second : first;
            errors[b] = other < low ? other : low;
        }
        const float sum = sum_of_eight(errors);
        if (!(sum < error)) return;
        error = sum;
        d = tried;
        std::memcpy(code, codes, sizeof code);
    }

    float least_squares(const Parabola *parabola) const {
        float lx[8], ll[8];
        for (int b = 0; b < 8; ++b) {
            const float m = multiplier(code[b]);
            lx[b] = m * parabola[b].lx;
            ll[b] = m * m * parabola[b].ll;
        }
        return ratio(sum_of_eight(lx), sum_of_eight(ll));
    }

    void choose(int count) {
        float longest = 0.0f;
        for (int b = 0; b < 8; ++b) longest = larger(bounds[b].scale, longest);
        longest *= 1.0f / Grid::unit;
        const float step = (kHighest - kLowest) / static_cast<float>(count);
        for (int k = 0; k < count; ++k) consider(longest / (kHighest - step * static_cast<float>(k)));
        for (int k = 0; k < 2; ++k) {
            Parabola chosen[8];
            for (int b = 0; b < 8; ++b) chosen[b] = bounds[b].at(d * multiplier(code[b]));
            consider(least_squares(chosen));
        }
    }

    // Returns d as it is stored.
    Half encode(const Plan &plan) {
        for (int b = 0; b < 8; ++b) {
            bounds[b].add(block[b].lowest());
            float s = block[b].estimate * kFirst;
            for (int k = 0; k < plan.coarse; ++k, s *= plan.ratio) bounds[b].add(block[b].search(s));
            for (int k = 0; k < plan.fine; ++k)
                bounds[b].add(block[b].search_with_signs(bounds[b].scale * kNear[k]));
        }
        choose(plan.scales);
        Parabola last[8];
        for (int b = 0; b < 8; ++b) last[b] = block[b].search_with_signs(d * multiplier(code[b]));
        return stored(least_squares(last));
    }
};

template <class Grid, class Pack> void for_super_blocks(const Rows &rows, Effort effort, Pack pack) {
    for (std::size_t i = 0; i < rows.rows * rows.cols; i += 256) {
        float w[256];
        normalise(importance_at(rows, i), 256, w);
        SuperBlock<Grid> super(rows.x + i, w);
        const Half d = super.encode(kPlans[static_cast<int>(effort)]);
        pack(i / 256, super, d);
    }
}

}  // namespace

void encode_iq3_xxs(const Rows &rows, Effort effort, std::uint8_t *out) {
    for_super_blocks<XXS>(rows, effort, [&](std::size_t index, const SuperBlock<XXS> &super, Half d) {
        IQ3_XXS packed = {};
        packed.d = d;
        for (int b = 0; b < 8; ++b) {
            for (int g = 0; g < 8; ++g) packed.qs[8 * b + g] = static_cast<std::uint8_t>(super.block[b].entries[g]);
            std::uint32_t word = static_cast<std::uint32_t>(super.code[b]) << 28;
            for (int h = 0; h < 4; ++h) word |= (super.block[b].signs >> 8 * h & 127) << 7 * h;
            std::memcpy(packed.signs + 4 * b, &word, sizeof word);
        }
        put(out, index, packed);
    });
}

void encode_iq3_s(const Rows &rows, Effort effort, std::uint8_t *out) {
    for_super_blocks<S>(rows, effort, [&](std::size_t index, const SuperBlock<S> &super, Half d) {
        IQ3_S packed = {};
        packed.d = d;
        for (int b = 0; b < 8; ++b) {
            for (int g = 0; g < 8; ++g) {
                const int entry = super.block[b].entries[g];
                packed.qs[8 * b + g] = static_cast<std::uint8_t>(entry);
                packed.qh[b] |= static_cast<std::uint8_t>(entry >> 8 << g);
            }
            std::memcpy(packed.signs + 4 * b, &super.block[b].signs, 4);
            packed.scales[b / 2] |= static_cast<std::uint8_t>(static_cast<int>(super.code[b]) << 4 * (b % 2));
        }
        put(out, index, packed);
    });
}

}  // namespace quantpress::reference
