// The sums of integer_matrix.hpp in AVX2. Products are of 16 bits, since those of bytes would saturate.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "panels.hpp"

namespace softmaxkit {

#define SOFTMAXKIT_WORDS  // `wide_dots` multiplies words

constexpr uint32_t even_bytes = 0x00ff00ff;

SOFTMAXKIT_INLINE uint32_t four_bytes(const uint8_t* from) {
    uint32_t four;
    std::memcpy(&four, from, sizeof four);
    return four;
}

// `pairs_at` writes four elements of a row as pairs of words, those at even places first; it gets their place in bytes.
template <int vectors>
SOFTMAXKIT_INLINE void dots_of_words(Sums (&sums)[tile][vectors], int64_t row, const int8_t* with, int64_t step,
                                     int64_t steps, const auto& pairs_at) {
    constexpr int64_t at_once = 32;
    uint32_t pairs[tile][at_once][2];
    for (int64_t begin = 0; begin < steps; begin += at_once) {
        const int64_t count = std::min(at_once, steps - begin);
        for (int64_t index = 0; index < tile; ++index) {
            for (int64_t at = 0; at < count; ++at) pairs_at(index * row + 4 * (begin + at), pairs[index][at]);
        }
        for (int64_t half = 0; half < 2 * vectors; ++half) {
            const auto half_of = [&](int64_t index) { return reinterpret_cast<__m256i*>(sums[index]) + half; };
            __m256i parts[tile];
#pragma GCC unroll 6
            for (int64_t index = 0; index < tile; ++index) parts[index] = _mm256_loadu_si256(half_of(index));
            for (int64_t at = 0; at < count; ++at) {
                const int8_t* from = with + (begin + at) * step + 32 * half;
                const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
                const __m256i low = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
                const __m256i high = _mm256_srai_epi16(bytes, 8);
#pragma GCC unroll 6
                for (int64_t index = 0; index < tile; ++index) {
                    const auto pair = [&](int64_t odd) {
                        return _mm256_set1_epi32(static_cast<int32_t>(pairs[index][at][odd]));
                    };
                    const __m256i by_even = _mm256_madd_epi16(low, pair(0)), by_odd = _mm256_madd_epi16(high, pair(1));
                    parts[index] = _mm256_add_epi32(parts[index], _mm256_add_epi32(by_even, by_odd));
                }
            }
#pragma GCC unroll 6
            for (int64_t index = 0; index < tile; ++index) _mm256_storeu_si256(half_of(index), parts[index]);
        }
    }
}

template <int vectors>
SOFTMAXKIT_INLINE void dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, const int8_t* with,
                            int64_t step, int64_t steps) {
    dots_of_words(sums, row, with, step, steps, [rows](int64_t at, uint32_t (&pairs)[2]) {
        const uint32_t four = four_bytes(rows + at);
        pairs[0] = four & even_bytes;
        pairs[1] = four >> 8 & even_bytes;
    });
}

template <int vectors>
SOFTMAXKIT_INLINE void wide_dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, int64_t plane,
                                 const int8_t* with, int64_t step, int64_t steps) {
    dots_of_words(sums, row, with, step, steps, [rows, plane](int64_t at, uint32_t (&pairs)[2]) {
        const uint32_t upper = four_bytes(rows + at), lower = four_bytes(rows + plane + at);
        pairs[0] = (upper & even_bytes) << 8 | (lower & even_bytes);
        pairs[1] = (upper & ~even_bytes) | (lower >> 8 & even_bytes);
    });
}

// Adds unsigned bytes to sums, four to each.
SOFTMAXKIT_INLINE __m256i add_fours(__m256i sums, __m256i bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

}  // namespace softmaxkit
