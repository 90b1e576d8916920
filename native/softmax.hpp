// Softmax of a row, by maximum, sum of exponentials and quotient; and its gradient.
#pragma once

#include "reductions.hpp"
#include "softmax_bfloat16.hpp"

namespace softmaxkit {

template <class To, class Row>
void softmax_row(const Row& scores, To to, int64_t keys) {
#if defined(__AVX512BW__)
    if constexpr (std::is_same_v<Row, Scores<bfloat16, false>>) {
        if (keys >= bfloat16_pairs) return softmax_bfloat16_row(scores, to, keys);
    }
#endif
    const float maximum = row_maximum(scores, keys);
    if (is_empty(scores, keys, maximum)) return fill_zero(to, keys);
    float* exponentials;
    if constexpr (std::is_same_v<To, float*>) {
        exponentials = to;
    } else {
        exponentials = scratch<float>(keys);  // bfloat16 is too coarse for the sum; streamed results are not read back
    }
    Chains sums = all_chains(0.0f);
    sweep(keys, [&](int64_t key, auto chain, auto count) {
        prefetch_next_row(scores.from + key, keys);
        const Vector value = exp2((scores(key, count) - maximum) * log2e);
        put(exponentials + key, value, count);
        sums[chain] += value;
    });
    const float sum = total(sums);
    if (sum != sum) return fill_invalid(scores, to, keys);
    const float scale = 1.0f / sum;
    const Scores<float, false> powers{exponentials, nullptr};
    sweep(keys, [&](int64_t key, auto, auto count) { put(to + key, powers(key, count) * scale, count); });
}

// The gradient of the scores, given probabilities p and their gradient g: p * (g - sum(p * g)).
template <class T>
void softmax_backward_row(const T* probabilities, const T* gradient, T* to, int64_t keys) {
    const Scores<T, false> p{probabilities, nullptr}, g{gradient, nullptr};
    Chains sums = all_chains(0.0f);
    sweep(keys, [&](int64_t key, auto chain, auto count) {
        sums[chain] += p(key, count, 0.0f) * g(key, count, 0.0f);
    });
    const float mean = total(sums);
    sweep(keys, [&](int64_t key, auto, auto count) { put(to + key, p(key, count) * (g(key, count) - mean), count); });
}

}  // namespace softmaxkit
