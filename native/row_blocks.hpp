// How blocks of a row of T become weights in float32, and results in T: a vector at a time, of bfloat16 two where
// bfloat16_rows.hpp has pairs.
#pragma once

#include <cmath>

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

// Computes term(elements...) for keys `begin` to `end` of rows of T, a vector of each row at a time, and calls
// take(key, chain, terms, count). Of bfloat16, where bfloat16_rows.hpp has pairs, the terms are two vectors: those of
// the even elements and of the odd ones.
template <class T, class Term, class Take, class... Rows>
SOFTMAXKIT_INLINE void compute(int64_t begin, int64_t end, const Term& term, const Take& take, const Rows&... rows) {
    int64_t key = begin;
#if defined(__AVX2__)
    if constexpr (std::is_same_v<T, bfloat16>) {
        const auto both = [&](const auto&... pairs) __attribute__((always_inline)) {
            const std::array<Vector, 2> terms{term(even(pairs)...), term(odd(pairs)...)};
            take(key, std::integral_constant<int, 0>{}, terms, Full{});
        };
        for (; key + pairs_width <= end; key += pairs_width) both(load_pairs(rows, key, all_pairs())...);
        if (key == end) return;
    }
#endif
    sweep(end - key, [&](int64_t at, auto chain, auto count) {
        take(key + at, chain, term(rows(key + at, count)...), count);
    });
}

// Computes terms as `compute`, calls take(key, terms, count), and returns their sum.
template <class T, class Term, class Take, class... Rows>
SOFTMAXKIT_INLINE double sum_terms(int64_t keys, const Term& term, const Take& take, const Rows&... rows) {
    double sum = 0.0;
    for (int64_t begin = 0; begin < keys; begin += summed_together) {
        Chains sums = all_chains(0.0f);
        const auto add = [&](int64_t key, auto chain, const auto& terms, auto count) __attribute__((always_inline)) {
            take(key, terms, count);
            if constexpr (std::is_same_v<std::decay_t<decltype(terms)>, Vector>) {
                sums[chain] += terms;
            } else {
                for (int half = 0; half < 2; ++half) sums[half] += terms[half];
            }
        };
        compute<T>(begin, std::min(begin + summed_together, keys), term, add, rows...);
        sum += total(sums);
    }
    return sum;
}

// Writes the terms of `compute`.
template <class To, class Count>
SOFTMAXKIT_INLINE void put_terms(To to, const Vector& term, Count count) {
    put(to, term, count);
}
#if defined(__AVX2__)
template <class To>
SOFTMAXKIT_INLINE void put_terms(To to, const std::array<Vector, 2>& terms, Full) {
    store_pairs(to, round_pairs(terms[0], terms[1]), all_pairs());
}
#endif

// Writes term(elements...) for the keys of rows of T.
template <class T, class To, class Term, class... Rows>
SOFTMAXKIT_INLINE void map_row(To to, int64_t keys, const Term& term, const Rows&... rows) {
    const auto write = [to](int64_t key, auto, const auto& terms, auto count) __attribute__((always_inline)) {
        constexpr int64_t further = 2048 / sizeof(T);
        prefetch_results(to + key + further, sizeof(terms) / sizeof(float));
        put_terms(to + key, terms, count);
    };
    compute<T>(0, keys, term, write, rows...);
}

// Does the same, and returns the sum of the terms before they are rounded.
template <class T, class Term, class... Rows>
SOFTMAXKIT_INLINE double map_and_sum_row(T* to, int64_t keys, const Term& term, const Rows&... rows) {
    const auto write = [to](int64_t key, const auto& terms, auto count) __attribute__((always_inline)) {
        put_terms(to + key, terms, count);
    };
    return sum_terms<T>(keys, term, write, rows...);
}

// The mean of a gradient g, weighted by a row's probabilities p: the sum of p * g, in which an infinite g of a key
// without probability does not count. Prefetches the memory of the row's results, and the next row, if that is short.
template <class T>
float mean_gradient(const Numbers<T>& p, const Numbers<T>& g, T* to, int64_t keys) {
    constexpr int64_t longest = 4096 / sizeof(T);  // both rows and the results have to fit the first-level cache
    const int64_t further = keys <= longest ? keys : 0;
    const auto ahead = [=](int64_t key, const auto& terms, auto) __attribute__((always_inline)) {
        constexpr int64_t count = sizeof(terms) / sizeof(float), bytes = count * sizeof(T);
        prefetch(p.from + key + further, bytes);
        prefetch(g.from + key + further, bytes);
        prefetch_results(to + key, count);
    };
    const auto product = [](const Vector& p, const Vector& g) __attribute__((always_inline)) { return p * g; };
    double mean = sum_terms<T>(keys, product, ahead, p, g);
    if (!std::isfinite(mean)) {
        mean = row_sum(keys, [&](int64_t key, auto count) {
            const Vector probability = p(key, count);
            Vector term = probability * g(key, count);
            replace(term, probability == 0.0f, 0.0f);
            return term;
        });
    }
    return static_cast<float>(mean);
}

// Writes the weights of a row, as `Blocks<T>::weigh`, and returns their sum. Prefetches the memory of its results.
template <class T, class Row, class Weight, class Results>
SOFTMAXKIT_INLINE double weigh_row(const Row& scores, const Weight& weight, float* to, Results results, int64_t keys) {
    using Of = Blocks<T>;
    double sum = 0.0;
    for (int64_t begin = 0; begin < keys; begin += summed_together) {
        const int64_t some = std::min(summed_together, keys - begin);
        const auto also = [results = results + begin](int64_t key, auto) { prefetch_results(results + key, width); };
        sum += Of::total(Of::weigh(scores + begin, weight, to + begin, some, Of::zero(), summed_together, also));
    }
    return sum;
}

}  // namespace softmaxkit
