// The arguments of attention: sizes and strides, and how scores become weights.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "integer_matrix.hpp"

namespace softmaxkit {

// Sizes, and strides in elements; channels lie side by side.
struct Shape {
    int64_t batch, heads, key_heads, queries, keys, channels, value_channels;
    std::array<int64_t, 3> query, key, value, result;  // of batch, head, token
    std::array<int64_t, 4> mask;                       // of batch, head, query, key; 0 where it is broadcast
    bool masked, causal;                               // causal: a query sees the keys up to its own index

    int64_t seen(int64_t row) const { return causal ? std::min(row + 1, keys) : keys; }
};

// The place of a token.
template <class T>
T* token(T* from, const auto& strides, int64_t batch, int64_t head, int64_t index) {
    return from + batch * strides[0] + head * strides[1] + index * strides[2];
}

// How scores become weights. A table holds them for distances of 0, 1, ... steps below the anchor. There are tables of
// double, fourfold, ... step for rows whose scores are spread widely; two planes where a byte is not enough; and
// variants: rounding is dithered across key panels, so errors average out.
struct Weights {
    static constexpr uint64_t variants = 16;
    double step;             // of the first table, as a difference of scores
    int resolutions, planes;
    const uint8_t* tables;   // (resolutions, planes, variants, codes); planes from high to low
    bool normalised;         // divided by their sum; else the anchor stands for exp(score - offset), at most exp(limit)
    const float* offsets;    // of each head
    double limit;
    double one;              // the weight that stands for 1

    const uint8_t* of(int resolution, int plane) const {
        return tables + (resolution * planes + plane) * static_cast<int64_t>(variants) * codes;
    }
};

}  // namespace softmaxkit
