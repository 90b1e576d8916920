// Rows of bfloat16, 32 elements at a time: even and odd elements become float32 by a shift or a mask, and results are
// rounded and interleaved again. The maximum is taken over the bits, as integers.
#pragma once

#include <bit>
#include <utility>

#include "reductions.hpp"

#if defined(__AVX512BW__)

namespace softmaxkit {

constexpr int64_t pairs_width = 32;  // elements of a vector

// Calls body(key, some) for all vectors of a row; `some` has a bit for each element within the row.
template <class Body>
SOFTMAXKIT_INLINE void sweep_pairs(int64_t keys, const Body& body) {
    int64_t key = 0;
    for (; key + pairs_width <= keys; key += pairs_width) body(key, ~__mmask32{0});
    if (key < keys) body(key, static_cast<__mmask32>((uint64_t{1} << (keys - key)) - 1));
}

// Loads bfloat16 elements, -infinity where masked and beyond the end of the row.
template <bool with_mask>
SOFTMAXKIT_INLINE __m512i load_pairs(const Scores<bfloat16, with_mask>& scores, int64_t key, __mmask32 some) {
    if constexpr (with_mask) {
        const __m256i bytes = _mm256_maskz_loadu_epi8(some, scores.mask + key);
        some = _mm256_test_epi8_mask(bytes, bytes);
    }
    return _mm512_mask_loadu_epi16(_mm512_set1_epi16(static_cast<int16_t>(0xff80)), some, scores.from + key);
}
SOFTMAXKIT_INLINE Vector even(__m512i pairs) { return Vector(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))); }
SOFTMAXKIT_INLINE Vector odd(__m512i pairs) {
    return Vector(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
}

// Rounds to nearest, ties up, and interleaves. The NaN that arithmetic with bfloat16 gives stays NaN.
SOFTMAXKIT_INLINE __m512i round_pairs(const Vector& evens, const Vector& odds) {
    const auto rounded = [](const Vector& value) {
        return _mm512_add_epi32(_mm512_castps_si512(static_cast<__m512>(value)), _mm512_set1_epi32(0x8000));
    };
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(rounded(evens), 16), rounded(odds));
}

SOFTMAXKIT_INLINE void store_pairs(bfloat16* to, __m512i pairs, __mmask32 some) {
    _mm512_mask_storeu_epi16(to, some, pairs);
}
SOFTMAXKIT_INLINE void store_pairs(Streamed<bfloat16> to, __m512i pairs, __mmask32 some) {
    if (some == ~__mmask32{0} && reinterpret_cast<uintptr_t>(to.to) % sizeof pairs == 0) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to.to), pairs);
    } else {
        store_pairs(to.to, pairs, some);
    }
}

// The smallest of 32 unsigned integers.
SOFTMAXKIT_INLINE uint16_t least(__m512i words) {
    const __m256i half = _mm256_min_epu16(_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64(words, 1));
    const __m128i quarter = _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(quarter)));
}

// The largest element of a row: that with the largest bits as a signed integer if any is positive; otherwise that with
// the smallest, since the bits of negative elements order in reverse.
struct LargestPairs {
    __m512i as_signed = _mm512_set1_epi16(INT16_MIN), as_unsigned = _mm512_set1_epi16(-1);

    void add(__m512i pairs) {
        as_signed = _mm512_max_epi16(as_signed, pairs);
        as_unsigned = _mm512_min_epu16(as_unsigned, pairs);
    }

    // The largest element; NaN if a positive NaN is among them, or nothing but NaN.
    float largest() const {
        const __m512i reversed = _mm512_xor_si512(as_signed, _mm512_set1_epi16(INT16_MAX));
        uint16_t bits = least(reversed) ^ INT16_MAX;
        if (bits > INT16_MAX) bits = least(as_unsigned);
        return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    }
};

// The largest score; if the row contains NaN, the result may be NaN.
template <bool with_mask>
float row_maximum(const Scores<bfloat16, with_mask>& scores, int64_t keys) {
    LargestPairs pairs;
    sweep_pairs(keys, [&](int64_t key, __mmask32 some) { pairs.add(load_pairs(scores, key, some)); });
    return pairs.largest();
}

// The largest score, and whether all are finite.
inline std::pair<float, bool> maximum_if_finite(const Scores<bfloat16, false>& scores, int64_t keys) {
    LargestPairs pairs;
    __m512i magnitude = _mm512_setzero_si512();
    sweep_pairs(keys, [&](int64_t key, __mmask32 some) {
        const __m512i loaded = load_pairs(scores, key, some);
        pairs.add(loaded);
        const __m512i positive = _mm512_maskz_mov_epi16(some, _mm512_and_si512(loaded, _mm512_set1_epi16(0x7fff)));
        magnitude = _mm512_max_epi16(magnitude, positive);
    });
    return {pairs.largest(), _mm512_cmpge_epi16_mask(magnitude, _mm512_set1_epi16(0x7f80)) == 0};
}

}  // namespace softmaxkit

#endif
