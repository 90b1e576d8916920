// ConSmax in integers: every score code has one probability, which a table of golden's holds.
#pragma once

#include "integer_rows.hpp"

struct IntegerConsmax {
    std::vector<double> scales;  // of each head, or one
    int32_t lowest, highest;
    const float* probabilities;  // (heads, codes), the lowest code first
};

class IntegerConsmaxRow {
public:
    IntegerConsmaxRow(const IntegerConsmax& tables, int64_t count) : tables_(tables), codes_(count) {}

    void operator()(const float* scores, bool, int64_t keys, float* __restrict to, int64_t place) {
        const int64_t head = tables_.scales.size() > 1 ? place : 0;
        const int32_t lowest = tables_.lowest;
        const float* found = tables_.probabilities + head * (tables_.highest - lowest + 1);
        int32_t* codes = codes_.data();
        ScoreCodes{tables_.scales[head], lowest, tables_.highest}.encode(scores, codes, padded(keys));
        for (int64_t key = 0; key < keys; ++key) to[key] = found[std::max(codes[key], lowest) - lowest];
        for (int64_t key = 0; key < keys; ++key) {
            const float score = scores[key];
            to[key] = score == -infinity ? 0.0f : score != score ? score : to[key];
        }
    }

private:
    const IntegerConsmax& tables_;
    std::vector<int32_t> codes_;
};
