// The logistic function of score plus bias for each element, and its gradient.
#pragma once

#include "row_blocks.hpp"

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
    const auto term = [=](const Vector& score) __attribute__((always_inline)) {
        return logistic<exp2_degree<T>>(score, bias);
    };
    map_row<T>(to, keys, term, scores);
}

// The gradient of the scores, given the gradient g of the results p: p * (1 - p) * g. Where p is 0, as it is for masked
// keys, it is 0 even if g is infinite. p is computed again, since bfloat16 has no digits left for 1 - p. Returns the
// sum of the gradient, which is the gradient of the bias.
template <class T, class Row>
double logistic_backward_row(const Row& scores, const T* gradient, T* to, int64_t keys, float bias) {
    const auto term = [=](const Vector& score, const Vector& given) __attribute__((always_inline)) {
        const Vector probability = logistic<6>(score, bias);
        Vector result = probability * (1.0f - probability) * given;
        replace(result, probability == 0.0f, 0.0f);
        return result;
    };
    return map_and_sum_row<T>(to, keys, term, scores, Numbers<T>(gradient));
}

}  // namespace softmaxkit
