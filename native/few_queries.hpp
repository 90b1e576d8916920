// A few queries per key head, and the spans of tokens that they attend to.
#pragma once

#include <vector>

#include "attention_shape.hpp"
#include "prefetch.hpp"

namespace softmaxkit {

// The rows of a key head are the queries of all heads that share it.
struct FewQueries {
    const Shape& shape;
    const float* query;
    float scale;

    int64_t group() const { return shape.heads / shape.key_heads; }
    int64_t rows() const { return group() * shape.queries; }
    int64_t head_of(int64_t key_head, int64_t row) const { return key_head * group() + row / shape.queries; }
    const float* of(int64_t batch, int64_t key_head, int64_t row) const {
        return token(query, shape.query, batch, head_of(key_head, row), row % shape.queries);
    }
    // The queries of all rows of all key heads, counted through.
    int64_t count() const { return shape.batch * shape.key_heads * rows(); }
    const float* of(int64_t index) const {
        const int64_t head = index / rows();
        return of(head / shape.key_heads, head % shape.key_heads, index % rows());
    }
    std::vector<const float*> all(int64_t batch, int64_t key_head) const {
        std::vector<const float*> queries(rows());
        for (int64_t row = 0; row < rows(); ++row) queries[row] = of(batch, key_head, row);
        return queries;
    }
};

// Consecutive tokens of one key head.
struct Span {
    int64_t batch, key_head, first, count;
};

constexpr int64_t ahead = 16;  // prefetch distance in tokens

}  // namespace softmaxkit
