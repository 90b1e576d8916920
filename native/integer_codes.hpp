// Products with codes of a cache as dot products of bytes, exact in 32 bits.
//
// Codes are unsigned bytes there, by 128 or 8 too large, which costs that much times the sum of what they meet. Weights
// times the steps of their values are integers of 16 bits in two signed bytes, as parts of the largest of 128; so are
// queries, as parts of their largest: what is lost of a query is lost in all its scores alike, where errors of keys
// average out. 16 keys are brought together, and their sums reduced together, once for all heads that share them.
#pragma once

#include "codes.hpp"

namespace softmaxkit {

constexpr int64_t bytes_of_vector = 64;  // channels
constexpr int32_t largest_integer = 127 * 256 + 127;

// An integer of 16 bits is 256 times the upper byte and the lower one, both signed.
template <class Integer>
Integer upper_byte(const Integer& value) {
    return (value + 128) >> 8;
}

// What codes are too large by where they are unsigned.
template <int bits>
constexpr int32_t excess = 1 << (bits - 1);

// Up to 64 codes of a token as unsigned bytes.
inline __m512i bytes_of(const int8_t* from, int64_t count) {
    const __m512i bytes = count >= bytes_of_vector ? _mm512_loadu_si512(from)
                                                   : _mm512_maskz_loadu_epi8((uint64_t{1} << count) - 1, from);
    return _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
}
inline __m512i bytes_of(const uint8_t* from, int64_t count) {
    const __m256i pairs = count >= bytes_of_vector
                              ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                              : _mm256_maskz_loadu_epi8(static_cast<__mmask32>((uint64_t{1} << (count + 1) / 2) - 1), from);
    const __m512i wide = _mm512_cvtepu8_epi16(pairs);
    return _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)), _mm512_set1_epi8(15));
}

}  // namespace softmaxkit
