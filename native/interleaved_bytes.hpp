// Codes of a cache as bytes in vectors of 64, for dot products of four bytes: see integer_codes.hpp.
#pragma once

#include "byte_products.hpp"
#include "integer_codes.hpp"

namespace softmaxkit {

constexpr int64_t bytes_of_vector = 64;
constexpr int64_t tokens_together = 16;  // processed together; the scores of 16 keys fill a vector

// Loads up to 64 8-bit codes of a token as unsigned bytes.
inline __m512i bytes_of(const int8_t* from, int64_t count) {
    const __m512i bytes = count >= bytes_of_vector ? _mm512_loadu_si512(from)
                                                   : _mm512_maskz_loadu_epi8((uint64_t{1} << count) - 1, from);
    return _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
}

// Interleaves the bytes of four tokens: each dword gets one byte of each token; `to[i]` gets the i-th quarter of every
// 128-bit lane.
inline void side_by_side(const __m512i (&four)[4], __m512i (&to)[4]) {
    const __m512i low[2] = {_mm512_unpacklo_epi8(four[0], four[1]), _mm512_unpacklo_epi8(four[2], four[3])};
    const __m512i high[2] = {_mm512_unpackhi_epi8(four[0], four[1]), _mm512_unpackhi_epi8(four[2], four[3])};
    to[0] = _mm512_unpacklo_epi16(low[0], low[1]);
    to[1] = _mm512_unpackhi_epi16(low[0], low[1]);
    to[2] = _mm512_unpacklo_epi16(high[0], high[1]);
    to[3] = _mm512_unpackhi_epi16(high[0], high[1]);
}

// Sums the four dwords of every 128-bit lane of four vectors. Each lane of the result lists the vectors' sums in order.
inline __m512i sums_of_lanes(const __m512i* of) {
    const __m512i one = _mm512_add_epi32(_mm512_unpacklo_epi32(of[0], of[1]), _mm512_unpackhi_epi32(of[0], of[1]));
    const __m512i two = _mm512_add_epi32(_mm512_unpacklo_epi32(of[2], of[3]), _mm512_unpackhi_epi32(of[2], of[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(one, two), _mm512_unpackhi_epi64(one, two));
}

}  // namespace softmaxkit
