// EXAQ in integers: levels by comparing codes with the highest, their sum by counting, one product for each level.
#pragma once

#include <array>
#include <utility>

#include "integer_arithmetic.hpp"
#include "integer_rows.hpp"

struct IntegerExaq {
    ScoreCodes codes;
    std::vector<int32_t> thresholds;    // ascending; of a code less the highest
    std::vector<int64_t> exponentials;  // of the levels
    Reciprocal reciprocal;
    int64_t places;  // what a product has more fraction bits than the output, the reciprocal's exponent apart
    int64_t limit;   // largest output code
    double step;     // of the output
};

template <int levels>
class IntegerExaqRow {
public:
    IntegerExaqRow(const IntegerExaq& tables, int64_t count) : tables_(tables), codes_(count) {}

    void operator()(const float* scores, bool nan, int64_t keys, float* to, int64_t) {
        if (nan) return fill_nan(to, keys);
        const int32_t highest = tables_.codes.encode(scores, codes_.data(), padded(keys));
        if (highest == masked_code) return fill_zero(to, keys);
        std::array<int32_t, levels> least{masked_code + 1};  // code of each level; what is masked has none
        for (int level = 1; level < levels; ++level) least[level] = highest + tables_.thresholds[level - 1];
        normalise(least, keys, to, std::make_index_sequence<levels>{});
    }

private:
    // The levels are unrolled, so that the loops over keys become vectors.
    template <size_t... level>
    void normalise(const std::array<int32_t, levels> least, int64_t keys, float* __restrict to,
                   std::index_sequence<level...>) const {
        const int32_t* __restrict codes = codes_.data();
        std::array<int32_t, levels> reached{};
        const int64_t count = padded(keys);
        for (int64_t key = 0; key < count; ++key) ((reached[level] += codes[key] >= least[level]), ...);
        int64_t sum = 0;
        for (int each = 0; each < levels; ++each) {
            sum += (reached[each] - (each + 1 < levels ? reached[each + 1] : 0)) * tables_.exponentials[each];
        }
        const auto [mantissa, exponent] = tables_.reciprocal(sum);
        const RoundingShift<int64_t> shift(exponent + tables_.places, true);
        std::array<float, levels> values;
        for (int each = 0; each < levels; ++each) {
            const int64_t code = std::min(shift(tables_.exponentials[each] * mantissa), tables_.limit);
            values[each] = static_cast<float>(static_cast<double>(code) * tables_.step);
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
