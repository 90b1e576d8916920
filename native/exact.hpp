// Exact softmax of a row: maximum, sum of exponentials, quotient; and its gradient.
#pragma once

#include "access.hpp"

inline Chains all_chains(float value) {
    Chains found;
    found.fill(value);
    return found;
}

inline float total(const Chains& sums) { return stdx::reduce((sums[0] + sums[1]) + (sums[2] + sums[3])); }

inline float largest(const Chains& highest) {
    return stdx::hmax(larger(larger(highest[0], highest[1]), larger(highest[2], highest[3])));
}

// The largest score; NaN is passed over.
template <class Row>
float row_maximum(const Row& scores, int64_t keys) {
    Chains highest = all_chains(-infinity);
    sweep(keys, [&](int64_t key, auto chain, auto count) { highest[chain] = larger(scores(key, count), highest[chain]); });
    return largest(highest);
}

// Whether nothing is attended: all is -infinity, and there is no NaN.
template <class Row>
bool is_empty(const Row& scores, int64_t keys, float maximum) {
    if (maximum != -infinity) return false;
    bool nan = false;
    sweep(keys, [&](int64_t key, auto, auto count) { nan = nan || stdx::any_of(scores(key, count) != scores(key, count)); });
    return !nan;
}

template <class T, class Row>
void exact_row(const Row& scores, T* to, int64_t keys) {
    const float maximum = row_maximum(scores, keys);
    if (is_empty(scores, keys, maximum)) return fill_zero(to, keys);
    float* exponentials;
    if constexpr (std::is_same_v<T, float>) {
        exponentials = to;
    } else {
        exponentials = scratch<float>(keys);  // bfloat16 would lose what the sum needs
    }
    Chains sums = all_chains(0.0f);
    sweep(keys, [&](int64_t key, auto chain, auto count) {
        const Vector value = exp2((scores(key, count) - maximum) * log2e);
        put(exponentials + key, value, count);
        sums[chain] += value;
    });
    const float scale = 1.0f / total(sums);
    const Scores<float, false> again{exponentials, nullptr};
    sweep(keys, [&](int64_t key, auto, auto count) { put(to + key, again(key, count) * scale, count); });
}

// The scores' gradient from the probabilities and their gradient: p * (g - sum(p * g)).
template <class T>
void exact_backward_row(const T* probabilities, const T* gradient, T* to, int64_t keys) {
    const Scores<T, false> p{probabilities, nullptr}, g{gradient, nullptr};
    Chains sums = all_chains(0.0f);
    sweep(keys, [&](int64_t key, auto chain, auto count) {
        sums[chain] += p(key, count, 0.0f) * g(key, count, 0.0f);
    });
    const float mean = total(sums);
    sweep(keys, [&](int64_t key, auto, auto count) { put(to + key, p(key, count) * (g(key, count) - mean), count); });
}
