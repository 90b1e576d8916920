// Softmax of a row of bfloat16, 32 elements at a time. The maximum is taken over integers with the same order; even and
// odd elements become float32 by a shift or a mask; results are rounded and interleaved again.
#pragma once

#include <algorithm>

#include "reductions.hpp"

#if defined(__AVX512BW__)

namespace softmaxkit {

constexpr int64_t bfloat16_pairs = 32;  // elements of a vector

// Calls body(key, some) for all vectors of a row; `some` has a bit for each element within the row.
template <class Body>
void sweep_pairs(int64_t keys, const Body& body) {
    int64_t key = 0;
    for (; key + bfloat16_pairs <= keys; key += bfloat16_pairs) body(key, ~__mmask32{0});
    if (key < keys) body(key, static_cast<__mmask32>((uint64_t{1} << (keys - key)) - 1));
}

// Loads bfloat16 elements, -infinity beyond the end of the row.
inline __m512i load_pairs(const bfloat16* from, __mmask32 some) {
    return _mm512_mask_loadu_epi16(_mm512_set1_epi16(static_cast<int16_t>(0xff80)), some, from);
}
inline Vector even(__m512i pairs) { return Vector(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))); }
inline Vector odd(__m512i pairs) {
    return Vector(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
}

inline void store_pairs(bfloat16* to, __m512i pairs, __mmask32 some) { _mm512_mask_storeu_epi16(to, some, pairs); }
inline void store_pairs(Streamed<bfloat16> to, __m512i pairs, __mmask32 some) {
    if (some == ~__mmask32{0} && reinterpret_cast<uintptr_t>(to.to) % sizeof pairs == 0) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to.to), pairs);
    } else {
        store_pairs(to.to, pairs, some);
    }
}

// The largest element; if the row contains NaN, the result may be NaN.
inline float maximum_of_pairs(const bfloat16* from, int64_t keys) {
    const auto ordered = [](__m512i pairs) {  // to integers of the same order; its own inverse
        return _mm512_xor_si512(pairs, _mm512_srli_epi16(_mm512_srai_epi16(pairs, 15), 1));
    };
    __m512i highest = _mm512_set1_epi16(INT16_MIN);
    sweep_pairs(keys, [&](int64_t key, __mmask32 some) {
        highest = _mm512_max_epi16(highest, ordered(load_pairs(from + key, some)));
    });
    const __m512i pairs = ordered(highest);
    const Vector halves[2] = {even(pairs), odd(pairs)};
    if (stdx::any_of(halves[0] != halves[0]) || stdx::any_of(halves[1] != halves[1])) return infinity - infinity;
    return stdx::hmax(larger(halves[0], halves[1]));
}

template <class To>
void softmax_bfloat16_row(const Scores<bfloat16, false>& scores, To to, int64_t keys) {
    const float maximum = maximum_of_pairs(scores.from, keys);
    if (is_empty(scores, keys, maximum)) return fill_zero(to, keys);
    const int64_t whole = (keys + bfloat16_pairs - 1) / bfloat16_pairs * bfloat16_pairs;
    float* exponentials = scratch<float>(whole);  // for each vector, those of the even elements, then of the odd ones
    Vector sums[2] = {0.0f, 0.0f};
    sweep_pairs(keys, [&](int64_t key, __mmask32 some) {
        prefetch_next_row(scores.from + key, keys);
        const __m512i pairs = load_pairs(scores.from + key, some);
        const Vector values[2] = {exp2<4>((even(pairs) - maximum) * log2e), exp2<4>((odd(pairs) - maximum) * log2e)};
        for (int half = 0; half < 2; ++half) {
            store(exponentials + key + half * width, values[half]);
            sums[half] += values[half];
        }
    });
    const float sum = stdx::reduce(sums[0] + sums[1]);
    if (sum != sum) return fill_invalid(scores, to, keys);
    const float scale = 1.0f / sum;
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    sweep_pairs(keys, [&](int64_t key, __mmask32 some) {
        const auto rounded = [&](const float* from) {  // to nearest, ties up
            return _mm512_add_epi32(_mm512_castps_si512(static_cast<__m512>(load(from) * scale)), half);
        };
        const __m512i evens = _mm512_srli_epi32(rounded(exponentials + key), 16);
        const __m512i odds = _mm512_and_si512(rounded(exponentials + key + width), upper);
        store_pairs(to + key, _mm512_or_si512(evens, odds), some);
    });
}

}  // namespace softmaxkit

#endif
