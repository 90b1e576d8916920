// Products with the codes of a cache as 16-bit words, for AVX2: see integer_codes.hpp. Codes are widened 16 bytes at a
// time. A byte becomes a word, or with 4 bits two, those of all lower nibbles first. Words are multiplied in pairs: of
// channels for keys, of tokens for values.
#pragma once

#include "integer_codes.hpp"

namespace softmaxkit {

constexpr int64_t bytes_together = 16;
constexpr int64_t words_of_vector = 16;

// How many vectors of words the bytes read together become.
template <int bits>
constexpr int64_t vectors_of_bytes = 8 / bits;

template <int bits>
struct Widened {
    __m256i vectors[vectors_of_bytes<bits>];
};

template <int bits>
Widened<bits> words_of(__m128i bytes) {
    if constexpr (bits == 8) {
        return {{_mm256_cvtepi8_epi16(bytes)}};
    } else {
        const __m256i both = _mm256_cvtepu8_epi16(bytes);
        return {{_mm256_and_si256(both, _mm256_set1_epi16(15)), _mm256_srli_epi16(both, 4)}};
    }
}

// Loads 16 bytes, zero-padded if fewer remain.
inline __m128i bytes_upto(const void* from, int64_t count) {
    if (count >= bytes_together) return _mm_loadu_si128(static_cast<const __m128i*>(from));
    if (count == 8) return _mm_loadl_epi64(static_cast<const __m128i*>(from));
    alignas(16) uint8_t some[bytes_together] = {};
    std::memcpy(some, from, count);
    return _mm_load_si128(reinterpret_cast<const __m128i*>(some));
}

template <int bits>
int64_t padded_channels(const Codes<bits>& codes) {
    return rounded_up(codes.channels, vectors_of_bytes<bits> * words_of_vector);
}

}  // namespace softmaxkit
