// The arguments of attention of many queries, and the expected error of its products.
#pragma once

#include <limits>
#include <vector>

#include "quantise.hpp"
#include "seen.hpp"

namespace softmaxkit {

// The expected error of the products.
struct Precision {
    bool finite = true;  // whether all inputs are finite; if not, the errors are invalid
    double scores = 0;   // root mean square error of the scores, of the worst head
    double values = 0;   // root mean square error of the values relative to their size, of the worst head

    // Takes the errors of the scores of all heads.
    void add_scores(const std::vector<double>& errors) {
        for (const double error : errors) {
            finite = finite && std::isfinite(error);
            scores = std::max(scores, error);
        }
    }
};

template <class T>
struct Arguments {
    Shape shape;
    double scale;
    const T *query, *key, *value;
    const uint8_t* mask;
    T* result;

    // The index of a head's keys and values, in the order of sequences and their key heads.
    int64_t key_head(int64_t batch, int64_t head) const {
        return batch * shape.key_heads + head / (shape.heads / shape.key_heads);
    }

    const T* query_at(int64_t batch, int64_t head, int64_t index) const {
        return token(query, shape.query, batch, head, index);
    }
    T* result_at(int64_t batch, int64_t head, int64_t index) const {
        return token(result, shape.result, batch, head, index);
    }
    // The mask's row of a query; null without a mask.
    const uint8_t* mask_of(int64_t batch, int64_t head, int64_t index) const {
        return shape.masked ? token(mask, shape.mask, batch, head, index) : nullptr;
    }

    Tokens<T> queries_of(int64_t batch, int64_t head) const {
        return {query_at(batch, head, 0), shape.query[2], shape.queries, shape.channels, nullptr};
    }
    // The keys of a key head, and its values, up to the last that causality leaves to a query; `seen`, which may be
    // null, says which of them a query attends to.
    Tokens<T> keys_of(int64_t index, const SeenKeys* seen) const {
        return tokens_of(key, shape.key, shape.channels, index, seen);
    }
    Tokens<T> values_of(int64_t index, const SeenKeys* seen) const {
        return tokens_of(value, shape.value, shape.value_channels, index, seen);
    }

private:
    Tokens<T> tokens_of(const T* from, const auto& strides, int64_t channels, int64_t index,
                        const SeenKeys* seen) const {
        const int64_t batch = index / shape.key_heads, head = index % shape.key_heads;
        return {token(from, strides, batch, head, 0), strides[2], shape.seen(shape.queries - 1), channels,
                seen == nullptr ? nullptr : seen->of(batch, head)};
    }
};

// The smallest scale of scores: 0 times -infinity, the score of a hidden key, would be NaN.
constexpr float least_scale = std::numeric_limits<float>::min();

// Writes the totals of a softmax row over the sum of its weights, 0 if that is 0; returns whether all is finite.
template <class T>
bool write_quotients(double sum, const float* totals, T* to, int64_t channels) {
    const Vector factor = sum > 0 ? static_cast<float>(1 / sum) : 0.0f;
    Vector finite = static_cast<float>(sum) * 0.0f;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Vector result = load(totals + channel) * factor;
        finite += result * 0.0f;
        store_some(to + channel, result, std::min(width, channels - channel));
    }
    return stdx::all_of(finite == 0.0f);
}

}  // namespace softmaxkit
