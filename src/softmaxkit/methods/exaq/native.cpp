// EXAQ integer kernel: levels from comparing codes with the highest, their sum from counts, one product per level.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <utility>

#include "integer_arithmetic.hpp"
#include "integer_rows.hpp"
#include "registry.hpp"

namespace softmaxkit {

struct IntegerExaq {
    ScoreCodes codes;
    std::vector<int32_t> thresholds;    // ascending; least difference of a code from the highest
    std::vector<int64_t> exponentials;  // of the levels
    Reciprocal reciprocal;
    int64_t places;  // fraction bits of a product minus those of the output, without the reciprocal's exponent
    int64_t limit;   // largest output code
    double step;     // of the output
};

template <int levels>
class IntegerExaqRow {
public:
    IntegerExaqRow(const IntegerExaq& tables, int64_t count) : tables_(tables), codes_(count) {}

    void operator()(const float* scores, bool invalid, int64_t keys, float* to, int64_t) {
        if (invalid) return fill_invalid(Scores<float, false>{scores, nullptr}, to, keys);
        const int32_t highest = tables_.codes.encode(scores, codes_.data(), padded(keys));
        if (highest == masked_code) return fill_zero(to, keys);
        std::array<int32_t, levels> least{masked_code + 1};  // least code of each level; masked scores have no level
        for (int level = 1; level < levels; ++level) least[level] = highest + tables_.thresholds[level - 1];
        normalise(least, keys, to, std::make_index_sequence<levels>{});
    }

private:
    // The loop over levels is unrolled so that the loops over keys vectorise.
    template <size_t... level>
    void normalise(const std::array<int32_t, levels> least, int64_t keys, float* __restrict to,
                   std::index_sequence<level...>) const {
        const int32_t* __restrict codes = codes_.data();
        std::array<int32_t, levels> reached{};
        const int64_t count = padded(keys);
        for (int64_t key = 0; key < count; ++key) ((reached[level] += codes[key] >= least[level]), ...);
        int64_t sum = 0;
        for (int index = 0; index < levels; ++index) {
            const int32_t above = index + 1 < levels ? reached[index + 1] : 0;
            sum += (reached[index] - above) * tables_.exponentials[index];
        }
        const auto [mantissa, exponent] = tables_.reciprocal(sum);
        const RoundingShift<int64_t> shift(exponent + tables_.places, true);
        std::array<float, levels> values;
        for (int index = 0; index < levels; ++index) {
            const int64_t code = std::min(shift(tables_.exponentials[index] * mantissa), tables_.limit);
            values[index] = static_cast<float>(static_cast<double>(code) * tables_.step);
        }
        for (int64_t key = 0; key < keys; ++key) {
            float value = 0;
            ((value = codes[key] >= least[level] ? values[level] : value), ...);
            to[key] = value;
        }
    }

    const IntegerExaq& tables_;
    std::vector<int32_t> codes_;
};

namespace {

void run(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, const IntegerExaq& tables) {
    const size_t levels = tables.exponentials.size();
    if (levels == 4) run_integer_rows<IntegerExaqRow<4>>(from, to, mask, layout, threads, tables);
    if (levels == 8) run_integer_rows<IntegerExaqRow<8>>(from, to, mask, layout, threads, tables);
    if (levels == 16) run_integer_rows<IntegerExaqRow<16>>(from, to, mask, layout, threads, tables);
}

const Registration registration([](nanobind::module_& m) {
    nanobind::class_<IntegerExaq>(m, "IntegerExaq")
        .def("__init__", [](IntegerExaq* self, double scale, int32_t lowest, int32_t highest,
                            std::vector<int32_t> thresholds, std::vector<int64_t> exponentials,
                            const Reciprocal& reciprocal, int64_t places, int64_t limit, double step) {
            new (self) IntegerExaq{{scale, lowest, highest}, std::move(thresholds), std::move(exponentials),
                                   reciprocal, places, limit, step};
        });
    m.def("integer_exaq_float32", &run, nanobind::call_guard<nanobind::gil_scoped_release>());
});

}  // namespace

}  // namespace softmaxkit
