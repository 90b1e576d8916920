// The operations of integer_matrix.hpp in AVX2, with products of bytes where the processor has them (AVX-VNNI).
#pragma once

#include <immintrin.h>

#include "panels.hpp"

#if defined(__AVXVNNI__)
#include "dots_avx_vnni.hpp"
#else
#include "dots_words.hpp"
#endif

namespace softmaxkit {

// Keys of a panel's scores are in their natural order.
inline void narrow(const Sums (&sums)[4], const int32_t* start, int shift, uint16_t* scores, uint16_t* highest) {
    const __m128i by = _mm_cvtsi32_si128(shift);
    for (int64_t half = 0; half < 2; ++half) {
        const auto shifted = [&](int64_t vector) {
            const auto half_of = [half](const void* whole) {
                return _mm256_load_si256(static_cast<const __m256i*>(whole) + half);
            };
            return _mm256_sra_epi32(_mm256_add_epi32(half_of(&sums[vector]), half_of(start + lanes * vector)), by);
        };
        const __m256i first = _mm256_packus_epi32(shifted(0), shifted(1));
        const __m256i second = _mm256_packus_epi32(shifted(2), shifted(3));
        const __m256i words[2] = {_mm256_permute2x128_si256(first, second, 0x20),
                                  _mm256_permute2x128_si256(first, second, 0x31)};
        for (int64_t part = 0; part < 2; ++part) {
            __m256i* to = reinterpret_cast<__m256i*>(scores + 32 * half + 16 * part);
            __m256i* top = reinterpret_cast<__m256i*>(highest + 32 * half + 16 * part);
            _mm256_store_si256(to, words[part]);
            _mm256_store_si256(top, _mm256_max_epu16(words[part], _mm256_load_si256(top)));
        }
    }
}

inline void hide(uint16_t* scores, uint64_t visible, uint16_t* highest) {
    const __m256i places = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
                                             static_cast<int16_t>(32768));
    for (int64_t key = 0; key < panel; key += 16) {
        const __m256i bits = _mm256_and_si256(_mm256_set1_epi16(static_cast<int16_t>(visible >> key)), places);
        __m256i* to = reinterpret_cast<__m256i*>(scores + key);
        __m256i* top = reinterpret_cast<__m256i*>(highest + key);
        const __m256i shown = _mm256_and_si256(_mm256_load_si256(to), _mm256_cmpeq_epi16(bits, places));
        _mm256_store_si256(to, shown);
        _mm256_store_si256(top, _mm256_max_epu16(shown, _mm256_load_si256(top)));
    }
}

// Adds unsigned bytes to sums, four to each.
SOFTMAXKIT_INLINE __m256i add_fours(__m256i sums, __m256i bytes) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sums, bytes, _mm256_set1_epi8(1));
#else
    const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

// Looks up 32 codes below 128, 16 entries of the table at a time.
SOFTMAXKIT_INLINE __m256i look_up(__m256i code, const uint8_t* table) {
    __m256i weights = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int64_t first = 0; first < codes; first += 16) {
        const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + first));
        // 112 + place for codes among these entries; the others get the highest bit, which makes the result 0.
        const __m256i place = _mm256_adds_epu8(_mm256_xor_si256(code, _mm256_set1_epi8(static_cast<int8_t>(first))),
                                               _mm256_set1_epi8(112));
        weights = _mm256_or_si256(weights, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), place));
    }
    return weights;
}

template <bool summed>
SOFTMAXKIT_INLINE void weigh(const uint16_t* scores, const Words& anchor, const Words& multiplier, const uint8_t* table,
                             uint64_t visible, uint8_t* weights, Sums& sums) {
    const __m256i anchors = _mm256_set1_epi16(static_cast<int16_t>(anchor[0]));
    const __m256i multipliers = _mm256_set1_epi16(static_cast<int16_t>(multiplier[0]));
    const __m256i places = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i byte_of_bit = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                                 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    for (int64_t half = 0; half < 2; ++half) {
        const auto code = [&](int64_t part) {
            const auto* from = reinterpret_cast<const __m256i*>(scores + 32 * half + 16 * part);
            return _mm256_mulhi_epu16(_mm256_subs_epu16(anchors, _mm256_load_si256(from)), multipliers);
        };
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(code(0), code(1)), 0b11011000);
        const __m256i bits = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(visible >> 32 * half)),
                                                 byte_of_bit);
        const __m256i shown = _mm256_cmpeq_epi8(_mm256_and_si256(bits, places), places);
        const __m256i bytes = _mm256_and_si256(look_up(packed, table), shown);
        _mm256_store_si256(reinterpret_cast<__m256i*>(weights) + half, bytes);
        if constexpr (summed) {
            __m256i* to = reinterpret_cast<__m256i*>(&sums) + half;
            _mm256_storeu_si256(to, add_fours(_mm256_loadu_si256(to), bytes));
        }
    }
}

inline uint64_t true_bits(const uint8_t* from, uint64_t, int64_t count) {
    uint8_t bytes[panel] = {};
    std::memcpy(bytes, from, static_cast<size_t>(count));
    uint64_t bits = 0;
    for (int64_t half = 0; half < 2; ++half) {
        const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes) + half);
        const int zeros = _mm256_movemask_epi8(_mm256_cmpeq_epi8(some, _mm256_setzero_si256()));
        bits |= static_cast<uint64_t>(~static_cast<uint32_t>(zeros)) << 32 * half;
    }
    return bits;
}

}  // namespace softmaxkit
