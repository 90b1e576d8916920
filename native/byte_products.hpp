// Dot products of four bytes in AVX-512, added to 32-bit sums: one instruction with VNNI, several without.
#pragma once

#include <immintrin.h>

#include "inline.hpp"

namespace softmaxkit {

// Adds products of unsigned with signed bytes. Words are multiplied without VNNI, since sums of two products of bytes
// would saturate.
SOFTMAXKIT_INLINE __m512i add_products(__m512i sums, __m512i bytes, __m512i with) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(sums, bytes, with);
#else
    const __m512i even = _mm512_madd_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(255)),
                                           _mm512_srai_epi16(_mm512_slli_epi16(with, 8), 8));
    const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(bytes, 8), _mm512_srai_epi16(with, 8));
    return _mm512_add_epi32(sums, _mm512_add_epi32(even, odd));
#endif
}

// The same where one of the two is so small that the sum of two products fits 16 bits, as with 4-bit codes.
SOFTMAXKIT_INLINE __m512i add_small_products(__m512i sums, __m512i bytes, __m512i with) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(sums, bytes, with);
#else
    return _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_maddubs_epi16(bytes, with), _mm512_set1_epi16(1)));
#endif
}

}  // namespace softmaxkit
