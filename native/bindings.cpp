// The Python module: checks the arrays, releases the GIL, calls. Meanings and units: src/quantpress/_native.pyi.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "tile.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantpress {
namespace {

template <class T, class... Options> using Array = nb::ndarray<T, nb::device::cpu, Options...>;
using Rows = Array<const float, nb::ndim<2>>;  // rows may be apart, columns may not
using Indices = Array<const std::int32_t, nb::ndim<1>, nb::c_contig>;

void expect(bool holds, const char *message) {
    if (!holds) throw std::invalid_argument(message);
}

void check_indices(const Indices &indices, std::size_t rows, std::size_t end, const char *name) {
    if (indices.shape(0) != rows) throw std::invalid_argument(std::string(name) + ": expected one a row");
    for (std::size_t i = 0; i < rows; ++i)
        if (indices(i) < 0 || static_cast<std::size_t>(indices(i)) >= end)
            throw std::invalid_argument(std::string(name) + ": expected 0 to " + std::to_string(end - 1) + ", found " +
                                        std::to_string(indices(i)));
}

void check_logits(const Rows &logits, const Indices &targets) {
    expect(logits.shape(1) > 0, "logits: expected a vocabulary, found no columns");
    expect(logits.shape(1) == 1 || logits.stride(1) == 1, "logits: expected adjacent columns");
    check_indices(targets, logits.shape(0), logits.shape(1), "targets");
}

template <class Packed> void check_packed(const Packed &packed, const Rows &logits) {
    expect(packed.shape(0) == logits.shape(0), "packed: expected one row a row of logits");
    expect(packed.shape(1) == packed_words(logits.shape(1)), "packed: expected packed_words(vocab) columns");
}

template <class T> auto own(std::unique_ptr<T[]> data, std::size_t count) {
    nb::capsule owner(data.get(), [](void *pointer) noexcept { delete[] static_cast<T *>(pointer); });
    return nb::ndarray<nb::numpy, T, nb::ndim<1>>(data.release(), {count}, owner);
}

const float *row(const Rows &x, std::size_t i) { return x.data() + static_cast<std::ptrdiff_t>(i) * x.stride(0); }

void add_squares(const Rows &x, const Array<double, nb::ndim<2>, nb::c_contig> &sums,
                 const std::optional<Indices> &matrix, int threads, const std::string &isa) {
    const std::size_t rows = x.shape(0), cols = x.shape(1);
    expect(cols <= 1 || x.stride(1) == 1, "x: expected adjacent columns");
    expect(sums.shape(1) == cols, "sums: expected as many columns as x");
    expect(matrix || sums.shape(0) == 1, "sums: expected one row, or a matrix index for each row of x");
    if (matrix) check_indices(*matrix, rows, sums.shape(0), "matrix");
    const Kernels &use = kernels(isa);
    const nb::gil_scoped_release released;
    parallel(cols, threads, [&](std::size_t first, std::size_t last) {
        constexpr std::size_t kBlock = 1024;  // columns whose sums stay in the first-level cache
        for (std::size_t col = first; col < last; col += kBlock)
            for (std::size_t i = 0; i < rows; ++i)
                use.add_squares(row(x, i) + col, std::min(kBlock, last - col),
                                sums.data() + (matrix ? (*matrix)(i) : 0) * cols + col);
    });
}

auto score(const Rows &logits, const Indices &targets, int threads, const std::string &isa) {
    check_logits(logits, targets);
    const Kernels &use = kernels(isa);
    const std::size_t rows = logits.shape(0), vocab = logits.shape(1);
    std::unique_ptr<double[]> nll(new double[rows]);
    {
        const nb::gil_scoped_release released;
        parallel(rows, threads, [&](std::size_t first, std::size_t last) {
            for (std::size_t i = first; i < last; ++i) nll[i] = use.score(row(logits, i), vocab, targets(i));
        });
    }
    return own(std::move(nll), rows);
}

auto pack(const Rows &logits, const Indices &targets, const Array<std::uint16_t, nb::ndim<2>, nb::c_contig> &packed,
          int threads, const std::string &isa) {
    check_logits(logits, targets);
    check_packed(packed, logits);
    const Kernels &use = kernels(isa);
    const std::size_t rows = logits.shape(0), vocab = logits.shape(1);
    std::unique_ptr<double[]> nll(new double[rows]);
    {
        const nb::gil_scoped_release released;
        parallel(rows, threads, [&](std::size_t first, std::size_t last) {
            for (std::size_t i = first; i < last; ++i)
                nll[i] = use.pack(row(logits, i), vocab, targets(i), packed.data() + i * packed_words(vocab));
        });
    }
    return own(std::move(nll), rows);
}

auto compare(const Array<const std::uint16_t, nb::ndim<2>, nb::c_contig> &packed, const Rows &logits,
             const Indices &targets, int threads, const std::string &isa) {
    check_logits(logits, targets);
    check_packed(packed, logits);
    const Kernels &use = kernels(isa);
    const std::size_t rows = logits.shape(0), vocab = logits.shape(1);
    std::unique_ptr<double[]> nll(new double[rows]), kld(new double[rows]);
    std::unique_ptr<bool[]> same_top(new bool[rows]);
    {
        const nb::gil_scoped_release released;
        parallel(rows, threads, [&](std::size_t first, std::size_t last) {
            for (std::size_t i = first; i < last; ++i) {
                const std::uint16_t *base = packed.data() + i * packed_words(vocab);
                const Comparison found = use.compare(base, row(logits, i), vocab, targets(i));
                nll[i] = found.nll, kld[i] = found.kld, same_top[i] = found.same_top;
            }
        });
    }
    return nb::make_tuple(own(std::move(nll), rows), own(std::move(kld), rows), own(std::move(same_top), rows));
}

using Packed = Array<const std::uint8_t, nb::ndim<2>, nb::c_contig>;
using Encoded = std::optional<Array<std::uint8_t, nb::ndim<2>, nb::c_contig>>;

void check_rows(const Codec &codec, std::size_t cols, std::size_t bytes, const char *name) {
    if (cols % codec.block)
        throw std::invalid_argument(std::string(codec.type) + ": expected rows of a multiple of " +
                                    std::to_string(codec.block) + " weights, found " + std::to_string(cols));
    if (bytes != row_bytes(codec, cols))
        throw std::invalid_argument(std::string(name) + ": expected rows of " + std::to_string(row_bytes(codec, cols)) +
                                    " bytes, found " + std::to_string(bytes));
}

Target target(const std::string &type, const Encoded &out, double *errors, bool restore, const Tile &tile,
              const std::string &isa) {
    const Codec found = codec(type, isa);
    check_rows(found, tile.cols, out ? out->shape(1) : row_bytes(found, tile.cols), "out");
    expect(!out || out->shape(0) == tile.rows, "out: expected as many rows as data");
    return {found, out ? out->data() : nullptr, errors, restore};
}

std::optional<std::size_t> encode_rows(const Packed &data, const std::string &source, std::size_t cols,
                                       const std::vector<std::string> &types, const std::vector<Encoded> &out,
                                       const std::optional<Array<const float, nb::ndim<1>, nb::c_contig>> &importance,
                                       const std::optional<Array<double, nb::ndim<2>, nb::c_contig>> &errors,
                                       float limit, int effort, bool restore, int threads, const std::string &isa) {
    const Tile tile{data.data(), codec(source, isa), data.shape(0), cols, importance ? importance->data() : nullptr, limit};
    check_rows(tile.source, cols, data.shape(1), "data");
    expect(!importance || importance->shape(0) == cols, "importance: expected one value a column");
    expect(out.size() == types.size(), "out: expected one array or None a type");
    expect(!errors || (errors->shape(0) == types.size() && errors->shape(1) == tile.rows),
           "errors: expected [types, rows]");
    expect(effort >= 0 && effort <= 2, "effort: expected 0, 1 or 2");
    std::vector<Target> targets;
    for (std::size_t i = 0; i < types.size(); ++i)
        targets.push_back(
            target(types[i], out[i], errors ? errors->data() + i * tile.rows : nullptr, restore, tile, isa));
    const Kernels &use = kernels_of_codec(isa);
    const nb::gil_scoped_release released;
    const std::size_t bad = encode(use, tile, targets, static_cast<Effort>(effort), threads);
    return bad == kGood ? std::nullopt : std::optional(bad);
}

void decode_rows(const Packed &data, const std::string &source, const Array<float, nb::ndim<2>, nb::c_contig> &out,
                 int threads, const std::string &isa) {
    const Codec found = codec(source, isa);
    check_rows(found, out.shape(1), data.shape(1), "data");
    expect(out.shape(0) == data.shape(0), "out: expected as many rows as data");
    const nb::gil_scoped_release released;
    decode(found, data.data(), data.shape(0), out.shape(1), out.data(), threads);
}

// Of each type that has codes, the weights of one.
nb::dict code_widths() {
    nb::dict widths;
    for (const std::string &type : types())
        if (const Alphabet *of = alphabet(type.c_str())) widths[type.c_str()] = of->width;
    return widths;
}

using Column = Array<const float, nb::ndim<1>, nb::c_contig>;

// Of all panels: rows above and of its own, times columns.
std::size_t factor_size(std::size_t cols) {
    std::size_t size = 0;
    for (std::size_t first = 0; first < cols; first += kPanel) {
        const std::size_t width = std::min(kPanel, cols - first);
        size += (first + width) * width;
    }
    return size;
}

// A permutation that keeps blocks together and, of codes of several weights, groups of eight in their own order.
void check_order(const Indices &order, const Alphabet &of, std::size_t cols) {
    check_indices(order, cols, cols, "order");
    std::vector<bool> seen(cols);
    for (std::size_t i = 0; i < cols; ++i) {
        const std::size_t column = order(i), first = order(i / of.block * of.block);
        expect(!seen[column] && column / of.block == first / of.block, "order: expected whole blocks, each column once");
        if (of.width > 1)
            expect(column == static_cast<std::size_t>(order(i / 8 * 8)) + i % 8 && column % 8 == i % 8,
                   "order: expected whole groups of eight");
        seen[column] = true;
    }
}

void compensate_rows(const Rows &x, const std::string &type, const Array<std::uint8_t, nb::ndim<2>, nb::c_contig> &out,
                     const Column &factor, const Column &diagonal, const Column &importance, const Indices &order,
                     int rounds, int effort, int threads, const std::string &isa) {
    const std::size_t rows = x.shape(0), cols = x.shape(1);
    const Alphabet *of = alphabet(type.c_str());
    if (!of) throw std::invalid_argument("type: expected one that has codes, found " + type);
    expect(cols <= 1 || (x.stride(1) == 1 && (rows <= 1 || x.stride(0) == static_cast<std::int64_t>(cols))),
           "x: expected adjacent rows");
    const Codec found = codec(type, isa);
    check_rows(found, cols, out.shape(1), "out");
    expect(out.shape(0) == rows, "out: expected as many rows as x");
    expect(factor.shape(0) == factor_size(cols), "factor: expected panels of 256 columns");
    expect(diagonal.shape(0) == cols && importance.shape(0) == cols, "diagonal, importance: expected one value a column");
    expect(rounds > 0 && effort >= 0 && effort <= 2, "rounds, effort: expected at least 1, and 0 to 2");
    check_order(order, *of, cols);
    const Feedback feedback{factor.data(), diagonal.data(), importance.data(), order.data(), rounds};
    const Kernels &use = kernels(isa);
    const nb::gil_scoped_release released;
    compensate(use, {found, *of, feedback, static_cast<Effort>(effort)}, {x.data(), nullptr, rows, cols}, out.data(),
               threads);
}

}  // namespace
}  // namespace quantpress

