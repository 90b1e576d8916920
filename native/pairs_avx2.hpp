// The operations of bfloat16_rows.hpp in AVX2.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "access.hpp"

namespace softmaxkit {

using Pairs = __m256i;
using AllPairs = std::integral_constant<int64_t, 2 * width>;

SOFTMAXKIT_INLINE AllPairs all_pairs() { return {}; }
SOFTMAXKIT_INLINE int64_t first_pairs(int64_t count) { return count; }

template <bool with_mask, class Count>
SOFTMAXKIT_INLINE Pairs load_pairs(const Scores<bfloat16, with_mask>& scores, int64_t key, Count some) {
    constexpr int16_t lowest = static_cast<int16_t>(0xff80);
    Pairs pairs;
    if constexpr (std::is_same_v<Count, AllPairs>) {
        pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scores.from + key));
    } else {
        alignas(32) int16_t elements[AllPairs::value];
        std::fill_n(elements, AllPairs::value, lowest);
        std::memcpy(elements, scores.from + key, static_cast<size_t>(some) * sizeof(bfloat16));
        pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(elements));
    }
    if constexpr (with_mask) {
        alignas(16) uint8_t bytes[AllPairs::value] = {};
        std::memcpy(bytes, scores.mask + key, static_cast<size_t>(some));
        const __m256i kept = _mm256_cvtepu8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
        const __m256i hidden = _mm256_cmpeq_epi16(kept, _mm256_setzero_si256());
        pairs = _mm256_blendv_epi8(pairs, _mm256_set1_epi16(lowest), hidden);
    }
    return pairs;
}

template <class Count>
SOFTMAXKIT_INLINE void store_pairs(bfloat16* to, Pairs pairs, Count some) {
    if constexpr (std::is_same_v<Count, AllPairs>) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pairs);
    } else {
        std::memcpy(to, &pairs, static_cast<size_t>(some) * sizeof(bfloat16));
    }
}

template <class Count>
SOFTMAXKIT_INLINE void store_pairs(Streamed<bfloat16> to, Pairs pairs, Count some) {
    store_pairs(to.to, pairs, some);
}

SOFTMAXKIT_INLINE Vector even(Pairs pairs) { return Vector(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))); }
SOFTMAXKIT_INLINE Vector odd(Pairs pairs) {
    return Vector(_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
}
SOFTMAXKIT_INLINE Pairs round_pairs(const Vector& evens, const Vector& odds) {
    const auto rounded = [](const Vector& value) {
        return _mm256_add_epi32(_mm256_castps_si256(static_cast<__m256>(value)), _mm256_set1_epi32(0x8000));
    };
    return _mm256_blend_epi16(_mm256_srli_epi32(rounded(evens), 16), rounded(odds), 0xaa);
}

SOFTMAXKIT_INLINE Pairs all_words(int16_t word) { return _mm256_set1_epi16(word); }
SOFTMAXKIT_INLINE Pairs larger_signed(Pairs one, Pairs other) { return _mm256_max_epi16(one, other); }
SOFTMAXKIT_INLINE Pairs smaller_unsigned(Pairs one, Pairs other) { return _mm256_min_epu16(one, other); }
template <class Count>
SOFTMAXKIT_INLINE Pairs without_signs(Pairs pairs, Count some) {
    pairs = _mm256_and_si256(pairs, all_words(INT16_MAX));
    if constexpr (!std::is_same_v<Count, AllPairs>) {
        const __m256i places = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        pairs = _mm256_and_si256(pairs, _mm256_cmpgt_epi16(all_words(static_cast<int16_t>(some)), places));
    }
    return pairs;
}
SOFTMAXKIT_INLINE Pairs inverted(Pairs pairs) { return _mm256_xor_si256(pairs, all_words(INT16_MAX)); }
SOFTMAXKIT_INLINE uint16_t least(Pairs words) {
    const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(half)));
}

}  // namespace softmaxkit
