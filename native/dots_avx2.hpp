// The sums of integer_matrix.hpp in AVX2. Products are of 16 bits, since those of bytes would saturate.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "panels.hpp"

namespace softmaxkit {

#define SOFTMAXKIT_WORDS  // `wide_dots` multiplies words

// Four bytes of a row as pairs of words: the even ones, then the odd ones.
struct PairsOfBytes {
    const uint8_t* rows;

    void read(int64_t at, int32_t (&pairs)[2]) const {
        const uint32_t four = dword(rows + at);
        pairs[0] = static_cast<int32_t>(four & even);
        pairs[1] = static_cast<int32_t>(four >> 8 & even);
    }

    static constexpr uint32_t even = 0x00ff00ff;
    static uint32_t dword(const uint8_t* from) {
        uint32_t four;
        std::memcpy(&four, from, sizeof four);
        return four;
    }
};

// The same of words whose upper and lower bytes are apart.
struct PairsOfWords {
    const uint8_t *upper, *lower;

    void read(int64_t at, int32_t (&pairs)[2]) const {
        constexpr uint32_t even = PairsOfBytes::even;
        const uint32_t high = PairsOfBytes::dword(upper + at), low = PairsOfBytes::dword(lower + at);
        pairs[0] = static_cast<int32_t>((high & even) << 8 | (low & even));
        pairs[1] = static_cast<int32_t>((high & ~even) | (low >> 8 & even));
    }
};

template <int vectors>
SOFTMAXKIT_INLINE void dots_of(const auto& row_pairs, Sums (&sums)[tile][vectors], int64_t row, const int8_t* with,
                               int64_t step, int64_t steps) {
    constexpr int64_t at_once = 32;
    int32_t pairs[tile][at_once][2];
    for (int64_t begin = 0; begin < steps; begin += at_once) {
        const int64_t count = std::min(at_once, steps - begin);
        for (int64_t index = 0; index < tile; ++index) {
            for (int64_t at = 0; at < count; ++at) row_pairs.read(index * row + 4 * (begin + at), pairs[index][at]);
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
                    const __m256i by_even = _mm256_madd_epi16(low, _mm256_set1_epi32(pairs[index][at][0]));
                    const __m256i by_odd = _mm256_madd_epi16(high, _mm256_set1_epi32(pairs[index][at][1]));
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
    dots_of(PairsOfBytes{rows}, sums, row, with, step, steps);
}

template <int vectors>
SOFTMAXKIT_INLINE void wide_dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, int64_t plane,
                                 const int8_t* with, int64_t step, int64_t steps) {
    dots_of(PairsOfWords{rows, rows + plane}, sums, row, with, step, steps);
}

// Adds unsigned bytes to sums, four to each.
SOFTMAXKIT_INLINE __m256i add_fours(__m256i sums, __m256i bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

}  // namespace softmaxkit
