// How blocks of a row of T become weights in float32, and results in T: a vector at a time, of bfloat16 two where
// bfloat16_rows.hpp has pairs.
#pragma once

#include "bfloat16_rows.hpp"
#include "reductions.hpp"

namespace softmaxkit {

template <class T>
struct Blocks {
    using Sums = Chains;

    static Sums zero() { return all_chains(0.0f); }
    static float total(const Sums& sums) { return softmaxkit::total(sums); }

    // Writes weight(score, count) for every vector of scores and adds it to the sums; beyond the end of the row, scores
    // are -infinity and weights have to be 0. Prefetches the scores `further` keys away and calls also(key, count).
    template <class Row, class Weight, class Also>
    SOFTMAXKIT_INLINE static Sums weigh(const Row& scores, const Weight& weight, float* to, int64_t keys,
                                        const Sums& before, int64_t further, const Also& also) {
        Sums sums = before;
        sweep(keys, [&](int64_t key, auto chain, auto count) {
            __builtin_prefetch(scores.from + key + further);
            const Vector value = weight(scores(key, count), count);
            put(to + key, value, count);
            sums[chain] += value;
            also(key, count);
        });
        return sums;
    }
    template <class To, class Count>
    SOFTMAXKIT_INLINE static void scale(const float* weights, float factor, To to, int64_t key, Count count) {
        const Scores<float, false> from{weights, nullptr};
        put(to + key, from(key, count) * factor, count);
    }
    template <class To>
    static void scale_all(const float* weights, float factor, To to, int64_t keys) {
        sweep(keys, [&](int64_t key, auto, auto count) { scale(weights, factor, to, key, count); });
    }
};

#if defined(__AVX2__)

// Weights are those of the even and the odd elements of a vector in turn, whole vectors at the end too.
template <>
struct Blocks<bfloat16> {
    using Sums = std::array<Vector, 2>;

    static Sums zero() { return {0.0f, 0.0f}; }
    static float total(const Sums& sums) { return stdx::reduce(sums[0] + sums[1]); }

    template <class Row, class Weight, class Also>
    SOFTMAXKIT_INLINE static Sums weigh(const Row& scores, const Weight& weight, float* to, int64_t keys,
                                        const Sums& before, int64_t further, const Also& also) {
        Sums sums = before;
        sweep_pairs(keys, [&](int64_t key, auto some) {
            __builtin_prefetch(scores.from + key + further);
            const Pairs pairs = load_pairs(scores, key, some);
            const Vector values[2] = {weight(even(pairs), some), weight(odd(pairs), some)};
            for (int half = 0; half < 2; ++half) {
                store(to + key + half * width, values[half]);
                sums[half] += values[half];
            }
            also(key, some);
        });
        return sums;
    }
    template <class To, class Some>
    SOFTMAXKIT_INLINE static void scale(const float* weights, float factor, To to, int64_t key, Some some) {
        const float* from = weights + key;
        store_pairs(to + key, round_pairs(load(from) * factor, load(from + width) * factor), some);
    }
    template <class To>
    static void scale_all(const float* weights, float factor, To to, int64_t keys) {
        sweep_pairs(keys, [&](int64_t key, auto some) { scale(weights, factor, to, key, some); });
    }
};

#endif

// Writes the weights of a row, as `Blocks<T>::weigh`, and returns their sum.
template <class T, class Row, class Weight>
SOFTMAXKIT_INLINE double weigh_row(const Row& scores, const Weight& weight, float* to, int64_t keys) {
    using Of = Blocks<T>;
    double sum = 0.0;
    for (int64_t begin = 0; begin < keys; begin += summed_together) {
        const int64_t some = std::min(summed_together, keys - begin);
        sum += Of::total(Of::weigh(scores + begin, weight, to + begin, some, Of::zero(), summed_together,
                                   [](auto, auto) {}));
    }
    return sum;
}

}  // namespace softmaxkit
