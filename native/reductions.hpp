// Reductions over a whole row that several kernels share: maximum, sum, and the result of an invalid row.
#pragma once

#include <algorithm>
#include <utility>

#include "access.hpp"

namespace softmaxkit {

SOFTMAXKIT_INLINE Chains all_chains(float value) {
    const Vector all = value;
    return {all, all, all, all};
}

inline float total(const Chains& sums) { return stdx::reduce((sums[0] + sums[1]) + (sums[2] + sums[3])); }

// Keys whose terms are added up in float32; such sums are added up in float64, so that errors do not grow with the row.
constexpr int64_t summed_together = 4096;

// The sum of term(key, count) over the vectors of a row.
template <class Term>
SOFTMAXKIT_INLINE double row_sum(int64_t keys, const Term& term) {
    double sum = 0.0;
    for (int64_t begin = 0; begin < keys; begin += summed_together) {
        Chains sums = all_chains(0.0f);
        sweep(std::min(summed_together, keys - begin), [&](int64_t key, auto chain, auto count) {
            sums[chain] += term(begin + key, count);
        });
        sum += total(sums);
    }
    return sum;
}

inline float largest(const Chains& highest) {
    return stdx::hmax(larger(larger(highest[0], highest[1]), larger(highest[2], highest[3])));
}

// The largest score, ignoring NaN.
template <class Row>
float row_maximum(const Row& scores, int64_t keys) {
    Chains highest = all_chains(-infinity);
    sweep(keys, [&](int64_t key, auto chain, auto count) {
        highest[chain] = larger(scores(key, count), highest[chain]);
    });
    return largest(highest);
}

// The largest score of a row, and whether all scores are finite.
template <class Row>
std::pair<float, bool> maximum_if_finite(const Row& scores, int64_t keys) {
    Chains highest = all_chains(-infinity), finite = all_chains(0.0f);  // infinity and NaN times 0 are NaN
    sweep(keys, [&](int64_t key, auto chain, auto size) {
        highest[chain] = larger(scores(key, size), highest[chain]);
        finite[chain] += scores(key, size, 0.0f) * 0.0f;
    });
    return {largest(highest), stdx::all_of((finite[0] + finite[1]) + (finite[2] + finite[3]) == 0.0f)};
}

// Whether a row is fully masked: every score is -infinity, and none is NaN.
template <class Row>
bool is_empty(const Row& scores, int64_t keys, float maximum) {
    if (maximum != -infinity) return false;
    bool nan = false;
    sweep(keys, [&](int64_t key, auto, auto count) {
        const Vector score = scores(key, count);
        nan = nan || stdx::any_of(score != score);
    });
    return !nan;
}

// Writes the result of a row that attends to NaN or +infinity: NaN, but 0 for keys that are masked or at -infinity.
// Such rows are rare, so this code is kept out of the kernels' hot loops.
template <class To, class Row>
[[gnu::cold, gnu::noinline]] void fill_invalid(const Row& scores, To to, int64_t keys) {
    sweep(keys, [&](int64_t key, auto, auto count) {
        Vector result = std::numeric_limits<float>::quiet_NaN();
        replace(result, scores(key, count) == -infinity, 0.0f);
        put(to + key, result, count);
    });
}

}  // namespace softmaxkit
