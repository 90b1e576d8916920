// min(base^(score - offset), limit) for each element, and its gradient.
#pragma once

#include <cmath>

#include "row_blocks.hpp"

namespace softmaxkit {

struct Exponential {
    float offset;
    float highest;    // bound of score - offset: the logarithm of the limit to the base
    float log2_base;

    // `highest` as a power of 2, at most 128: 2^128 is already infinite, and `exp2` accepts no larger argument.
    float highest_power() const { return std::min(highest * log2_base, 128.0f); }
};

template <class To, class T, bool with_mask>
void exponential_row(const Scores<T, with_mask>& scores, To to, int64_t keys, const Exponential& exponential) {
    const Vector highest = exponential.highest_power();
    const auto term = [=, of = exponential](const Vector& score) __attribute__((always_inline)) {
        return exp2<exp2_degree<T>>(smaller(highest, (score - of.offset) * of.log2_base));
    };
    map_row<T>(to, keys, term, scores);
}

// The gradient of the scores, given the gradient g of the results p: p * g * log(base), or 0 where the limit applies.
// Whether it applies is decided by the score, since a rounded result may reach the limit from below. Returns the sum of
// the gradient, whose negative is the gradient of the offset.
template <class T, class Row>
double exponential_backward_row(const Row& scores, const T* gradient, T* to, int64_t keys,
                                const Exponential& exponential) {
    const Vector highest = exponential.highest_power();
    const float log_base = exponential.log2_base / log2e;
    const auto term = [=, of = exponential](const Vector& score, const Vector& given) __attribute__((always_inline)) {
        const Vector exponent = score - of.offset;
        Vector result = exp2(smaller(highest, exponent * of.log2_base)) * given * log_base;
        // The gradient is 0 for NaN, as in torch.clamp, and for masked keys even if g is infinite.
        replace(result, !(exponent <= of.highest && exponent > -infinity), 0.0f);
        return result;
    };
    return map_and_sum_row<T>(to, keys, term, scores, Numbers<T>(gradient));
}

}  // namespace softmaxkit
