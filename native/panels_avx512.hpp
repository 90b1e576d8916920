// The operations of integer_matrix.hpp in AVX-512, with VNNI and VBMI or without.
#pragma once

#include <immintrin.h>

#include "byte_products.hpp"
#include "panels.hpp"

#if defined(__AVX512VNNI__)
#include "dots_avx512.hpp"
#else
#include "dots_words.hpp"
#endif

namespace softmaxkit {

// Narrowing leaves the keys of a panel's scores interleaved.
SOFTMAXKIT_INLINE void narrow(const Sums (&sums)[4], const int32_t* start, int shift, uint16_t* scores,
                              uint16_t* highest) {
    const __m128i by = _mm_cvtsi32_si128(shift);
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half) {
        const auto shifted = [&](int64_t vector) {
            return _mm512_sra_epi32(_mm512_add_epi32((__m512i)sums[vector], _mm512_load_si512(start + lanes * vector)),
                                    by);
        };
        const __m512i narrow = _mm512_packus_epi32(shifted(2 * half), shifted(2 * half + 1));
        _mm512_store_si512(scores + 32 * half, narrow);
        _mm512_store_si512(highest + 32 * half, _mm512_max_epu16(narrow, _mm512_load_si512(highest + 32 * half)));
    }
}

inline void hide(uint16_t* scores, uint64_t visible, uint16_t* highest) {
    for (int half = 0; half < 2; ++half) {
        uint32_t places = 0;
        for (int group = 0; group < 4; ++group) {
            places |= static_cast<uint32_t>(visible >> (16 * group + 8 * half) & 0xff) << 8 * group;
        }
        const __m512i shown = _mm512_maskz_loadu_epi16(places, scores + 32 * half);
        _mm512_store_si512(scores + 32 * half, shown);
        _mm512_store_si512(highest + 32 * half, _mm512_max_epu16(shown, _mm512_load_si512(highest + 32 * half)));
    }
}

// Looks up codes, clamped to 0..127. As `narrow` does, it interleaves two vectors of words to one of bytes.
SOFTMAXKIT_INLINE __m512i look_up(__m512i first, __m512i second, const uint8_t* table) {
    const __m512i low = _mm512_loadu_si512(table), high = _mm512_loadu_si512(table + 64);
#if defined(__AVX512VBMI__)
    return _mm512_permutex2var_epi8(low, _mm512_packs_epi16(first, second), high);
#else
    const auto look_up_words = [&](__m512i code) {  // the table as pairs of bytes
        const __m512i clamped = _mm512_min_epu16(code, _mm512_set1_epi16(codes - 1));
        const __m512i pairs = _mm512_permutex2var_epi16(low, _mm512_srli_epi16(clamped, 1), high);
        const __m512i odd = _mm512_slli_epi16(_mm512_and_si512(clamped, _mm512_set1_epi16(1)), 3);
        return _mm512_and_si512(_mm512_srlv_epi16(pairs, odd), _mm512_set1_epi16(255));
    };
    return _mm512_packus_epi16(look_up_words(first), look_up_words(second));
#endif
}

template <bool summed>
SOFTMAXKIT_INLINE void weigh(const uint16_t* scores, const Words& anchor, const Words& multiplier, const uint8_t* table,
                             uint64_t visible, uint8_t* weights, Sums& sums) {
    const auto code = [&](int64_t half) {
        return _mm512_mulhi_epu16(_mm512_subs_epu16((__m512i)anchor, _mm512_load_si512(scores + 32 * half)),
                                  (__m512i)multiplier);
    };
    const __m512i bytes = _mm512_maskz_mov_epi8(visible, look_up(code(0), code(1), table));
    _mm512_store_si512(weights, bytes);
    if constexpr (summed) sums = (Sums)add_small_products((__m512i)sums, bytes, _mm512_set1_epi8(1));
}

inline uint64_t true_bits(const uint8_t* from, uint64_t some, int64_t) {
    const __m512i bytes = _mm512_maskz_loadu_epi8(some, from);
    return _mm512_test_epi8_mask(bytes, bytes);
}

}  // namespace softmaxkit
