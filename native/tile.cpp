#include "tile.hpp"

#include <algorithm>
#include <atomic>

#include "parallel.hpp"

namespace quantpress {
namespace {

// Weights that are decoded, encoded to every type and compared before the next come in: 128 KiB of float32, which stay
// in the second-level cache.
constexpr std::size_t kPiece = std::size_t{1} << 15;

// The room that one thread works in.
struct Scratch {
    std::vector<float> x, decoded;
    std::vector<std::uint8_t> encoded;
};

// The rows as float32: where they are if they are, else decoded into the scratch.
const float *floats(const Tile &tile, const std::uint8_t *data, std::size_t rows, Scratch &scratch) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0;
    if (tile.source.type == std::string_view("F32") && aligned) return reinterpret_cast<const float *>(data);
    scratch.x.resize(rows * tile.cols);
    tile.source.decode(data, rows * tile.cols / tile.source.block, scratch.x.data());
    return scratch.x.data();
}

// Rows [first, first + piece.rows), as float32, to one target.
void encode_piece(const Kernels &use, const Rows &piece, std::size_t first, const Target &target, Effort effort,
                  Scratch &scratch) {
    const std::size_t bytes = row_bytes(target.codec, piece.cols);
    if (!target.out) scratch.encoded.resize(piece.rows * bytes);
    std::uint8_t *out = target.out ? target.out + first * bytes : scratch.encoded.data();
    target.codec.encode(piece, effort, out);
    const auto decode = [&] {
        scratch.decoded.resize(piece.rows * piece.cols);
        target.codec.decode(out, piece.rows * piece.cols / target.codec.block, scratch.decoded.data());
    };
    if (target.restore && use.loses_size(target.codec.type)) {
        decode();
        use.restore_size(piece, target.codec, scratch.decoded.data(), out);
    }
    if (!target.errors) return;
    decode();
    for (std::size_t i = 0; i < piece.rows; ++i)
        target.errors[first + i] = use.weighted_error(piece.x + i * piece.cols, scratch.decoded.data() + i * piece.cols,
                                                      piece.importance, piece.cols);
}

}  // namespace

std::size_t encode(const Kernels &use, const Tile &tile, const std::vector<Target> &targets, Effort effort,
                   int threads) {
    std::atomic<std::size_t> bad = kGood;
    parallel(tile.rows, threads, [&](std::size_t first, std::size_t last) {
        Scratch scratch;
        const std::size_t step = std::max<std::size_t>(1, kPiece / std::max<std::size_t>(1, tile.cols));
        for (std::size_t row = first; row < last; row += step) {
            const std::size_t rows = std::min(step, last - row), weights = rows * tile.cols;
            const std::uint8_t *data = tile.data + row * row_bytes(tile.source, tile.cols);
            const Rows piece{floats(tile, data, rows, scratch), tile.importance, rows, tile.cols};
            const std::size_t found = use.first_beyond(piece.x, weights, tile.limit);
            if (found < weights) {
                std::size_t least = bad;
                while (row * tile.cols + found < least && !bad.compare_exchange_weak(least, row * tile.cols + found)) {}
                return;
            }
            for (const Target &target : targets) encode_piece(use, piece, row, target, effort, scratch);
        }
    });
    return bad;
}

void decode(const Codec &source, const std::uint8_t *data, std::size_t rows, std::size_t cols, float *x, int threads) {
    parallel(rows, threads, [&](std::size_t first, std::size_t last) {
        source.decode(data + first * row_bytes(source, cols), (last - first) * cols / source.block, x + first * cols);
    });
}

void compensate(const Kernels &use, const Compensation &how, const Rows &rows, std::uint8_t *out, int threads) {
    constexpr std::size_t kPieceRows = 64;  // go through the columns together
    parallel((rows.rows + kPieceRows - 1) / kPieceRows, threads, [&](std::size_t first, std::size_t last) {
        const std::size_t row = first * kPieceRows, end = std::min(last * kPieceRows, rows.rows);
        use.compensate(how, {rows.x + row * rows.cols, nullptr, end - row, rows.cols},
                       out + row * row_bytes(how.codec, rows.cols));
    });
}

}  // namespace quantpress
