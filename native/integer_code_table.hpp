// Integer mode of methods in which a probability depends only on its score code: a look-up in the golden model's table.
#pragma once

#include "integer_rows.hpp"

namespace softmaxkit {

struct CodeTable {
    std::vector<double> scales;  // one for all heads or one per head
    int32_t lowest, highest;
    const float* probabilities;  // (heads, codes), the lowest code first
};

class CodeTableRow {
public:
    CodeTableRow(const CodeTable& table, int64_t count) : table_(table), codes_(count) {}

    void operator()(const float* scores, bool, int64_t keys, float* __restrict to, int64_t place) {
        const int64_t head = table_.scales.size() > 1 ? place : 0;
        const int32_t lowest = table_.lowest;
        const float* probabilities = table_.probabilities + head * (table_.highest - lowest + 1);
        int32_t* codes = codes_.data();
        ScoreCodes{table_.scales[head], lowest, table_.highest}.encode(scores, codes, padded(keys));
        for (int64_t key = 0; key < keys; ++key) to[key] = probabilities[std::max(codes[key], lowest) - lowest];
        for (int64_t key = 0; key < keys; ++key) {
            const float score = scores[key];
            to[key] = score == -infinity ? 0.0f : score != score ? score : to[key];
        }
    }

private:
    const CodeTable& table_;
    std::vector<int32_t> codes_;
};

}  // namespace softmaxkit
