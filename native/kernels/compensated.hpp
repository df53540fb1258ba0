// Encoding with feedback (compensate.hpp), for any type that has codes.
//
// A lane is a row, up to four groups of 16 rows go through the columns together. Panel by panel the targets are brought
// up to date by matrix products; in a panel block by block. The type's own encoder, given the targets of a block, finds
// its scales; under these the codes are chosen one after another, each with the errors of those before it. As the
// targets move on the way, scales are looked for once more with the targets as they were met, and so on for some
// rounds; all but the last look for them fast (0.6 % of the error at most, a third of the time).
//
// Nothing here knows how a type packs its scales: what a code stands for is read from the type's own decoder.
#pragma once

#include <memory>

#include "compensate.hpp"
#include "kernels/batch.hpp"
#include "kernels/entries.hpp"
#include "kernels/products.hpp"

namespace quantpress {
namespace {
namespace compensated {

constexpr int kBlock = 256, kRun = 8, kStrip = 32;  // most weights of a block; weights that surely share a scale
constexpr std::size_t kGroups = 4;

// Not std::min and std::copy_n: of those the linker keeps one copy for all instruction sets.
inline std::size_t smaller_of(std::size_t a, std::size_t b) { return a < b ? a : b; }
inline void copy(const Float *from, std::size_t count, Float *to) {
    for (std::size_t i = 0; i < count; ++i) to[i] = from[i];
}

// Codes and what they are worth, of one block of 16 rows. Columns are those of the block.
struct Codes {
    std::uint16_t code[kLanes][kBlock];
    std::uint8_t signs[kLanes][kBlock / 8];
    std::uint8_t bytes[kLanes][kBlock];  // the packed block: of no type more than a byte a weight and its scales
    Float error[kBlock];                 // in the order taken
    Float cost;
};

// What a code stands for: offset + step * level.
struct Steps {
    Float offset[kBlock / kRun], step[kBlock / kRun];
};

// One block of 16 rows on its way.
class Block {
public:
    Block(const Compensation &how, std::size_t first, const float *factor, std::size_t stride)
        : how_(how), of_(how.alphabet), order_(how.feedback.order + first), diagonal_(how.feedback.diagonal + first),
          factor_(factor), stride_(stride), column_(order_[0] / of_.block * of_.block) {}

    // Encodes weights w with the targets y, both in the order taken; `best` holds the result.
    void encode(const Float *w, const Float *y, Codes &best) {
        put(y);
        for (int round = 0; round < how_.feedback.rounds; ++round) {
            const bool last = round + 1 == how_.feedback.rounds;
            Codes &found = round ? next_ : best;
            find_scales(last ? how_.effort : Effort::kFast, found);
            choose(w, y, found);
            if (round) keep_cheaper(best);
            if (!last) put(met_);
        }
    }

private:
    int column(int place) const { return order_[place] - column_; }

    // Targets in the order taken, for the encoder by rows and columns.
    void put(const Float *y) {
        for (int place = 0; place < of_.block; ++place) {
            float lane[kLanes];
            store(lane, y[place]);
            for (int row = 0; row < kLanes; ++row) rows_[row * of_.block + column(place)] = lane[row];
        }
    }

    void find_scales(Effort effort, Codes &found) {
        const std::size_t cols = static_cast<std::size_t>(of_.block), bytes = how_.codec.bytes;
        std::uint8_t packed[kLanes * (kBlock + 64)];
        how_.codec.encode({rows_, how_.feedback.importance + column_, kLanes, cols}, effort, packed);
        for (int row = 0; row < kLanes; ++row) std::memcpy(found.bytes[row], packed + row * bytes, bytes);
        probe(found);
    }

    // What the decoder makes of the lowest code and of the highest.
    void probe(const Codes &found) {
        decode_all(found, 0, lowest_);
        if (of_.signs == Signs::kNone) decode_all(found, of_.size - 1, highest_);
        const float low = level(0), high = level(of_.size - 1);
        for (int run = 0; run < of_.block / kRun; ++run) {
            const Float a = gathered(lowest_, run);
            Float &step = steps_.step[run], &offset = steps_.offset[run];
            if (of_.signs == Signs::kNone) {
                step = (gathered(highest_, run) - a) * (1.0f / (high - low));
                offset = a - step * low;
            } else {
                step = a * (1.0f / low);
                offset = broadcast(0.0f);
            }
        }
    }

    float level(int code) const {
        if (of_.width > 1) return of_.entries[code];
        return of_.levels ? of_.levels[code] : static_cast<float>(code);
    }

    void decode_all(const Codes &found, int code, float *values) {
        const std::uint8_t none[kBlock / 8] = {};
        std::uint16_t same[kBlock];
        for (int i = 0; i < of_.block / of_.width; ++i) same[i] = static_cast<std::uint16_t>(code);
        for (int row = 0; row < kLanes; ++row) {
            std::uint8_t block[kBlock + 64];
            std::memcpy(block, found.bytes[row], how_.codec.bytes);
            of_.write(same, none, block);
            how_.codec.decode(block, 1, values + row * of_.block);
        }
    }

