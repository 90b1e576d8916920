// The arguments of attention: sizes and strides, and the tables that turn scores into weights.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "integer_matrix.hpp"

namespace softmaxkit {

// Sizes, and strides in elements; channels are contiguous.
struct Shape {
    int64_t batch, heads, key_heads, queries, keys, channels, value_channels;
    std::array<int64_t, 3> query, key, value, result;  // of batch, head, token
    std::array<int64_t, 4> mask;                       // of batch, head, query, key; 0 where it is broadcast
    bool masked, causal;                               // causal: a query attends to the keys up to its own index

    int64_t seen(int64_t row) const { return causal ? std::min(row + 1, keys) : keys; }
};

// The address of a token.
template <class T>
T* token(T* from, const auto& strides, int64_t batch, int64_t head, int64_t index) {
    return from + batch * strides[0] + head * strides[1] + index * strides[2];
}

// How scores become weights. A table lists the weights of distances of 0, 1, ... steps below the row's anchor. Further
// resolutions double the step each time, for rows whose scores are widely spread; weights that need two bytes have two
// planes; and variants differ in rounding, which dithers it across panels of keys so that errors average out. Weights
// that are divided by their sum have no offsets, and one set of tables or one for each head. Others represent
// min(exp(score - offset), exp(limit)) or, where there are anchors, the logistic function of score - offset, with a set
// of tables for each place of a row's anchor.
struct Weights {
    static constexpr uint64_t variants = 16;
    int sets, resolutions, planes;
    const uint8_t* tables;   // (sets, resolutions, planes, variants, codes); the high byte's plane first
    const double* steps;     // (sets,): of the first resolution, in the unit of the scores
    const double* anchors;   // (sets,): scores minus offset, in ascending order; or null
    const float* offsets;    // of each head
    double limit;
    double one;              // the integer weight that represents 1

    bool normalised() const { return offsets == nullptr; }
    bool logistic() const { return anchors != nullptr; }
    int set_of_head(int64_t head) const { return sets > 1 ? static_cast<int>(head) : 0; }
    // The set of the first anchor from a score on; the last, where the function is nearly 1, for what is above.
    int set_of_score(double score) const {
        return static_cast<int>(std::lower_bound(anchors, anchors + sets - 1, score) - anchors);
    }
    const uint8_t* of(int table, int plane) const {
        return tables + (table * planes + plane) * static_cast<int64_t>(variants) * codes;
    }
};

}  // namespace softmaxkit
