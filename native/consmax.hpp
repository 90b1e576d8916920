// ConSmax of a row: exp(score - offset), at most the ceiling; every element by itself. And its gradient.
#pragma once

#include "exact.hpp"

template <class To, class Row>
void consmax_row(const Row& scores, To to, int64_t keys, float offset, float limit) {
    const Vector highest = limit * log2e;
    sweep(keys, [&](int64_t key, auto, auto count) {
        put(to + key, exp2(smaller(highest, (scores(key, count) - offset) * log2e)), count);
    });
}

// The scores' gradient from the probabilities and their gradient: p * g, and 0 where the ceiling holds. Returns their sum.
template <class T>
float consmax_backward_row(const T* probabilities, const T* gradient, T* to, int64_t keys, float ceiling) {
    const Scores<T, false> p{probabilities, nullptr}, g{gradient, nullptr};
    Chains sums = all_chains(0.0f);
    sweep(keys, [&](int64_t key, auto chain, auto count) {
        const Vector each = p(key, count, 0.0f);
        Vector found = each * g(key, count, 0.0f);
        stdx::where(each >= ceiling, found) = 0.0f;
        put(to + key, found, count);
        sums[chain] += found;
    });
    return total(sums);
}