NB_MODULE(_native, module) {
    using namespace quantpress;
    module.def("isa", [] { return std::string(kernels().isa); });
    module.def("isas", &isas);
    module.def("types", &types);
    module.def("encode", &encode_rows, "data"_a.noconvert(), "source"_a, "cols"_a, "types"_a, "out"_a.noconvert(),
               "importance"_a.noconvert() = nb::none(), nb::kw_only(), "errors"_a.noconvert() = nb::none(),
               "limit"_a = 3.4028235e38f, "effort"_a = 1, "restore"_a = false, "threads"_a = 1, "isa"_a = "");
    module.def("decode", &decode_rows, "data"_a.noconvert(), "source"_a, "out"_a.noconvert(), nb::kw_only(),
               "threads"_a = 1, "isa"_a = "");
    module.def("compensate", &compensate_rows, "x"_a.noconvert(), "type"_a, "out"_a.noconvert(), "factor"_a.noconvert(),
               "diagonal"_a.noconvert(), "importance"_a.noconvert(), "order"_a.noconvert(), nb::kw_only(),
               "rounds"_a = 1, "effort"_a = 1, "threads"_a = 1, "isa"_a = "");
    module.def("code_widths", &code_widths);
    module.def("packed_words", &packed_words, "vocab"_a);
    module.def("add_squares", &add_squares, "x"_a.noconvert(), "sums"_a.noconvert(),
               "matrix"_a.noconvert() = nb::none(), nb::kw_only(), "threads"_a = 1, "isa"_a = "");
    module.def("score", &score, "logits"_a.noconvert(), "targets"_a.noconvert(), nb::kw_only(), "threads"_a = 1,
               "isa"_a = "");
    module.def("pack", &pack, "logits"_a.noconvert(), "targets"_a.noconvert(), "packed"_a.noconvert(), nb::kw_only(),
               "threads"_a = 1, "isa"_a = "");
    module.def("compare", &compare, "packed"_a.noconvert(), "logits"_a.noconvert(), "targets"_a.noconvert(),
               nb::kw_only(), "threads"_a = 1, "isa"_a = "");
}