    // The value of the first weight of a run, of each row.
    Float gathered(const float *values, int run) const {
        float lane[kLanes];
        for (int row = 0; row < kLanes; ++row) lane[row] = values[row * of_.block + run * kRun];
        return load(lane);
    }

    // The codes, one after another; met_ are the targets as they were met.
    void choose(const Float *w, const Float *y, Codes &found) {
        copy(y, of_.block, met_);
        found.cost = broadcast(0.0f);
        for (int strip = 0; strip < of_.block; strip += kStrip) {
            const int end = strip + kStrip;
            for (int place = strip; place < end; place += group()) {
                of_.width == 1 ? choose_one(place, found) : choose_group(w, place, found);
                for (int i = place; i < place + group(); ++i) pass_on(w, i, end, found);
            }
            Float *const target = met_ + end;
            const Float *const error = found.error + strip;
            add_products(&target, &error, 1, factor_ + strip * stride_ + end, stride_, kStrip, of_.block - end);
        }
        if (of_.width > 1) copy(aims_, of_.block, met_);
    }

    int group() const { return of_.width == 1 ? 1 : entries::kGroup; }

    // The error of a weight, to the later ones of its strip.
    void pass_on(const Float *w, int place, int end, Codes &found) {
        const Float rest = met_[place] - decoded_[place], e = w[place] - decoded_[place];
        found.cost = fused(found.cost, rest * rest, broadcast(diagonal_[place]));
        found.error[place] = e;
        const float *row = factor_ + place * stride_;
        for (int k = place + 1; k < end; ++k) met_[k] = fused(met_[k], e, broadcast(row[k]));
    }

    void choose_one(int place, Codes &found) {
        const int run = column(place) / kRun;
        const Float step = steps_.step[run], offset = steps_.offset[run];
        const Float v = (met_[place] - offset) * reciprocal(step);
        Int code;
        if (of_.levels) {
            code = nearest_level(v);
            decoded_[place] = fused(offset, step, lookup(load(of_.levels), code));
        } else {
            const Float q = nearest(clamp(v, 0.0f, static_cast<float>(of_.size - 1)));
            code = convert<std::int32_t>(q);
            decoded_[place] = fused(offset, step, q);
        }
        put_column(code, column(place), found.code);
    }

    // Of 16 ascending levels, by halving.
    Int nearest_level(const Float &v) const {
        float middle[kLanes];
        for (int i = 0; i < 15; ++i) middle[i] = 0.5f * (of_.levels[i] + of_.levels[i + 1]);
        middle[15] = 3e38f;
        const Float middles = load(middle);
        Int code = broadcast(0);
        for (const int step : {8, 4, 2, 1}) code = select(v > lookup(middles, code + (step - 1)), code + step, code);
        return code;
    }

    // Eight weights: their triangle, their aims without what they do to each other, and row by row the codes.
    void choose_group(const Float *w, int place, Codes &found) {
        const int run = column(place) / kRun;
        const Float step = steps_.step[run], offset = steps_.offset[run], per_step = reciprocal(step);
        entries::Triangle m;
        Float v[entries::kGroup];
        for (int j = 0; j < entries::kGroup; ++j) {
            const float root = __builtin_sqrtf(diagonal_[place + j]);
            Float aim = met_[place + j];
            for (int k = 0; k < j; ++k) {
                const float u = factor_[(place + k) * stride_ + place + j];
                aim = aim - (aims_[place + k] - w[place + k]) * u;
                m[k][j] = u * root;
            }
            m[j][j] = root;
            aims_[place + j] = aim;
            v[j] = (aim - offset) * per_step;
        }
        const entries::Chosen chosen = (of_.width == 8 ? entries::choose<8> : entries::choose<4>)(of_, v, m);
        for (int j = 0; j < entries::kGroup; ++j) decoded_[place + j] = fused(offset, step, chosen.level[j]);
        keep(chosen, run, found);
    }

    void keep(const entries::Chosen &chosen, int run, Codes &found) const {
        const int codes = entries::kGroup / of_.width;
        for (int i = 0; i < codes; ++i) put_column(chosen.code[i], run * codes + i, found.code);
        Int signs = broadcast(0);
        for (int j = 0; j < entries::kGroup; ++j) signs = signs | ((chosen.level[j] < 0.0f) & (1 << j));
        put_column(signs, run, found.signs);
    }

    template <class T, int n> static void put_column(const Int &values, int at, T (&rows)[kLanes][n]) {
        std::int32_t lane[kLanes];
        store(lane, values);
        for (int row = 0; row < kLanes; ++row) rows[row][at] = static_cast<T>(lane[row]);
    }

