// The logistic function of score plus bias for each element, and its gradient.
#pragma once

#include "bfloat16_rows.hpp"
#include "reductions.hpp"

namespace softmaxkit {

// The logistic function of scores plus their bias, with the polynomial of `exp2` of the given degree; 0 at -infinity.
template <int degree>
SOFTMAXKIT_INLINE Vector logistic(const Vector& sum) {
    return 1.0f / (1.0f + exp2<degree>(smaller(Vector(128.0f), sum * -log2e)));  // 2^128 is infinite in float32
}

template <class To, class Row>
void logistic_row(const Row& scores, To to, int64_t keys, float bias) {
    sweep(keys, [&](int64_t key, auto, auto count) { put(to + key, logistic<6>(scores(key, count) + bias), count); });
}

#if defined(__AVX2__)

template <class To, bool with_mask>
void logistic_row(const Scores<bfloat16, with_mask>& scores, To to, int64_t keys, float bias) {
    sweep_pairs(keys, [&](int64_t key, auto some) {
        const Pairs pairs = load_pairs(scores, key, some);
        store_pairs(to + key, round_pairs(logistic<4>(even(pairs) + bias), logistic<4>(odd(pairs) + bias)), some);
    });
}

#endif

// The gradient of the scores, given probabilities p and their gradient g: p * (1 - p) * g. Where p is 0, as it is for
// masked keys, it is 0 even if g is infinite. Returns its sum, which is the gradient of the bias.
template <class T>
double logistic_backward_row(const T* probabilities, const T* gradient, T* to, int64_t keys) {
    const Scores<T, false> p{probabilities, nullptr}, g{gradient, nullptr};
    return row_sum(keys, [&](int64_t key, auto count) {
        const Vector probability = p(key, count, 0.0f);
        Vector result = probability * (1.0f - probability) * g(key, count, 0.0f);
        replace(result, probability == 0.0f, 0.0f);
        put(to + key, result, count);
        return result;
    });
}

}  // namespace softmaxkit
