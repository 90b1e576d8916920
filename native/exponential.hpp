// min(base^(score - offset), limit) for each element, and its gradient.
#pragma once

#include <cmath>

#include "bfloat16_rows.hpp"
#include "reductions.hpp"

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
    sweep(keys, [&](int64_t key, auto, auto count) {
        const Vector power = (scores(key, count) - exponential.offset) * exponential.log2_base;
        put(to + key, exp2<exp2_degree<T>>(smaller(highest, power)), count);
    });
}

#if defined(__AVX2__)

template <class To, bool with_mask>
void exponential_row(const Scores<bfloat16, with_mask>& scores, To to, int64_t keys, const Exponential& exponential) {
    const Vector highest = exponential.highest_power();
    const auto power = [&](const Vector& score) {
        return exp2<exp2_degree<bfloat16>>(smaller(highest, (score - exponential.offset) * exponential.log2_base));
    };
    sweep_pairs(keys, [&](int64_t key, auto some) {
        const Pairs pairs = load_pairs(scores, key, some);
        store_pairs(to + key, round_pairs(power(even(pairs)), power(odd(pairs))), some);
    });
}

#endif

// The gradient of the scores, given the gradient g of the results p: p * g * log(base), or 0 where the limit applies.
// Whether it applies is decided by the score, since a rounded result may reach the limit from below. Returns the sum of
// the gradient, whose negative is the gradient of the offset.
template <class T, class Row>
double exponential_backward_row(const Row& scores, const T* gradient, T* to, int64_t keys,
                                const Exponential& exponential) {
    const Scores<T, false> g{gradient, nullptr};
    const Vector highest = exponential.highest_power();
    const float log_base = exponential.log2_base / log2e;
    return row_sum(keys, [&](int64_t key, auto count) {
        const Vector exponent = scores(key, count) - exponential.offset;
        Vector result = exp2(smaller(highest, exponent * exponential.log2_base)) * g(key, count, 0.0f) * log_base;
        // The gradient is 0 for NaN, as in torch.clamp, and for masked keys even if g is infinite.
        replace(result, !(exponent <= exponential.highest && exponent > -infinity), 0.0f);
        put(to + key, result, count);
        return result;
    });
}

}  // namespace softmaxkit
