// IndexSoftmax integer kernel: levels by the distance of codes to the highest, the sum of their entries, one product
// per level.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "integer_arithmetic.hpp"
#include "integer_rows.hpp"
#include "registry.hpp"

namespace softmaxkit {

struct IntegerIndex {
    ScoreCodes codes;
    std::vector<int32_t> levels;   // by distance, up to the least distance whose entry is 0
    std::vector<int64_t> entries;  // by level
    Reciprocal reciprocal;
    int64_t fraction_bits;         // of the reciprocal
    int64_t one;                   // largest output code
};

class IntegerIndexRow {
public:
    IntegerIndexRow(const IntegerIndex& tables, int64_t count)
        : tables_(tables), levels_(count), values_(tables.entries.size()) {}

    void operator()(const float* scores, bool invalid, int64_t keys, float* __restrict to, int64_t) {
        if (invalid) return fill_invalid(Scores<float, false>{scores, nullptr}, to, keys);
        int32_t* __restrict levels = levels_.data();
        const int64_t count = padded(keys);
        const int32_t highest = tables_.codes.encode(scores, levels, count);
        if (highest == masked_code) return fill_zero(to, keys);
        const auto farthest = static_cast<int32_t>(tables_.levels.size()) - 1;  // also of masked scores
        for (int64_t key = 0; key < count; ++key) levels[key] = std::min(highest - levels[key], farthest);
        int64_t sum = 0;
        for (int64_t key = 0; key < count; ++key) {
            levels[key] = tables_.levels[levels[key]];
            sum += tables_.entries[levels[key]];
        }
        const auto [mantissa, exponent] = tables_.reciprocal(sum);
        const RoundingShift<int64_t> shift(exponent + tables_.fraction_bits, true);
        for (size_t level = 0; level < values_.size(); ++level) {
            const int64_t code = std::min(shift(tables_.entries[level] * mantissa * tables_.one), tables_.one);
            values_[level] = static_cast<float>(static_cast<double>(code) / static_cast<double>(tables_.one));
        }
        for (int64_t key = 0; key < keys; ++key) to[key] = values_[levels[key]];
    }

private:
    const IntegerIndex& tables_;
    std::vector<int32_t> levels_;
    std::vector<float> values_;
};

namespace {

const Registration registration([](nanobind::module_& m) {
    nanobind::class_<IntegerIndex>(m, "IntegerIndex")
        .def("__init__", [](IntegerIndex* self, double scale, int32_t lowest, int32_t highest,
                            std::vector<int32_t> levels, std::vector<int64_t> entries, const Reciprocal& reciprocal,
                            int64_t fraction_bits, int64_t one) {
            new (self) IntegerIndex{{scale, lowest, highest}, std::move(levels), std::move(entries), reciprocal,
                                    fraction_bits, one};
        });
    m.def("integer_index_float32", &run_integer_rows<IntegerIndexRow, IntegerIndex>,
          nanobind::call_guard<nanobind::gil_scoped_release>());
});

}  // namespace

}  // namespace softmaxkit
