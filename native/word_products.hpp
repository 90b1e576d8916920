// Sums of products of signed 16-bit integers: a tile of rows with vectors of columns, for AVX2 and AVX-512, with VNNI
// or without.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "panels.hpp"

namespace softmaxkit {

#if defined(__AVX512BW__)
using WordRegister = __m512i;
#else
using WordRegister = __m256i;
#endif

// Adds to 32-bit sums the products of both words of each lane with both words of a pair.
SOFTMAXKIT_INLINE WordRegister add_word_products(WordRegister sums, WordRegister words, uint32_t pair) {
    const int32_t both = static_cast<int32_t>(pair);
#if defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(sums, words, _mm512_set1_epi32(both));
#elif defined(__AVX512BW__)
    return _mm512_add_epi32(sums, _mm512_madd_epi16(words, _mm512_set1_epi32(both)));
#elif defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(sums, words, _mm256_set1_epi32(both));
#else
    return _mm256_add_epi32(sums, _mm256_madd_epi16(words, _mm256_set1_epi32(both)));
#endif
}

// Computes the sums of `steps` products of the pairs of a tile's rows, `row` pairs apart, with lanes of pairs, `step`
// lanes apart, and stores those of a row side by side. Returning them in an array would keep them in memory all along.
template <int vectors>
SOFTMAXKIT_INLINE void word_dots(int32_t (&sums)[tile][4 * lanes], const uint32_t* rows, int64_t row,
                                 const uint32_t* with, int64_t step, int64_t steps) {
    constexpr int64_t width_of = sizeof(WordRegister) / sizeof(uint32_t), registers = vectors * lanes / width_of;
    constexpr int64_t together = width_of == lanes ? registers : 2;  // sums, words and a pair fill the registers
    asm("" : "+r"(steps));  // GCC keeps the sums of a loop with a constant number of steps in memory
    for (int64_t first = 0; first < registers; first += together) {
        WordRegister parts[tile][together] = {};
        const uint32_t* from = with + first * width_of;
        for (int64_t at = 0; at < steps; ++at, from += step) {
            WordRegister words[together];
#pragma GCC unroll 4
            for (int64_t part = 0; part < together; ++part) {
                std::memcpy(&words[part], from + part * width_of, sizeof(WordRegister));
            }
#pragma GCC unroll 6
            for (int64_t index = 0; index < tile; ++index) {
                const uint32_t pair = rows[index * row + at];
#pragma GCC unroll 4
                for (int64_t part = 0; part < together; ++part) {
                    parts[index][part] = add_word_products(parts[index][part], words[part], pair);
                }
            }
        }
#pragma GCC unroll 6
        for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 4
            for (int64_t part = 0; part < together; ++part) {
                std::memcpy(sums[index] + (first + part) * width_of, &parts[index][part], sizeof(WordRegister));
            }
        }
    }
}

}  // namespace softmaxkit
