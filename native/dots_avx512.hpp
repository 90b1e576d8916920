// The sums of integer_matrix.hpp with AVX-512 and VNNI, which multiplies and adds bytes four at a time.
#pragma once

#include <immintrin.h>

#include "panels.hpp"

namespace softmaxkit {

template <int vectors, bool more = false>
SOFTMAXKIT_INLINE void dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, const Code* with,
                            int64_t step, int64_t steps) {
#pragma GCC unroll 6
    for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 4
        for (int64_t vector = 0; vector < vectors; ++vector) {
            sums[index][vector] = more ? sums[index][vector] << 8 : Sums{};
        }
    }
    for (int64_t at = 0; at < steps; ++at) {
#pragma GCC unroll 6
        for (int64_t index = 0; index < tile; ++index) {
            int32_t four;
            std::memcpy(&four, rows + index * row + 4 * at, sizeof four);
#pragma GCC unroll 4
            for (int64_t vector = 0; vector < vectors; ++vector) {
                const __m512i other = _mm512_loadu_si512(with + at * step + 64 * vector);
                sums[index][vector] =
                    (Sums)_mm512_dpbusd_epi32((__m512i)sums[index][vector], _mm512_set1_epi32(four), other);
            }
        }
    }
}

}  // namespace softmaxkit
