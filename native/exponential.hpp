// min(base^(score - offset), limit), every element by itself; and its gradient.
#pragma once

#include <cmath>

#include "reductions.hpp"

namespace softmaxkit {

struct Exponential {
    float offset;
    float highest;    // of score - offset: the logarithm of the limit
    float log2_base;

    // The power of 2 that stands for `highest`. 2^128 is infinity already, and `exp2` goes no further.
    float highest_power() const { return std::min(highest * log2_base, 128.0f); }
};

template <class To, class Row>
void exponential_row(const Row& scores, To to, int64_t keys, const Exponential& exponential) {
    const Vector highest = exponential.highest_power();
    sweep(keys, [&](int64_t key, auto, auto count) {
        const Vector power = (scores(key, count) - exponential.offset) * exponential.log2_base;
        put(to + key, exp2(smaller(highest, power)), count);
    });
}

// The scores' gradient from the scores and the results' gradient g: p * g * log(base), and 0 where the limit holds.
// The scores decide where it does: rounded, a result below the limit may reach it. Returns the sum; the offset's
// gradient is the negative of it.
template <class T, class Row>
float exponential_backward_row(const Row& scores, const T* gradient, T* to, int64_t keys,
                               const Exponential& exponential) {
    const Scores<T, false> g{gradient, nullptr};
    const Vector highest = exponential.highest_power();
    const float log_base = exponential.log2_base / log2e;
    Chains sums = all_chains(0.0f);
    sweep(keys, [&](int64_t key, auto chain, auto count) {
        const Vector exponent = scores(key, count) - exponential.offset;
        Vector result = exp2(smaller(highest, exponent * exponential.log2_base)) * g(key, count, 0.0f) * log_base;
        // NaN has no gradient either, as in torch.clamp; what is masked has none even where g is infinite.
        stdx::where(!(exponent <= exponential.highest && exponent > -infinity), result) = 0.0f;
        put(to + key, result, count);
        sums[chain] += result;
    });
    return total(sums);
}

}  // namespace softmaxkit
