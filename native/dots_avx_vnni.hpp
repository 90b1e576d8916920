// The sums of integer_matrix.hpp with AVX-VNNI, which multiplies and adds bytes four at a time.
#pragma once

#include <immintrin.h>

#include "panels.hpp"

namespace softmaxkit {

template <int vectors, bool more = false>
SOFTMAXKIT_INLINE void dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, const Code* with,
                            int64_t step, int64_t steps) {
    for (int64_t half = 0; half < 2 * vectors; half += 2) {  // 12 sums, two vectors of `with` and four bytes of a row
        __m256i parts[tile][2];
        const auto half_of = [&](int64_t index) { return reinterpret_cast<__m256i*>(sums[index]) + half; };
#pragma GCC unroll 6
        for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 2
            for (int64_t part = 0; part < 2; ++part) {
                const __m256i before = more ? _mm256_loadu_si256(half_of(index) + part) : _mm256_setzero_si256();
                parts[index][part] = _mm256_slli_epi32(before, 8);
            }
        }
        for (int64_t at = 0; at < steps; ++at) {
            const auto* from = reinterpret_cast<const __m256i*>(with + at * step) + half;
            const __m256i first = _mm256_loadu_si256(from), second = _mm256_loadu_si256(from + 1);
#pragma GCC unroll 6
            for (int64_t index = 0; index < tile; ++index) {
                int32_t four;
                std::memcpy(&four, rows + index * row + 4 * at, sizeof four);
                const __m256i fours = _mm256_set1_epi32(four);
                parts[index][0] = _mm256_dpbusd_avx_epi32(parts[index][0], fours, first);
                parts[index][1] = _mm256_dpbusd_avx_epi32(parts[index][1], fours, second);
            }
        }
#pragma GCC unroll 6
        for (int64_t index = 0; index < tile; ++index) {
            _mm256_storeu_si256(half_of(index), parts[index][0]);
            _mm256_storeu_si256(half_of(index) + 1, parts[index][1]);
        }
    }
}

}  // namespace softmaxkit
