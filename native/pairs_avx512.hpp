// The operations of bfloat16_rows.hpp in AVX-512.
#pragma once

#include <immintrin.h>

#include "access.hpp"

namespace softmaxkit {

using Pairs = __m512i;

// A bit for each element.
SOFTMAXKIT_INLINE __mmask32 all_pairs() { return ~__mmask32{0}; }
SOFTMAXKIT_INLINE __mmask32 first_pairs(int64_t count) { return static_cast<__mmask32>((uint64_t{1} << count) - 1); }

template <bool with_mask>
SOFTMAXKIT_INLINE Pairs load_pairs(const Scores<bfloat16, with_mask>& scores, int64_t key, __mmask32 some) {
    if constexpr (with_mask) {
        const __m256i bytes = _mm256_maskz_loadu_epi8(some, scores.mask + key);
        some = _mm256_test_epi8_mask(bytes, bytes);
    }
    return _mm512_mask_loadu_epi16(_mm512_set1_epi16(static_cast<int16_t>(0xff80)), some, scores.from + key);
}

SOFTMAXKIT_INLINE void store_pairs(bfloat16* to, Pairs pairs, __mmask32 some) {
    _mm512_mask_storeu_epi16(to, some, pairs);
}
SOFTMAXKIT_INLINE void store_pairs(Streamed<bfloat16> to, Pairs pairs, __mmask32 some) {
    if (some == all_pairs() && reinterpret_cast<uintptr_t>(to.to) % sizeof pairs == 0) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to.to), pairs);
    } else {
        store_pairs(to.to, pairs, some);
    }
}

SOFTMAXKIT_INLINE Vector even(Pairs pairs) { return Vector(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))); }
SOFTMAXKIT_INLINE Vector odd(Pairs pairs) {
    return Vector(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
}
SOFTMAXKIT_INLINE Pairs round_pairs(const Vector& evens, const Vector& odds) {
    const auto rounded = [](const Vector& value) {
        return _mm512_add_epi32(_mm512_castps_si512(static_cast<__m512>(value)), _mm512_set1_epi32(0x8000));
    };
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(rounded(evens), 16), rounded(odds));
}

SOFTMAXKIT_INLINE Pairs all_words(int16_t word) { return _mm512_set1_epi16(word); }
SOFTMAXKIT_INLINE Pairs larger_signed(Pairs one, Pairs other) { return _mm512_max_epi16(one, other); }
SOFTMAXKIT_INLINE Pairs smaller_unsigned(Pairs one, Pairs other) { return _mm512_min_epu16(one, other); }
SOFTMAXKIT_INLINE Pairs without_signs(Pairs pairs, __mmask32 some) {
    return _mm512_maskz_mov_epi16(some, _mm512_and_si512(pairs, all_words(INT16_MAX)));
}
SOFTMAXKIT_INLINE Pairs inverted(Pairs pairs) { return _mm512_xor_si512(pairs, all_words(INT16_MAX)); }
SOFTMAXKIT_INLINE uint16_t least(Pairs words) {
    const __m256i half = _mm256_min_epu16(_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64(words, 1));
    const __m128i quarter = _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(quarter)));
}

}  // namespace softmaxkit