    // Row by row the cheaper of the best so far and this round's.
    void keep_cheaper(Codes &best) const {
        const Int better = next_.cost < best.cost;
        std::int32_t take[kLanes];
        store(take, better);
        for (int row = 0; row < kLanes; ++row) {
            if (!take[row]) continue;
            std::memcpy(best.code[row], next_.code[row], sizeof best.code[row]);
            std::memcpy(best.signs[row], next_.signs[row], sizeof best.signs[row]);
            std::memcpy(best.bytes[row], next_.bytes[row], sizeof best.bytes[row]);
        }
        for (int place = 0; place < of_.block; ++place)
            best.error[place] = select(better, next_.error[place], best.error[place]);
        best.cost = select(better, next_.cost, best.cost);
    }

    const Compensation &how_;
    const Alphabet &of_;
    const std::int32_t *order_;
    const float *diagonal_, *factor_;  // factor_: of the block's own rows and columns
    std::size_t stride_;
    int column_;
    Codes next_;
    Steps steps_;
    Float met_[kBlock], aims_[kBlock], decoded_[kBlock];
    float rows_[kLanes * kBlock], lowest_[kLanes * kBlock], highest_[kLanes * kBlock];
};

// Up to 64 rows.
class Chunk {
public:
    Chunk(const Compensation &how, const Rows &rows, std::uint8_t *out)
        : how_(how), rows_(rows), out_(out), groups_((rows.rows + kLanes - 1) / kLanes),
          errors_(new Float[groups_ * rows.cols]), weights_(new Float[groups_ * kPanel]),
          targets_(new Float[groups_ * kPanel]) {}

    void encode() {
        const float *factor = how_.feedback.factor;
        for (std::size_t first = 0; first < rows_.cols; first += kPanel) {
            const std::size_t width = smaller_of(kPanel, rows_.cols - first);
            panel(first, width, factor);
            factor += (first + width) * width;
        }
    }

private:
    void panel(std::size_t first, std::size_t width, const float *factor) {
        for (std::size_t g = 0; g < groups_; ++g)
            for (std::size_t k = 0; k < width; ++k)
                weights_[g * kPanel + k] = gathered(g, how_.feedback.order[first + k]);
        copy(weights_.get(), groups_ * kPanel, targets_.get());
        update(0, first, factor, width, 0, width);
        const std::size_t n = static_cast<std::size_t>(how_.alphabet.block);
        for (std::size_t at = 0; at < width; at += n) {
            const float *own = factor + (first + at) * width;
            for (std::size_t g = 0; g < groups_; ++g) block(g, first, at, own + at, width);
            update(first + at, n, own, width, at + n, width - at - n);
        }
    }

    // Targets of the panel from column `at` on, by `count` errors from place `from` on.
    void update(std::size_t from, std::size_t count, const float *factor, std::size_t stride, std::size_t at,
                std::size_t columns) {
        Float *target[kGroups];
        const Float *error[kGroups];
        for (std::size_t g = 0; g < groups_; ++g) {
            target[g] = targets_.get() + g * kPanel + at;
            error[g] = errors_.get() + g * rows_.cols + from;
        }
        add_products(target, error, groups_, factor + at, stride, count, columns);
    }

    void block(std::size_t g, std::size_t first, std::size_t at, const float *factor, std::size_t stride) {
        Codes found;
        Block one(how_, first + at, factor, stride);
        one.encode(weights_.get() + g * kPanel + at, targets_.get() + g * kPanel + at, found);
        const Alphabet &of = how_.alphabet;
        copy(found.error, of.block, errors_.get() + g * rows_.cols + first + at);
        const std::size_t index = static_cast<std::size_t>(how_.feedback.order[first + at] / of.block);
        const std::size_t bytes = how_.codec.bytes, row_bytes = rows_.cols / how_.codec.block * bytes;
        for (std::size_t row = 0; row < kLanes && g * kLanes + row < rows_.rows; ++row) {
            of.write(found.code[row], found.signs[row], found.bytes[row]);
            std::memcpy(out_ + (g * kLanes + row) * row_bytes + index * bytes, found.bytes[row], bytes);
        }
    }

    // A column of 16 rows; lanes past the last row repeat it.
    Float gathered(std::size_t g, std::int32_t column) const {
        float lane[kLanes];
        for (std::size_t row = 0; row < kLanes; ++row)
            lane[row] = rows_.x[smaller_of(g * kLanes + row, rows_.rows - 1) * rows_.cols + column];
        return load(lane);
    }

    const Compensation &how_;
    const Rows &rows_;
    std::uint8_t *out_;
    std::size_t groups_;
    std::unique_ptr<Float[]> errors_, weights_, targets_;  // [groups][cols or kPanel]
};

}  // namespace compensated

inline void compensate(const Compensation &how, const Rows &rows, std::uint8_t *out) {
    const std::size_t most = compensated::kGroups * kLanes, row_bytes = rows.cols / how.codec.block * how.codec.bytes;
    for (std::size_t row = 0; row < rows.rows; row += most) {
        const Rows some{rows.x + row * rows.cols, nullptr, compensated::smaller_of(most, rows.rows - row), rows.cols};
        compensated::Chunk(how, some, out + row * row_bytes).encode();
    }
}

}  // namespace
}  // namespace quantpress
