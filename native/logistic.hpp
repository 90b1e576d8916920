// The logistic function of score plus bias for each element, and its gradient.
#pragma once

#include "bfloat16_rows.hpp"
#include "reductions.hpp"

namespace softmaxkit {

// The logistic function of a score plus its bias, with the polynomial of `exp2` of the given degree; 0 for a score of
// -infinity.
template <int degree>
SOFTMAXKIT_INLINE Vector logistic(const Vector& score, float bias) {
    // 2^128 is infinite in float32.
    Vector result = 1.0f / (1.0f + exp2<degree>(smaller(Vector(128.0f), (score + bias) * -log2e)));
    replace(result, score == -infinity, 0.0f);
    return result;
}

template <class To, class T, bool with_mask>
void logistic_row(const Scores<T, with_mask>& scores, To to, int64_t keys, float bias) {
    sweep(keys, [&](int64_t key, auto, auto count) {
        put(to + key, logistic<exp2_degree<T>>(scores(key, count), bias), count);
    });
}

#if defined(__AVX2__)

template <class To, bool with_mask>
void logistic_row(const Scores<bfloat16, with_mask>& scores, To to, int64_t keys, float bias) {
    sweep_pairs(keys, [&](int64_t key, auto some) {
        const Pairs pairs = load_pairs(scores, key, some);
        constexpr int degree = exp2_degree<bfloat16>;
        store_pairs(to + key, round_pairs(logistic<degree>(even(pairs), bias), logistic<degree>(odd(pairs), bias)),
                    some);
    });
}

#endif

// The gradient of the scores, given the gradient g of the results p: p * (1 - p) * g. Where p is 0, as it is for masked
// keys, it is 0 even if g is infinite. p is computed again, since bfloat16 has no digits left for 1 - p. Returns the
// sum of the gradient, which is the gradient of the bias.
template <class T, class Row>
double logistic_backward_row(const Row& scores, const T* gradient, T* to, int64_t keys, float bias) {
    const Scores<T, false> g{gradient, nullptr};
    return row_sum(keys, [&](int64_t key, auto count) {
        const Vector probability = logistic<6>(scores(key, count), bias);
        Vector result = probability * (1.0f - probability) * g(key, count, 0.0f);
        replace(result, probability == 0.0f, 0.0f);
        put(to + key, result, count);
        return result;
    });
}

}  // namespace softmaxkit
