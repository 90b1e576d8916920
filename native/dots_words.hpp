// The sums of integer_matrix.hpp in AVX2, and in AVX-512 without VNNI. Products are of 16 bits, since those of bytes
// would saturate.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "panels.hpp"

namespace softmaxkit {

#define SOFTMAXKIT_WORDS  // `wide_dots` multiplies words

#if defined(__AVX512BW__)
constexpr int64_t register_bytes = 64;
#else
constexpr int64_t register_bytes = 32;
#endif
using SignedWords [[gnu::vector_size(register_bytes)]] = int16_t;
using Products [[gnu::vector_size(register_bytes)]] = int32_t;

// The sums of the products of two words each with a pair.
SOFTMAXKIT_INLINE Products multiply(const SignedWords& words, uint32_t pair) {
    const int32_t both = static_cast<int32_t>(pair);
#if defined(__AVX512BW__)
    return (Products)_mm512_madd_epi16((__m512i)words, _mm512_set1_epi32(both));
#else
    return (Products)_mm256_madd_epi16((__m256i)words, _mm256_set1_epi32(both));
#endif
}

template <class Register>
SOFTMAXKIT_INLINE Register from_memory(const void* from) {
    Register loaded;
    std::memcpy(&loaded, from, sizeof loaded);
    return loaded;
}

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
        for (int64_t part = 0; part < vectors * 64; part += register_bytes) {
            const auto part_of = [&](int64_t index) { return reinterpret_cast<uint8_t*>(sums[index]) + part; };
            Products parts[tile];
#pragma GCC unroll 6
            for (int64_t index = 0; index < tile; ++index) parts[index] = from_memory<Products>(part_of(index));
            for (int64_t at = 0; at < count; ++at) {
                const auto bytes = from_memory<SignedWords>(with + (begin + at) * step + part);
                const SignedWords low = bytes << 8 >> 8, high = bytes >> 8;
#pragma GCC unroll 6
                for (int64_t index = 0; index < tile; ++index) {
                    parts[index] += multiply(low, pairs[index][at][0]) + multiply(high, pairs[index][at][1]);
                }
            }
#pragma GCC unroll 6
            for (int64_t index = 0; index < tile; ++index) std::memcpy(part_of(index), &parts[index], register_bytes);
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

}  // namespace softmaxkit
