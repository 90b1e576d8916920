// Products in float32 with keys and values in float32, in 16 bits, or in 8-bit codes whose steps are applied elsewhere.
#pragma once

#include <array>

#include "few_queries.hpp"
#include "quantise.hpp"

namespace softmaxkit {

constexpr int64_t together = 4;  // tokens whose sums are accumulated in parallel, to hide latency
template <class Element>
using Tokens4 = std::array<const Element*, together>;

template <class Body>
SOFTMAXKIT_INLINE void for_vectors(int64_t channels, const Body& body) {
    int64_t channel = 0;
    for (; channel + width <= channels; channel += width) body(channel, [](auto* from) { return load(from); });
    const int64_t rest = channels - channel;
    if (rest > 0) body(channel, [rest](auto* from) { return load_upto(from, rest); });
}

// Addresses of the next few tokens, repeating the last token beyond the end; prefetches tokens `ahead` of them.
template <class Element>
Tokens4<Element> tokens_at(const Element* from, int64_t stride, int64_t first, int64_t count, int64_t channels) {
    Tokens4<Element> next;
    for (int64_t index = 0; index < together; ++index) {
        next[index] = from + std::min(first + index, count - 1) * stride;
        prefetch(next[index] + ahead * stride, channels * static_cast<int64_t>(sizeof(Element)));
    }
    return next;
}

// Scaled products of a query with a few keys.
template <class Element>
SOFTMAXKIT_INLINE void multiply_keys(Tokens4<Element> from, int64_t channels, const float* query,
                                     float scale, float* to) {
    Vector sums[together] = {};
    for_vectors(channels, [&](int64_t channel, auto read) __attribute__((always_inline)) {
        const Vector some = read(query + channel);
#pragma GCC unroll 4
        for (int64_t key = 0; key < together; ++key) sums[key] += read(from[key] + channel) * some;
    });
    for (int64_t key = 0; key < together; ++key) to[key] = scale * stdx::reduce(sums[key]);
}

// Adds a few values times their weights to the totals.
template <class Element>
SOFTMAXKIT_INLINE void add_values(Tokens4<Element> from, int64_t channels, const float* weights, float* totals) {
    const Vector of[together] = {weights[0], weights[1], weights[2], weights[3]};
    for_vectors(channels, [&](int64_t channel, auto read) __attribute__((always_inline)) {
        Vector total = load(totals + channel);
#pragma GCC unroll 4
        for (int64_t key = 0; key < together; ++key) total += of[key] * read(from[key] + channel);
        store(totals + channel, total);
    });
}

template <class Element>
class PlainKeys {
public:
    PlainKeys(const FewQueries& queries, const Element* key) : queries_(queries), key_(key) {}

    // Writes the scores of all rows, `stride` apart; each row has room for whole vectors.
    void score(const Span& at, float* to, int64_t stride) const {
        const Shape& shape = queries_.shape;
        const Element* keys = token(key_, shape.key, at.batch, at.key_head, at.first);
        const std::vector<const float*> queries = queries_.all(at.batch, at.key_head);
        for (int64_t first = 0; first < at.count; first += together) {
            const auto from = tokens_at(keys, shape.key[2], first, at.count, shape.channels);
            for (int64_t row = 0; row < static_cast<int64_t>(queries.size()); ++row) {
                multiply_keys(from, shape.channels, queries[row], queries_.scale, to + row * stride + first);
            }
        }
    }

private:
    const FewQueries& queries_;
    const Element* key_;
};

template <class Element>
class PlainValues {
public:
    PlainValues(const FewQueries& queries, const Element* value)
        : shape_(queries.shape), rows_(queries.rows()), value_(value) {}

    // Adds the values times their weights, zero-padded to whole vectors, to the totals of all rows, `columns` apart.
    void add(const Span& at, const float* weights, int64_t stride, float* totals, int64_t columns) const {
        const Element* values = token(value_, shape_.value, at.batch, at.key_head, at.first);
        for (int64_t first = 0; first < at.count; first += together) {
            const auto from = tokens_at(values, shape_.value[2], first, at.count, shape_.value_channels);
            for (int64_t row = 0; row < rows_; ++row) {
                add_values(from, shape_.value_channels, weights + row * stride + first, totals + row * columns);
            }
        }
    }

    // Number of totals per row, and the index of a channel's total.
    int64_t columns() const { return rounded_up(shape_.value_channels, width); }
    int64_t place(int64_t channel) const { return channel; }

private:
    const Shape& shape_;
    const int64_t rows_;
    const Element* value_;
};

}  // namespace softmaxkit
