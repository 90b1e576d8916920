// The operations of wide_codes.hpp in AVX2. Codes are 16-bit words, multiplied in pairs: of channels for keys, of
// tokens for values.
#pragma once

#include <immintrin.h>

#include "integer_codes.hpp"

namespace softmaxkit {

using WideCode = int16_t;
using Bytes = __m128i;
constexpr int64_t tokens_abreast = 2;

SOFTMAXKIT_INLINE Bytes load_bytes(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
SOFTMAXKIT_INLINE Bytes load_half(const void* from) { return _mm_loadl_epi64(static_cast<const __m128i*>(from)); }

// Vectors of codes: one with 8 bits; two with 4, the lower nibbles first.
template <int bits>
struct Vectors {
    __m256i of[8 / bits];

    explicit Vectors(Bytes bytes) {
        if constexpr (bits == 8) {
            of[0] = _mm256_cvtepi8_epi16(bytes);
        } else {
            const __m256i both = _mm256_cvtepu8_epi16(bytes);
            of[0] = _mm256_and_si256(both, _mm256_set1_epi16(15));
            of[1] = _mm256_srli_epi16(both, 4);
        }
    }
};

template <int bits>
SOFTMAXKIT_INLINE void widen(Bytes bytes, int16_t* to, int64_t step) {
    const Vectors<bits> vectors(bytes);
    for (int64_t part = 0; part < 8 / bits; ++part) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + part * step), vectors.of[part]);
    }
}

// 16 channels of a query.
struct alignas(32) QueryVector {
    int16_t words[16];

    void set(int64_t lane, int32_t integer) { words[lane] = static_cast<int16_t>(integer); }
};

SOFTMAXKIT_INLINE Integers multiply_keys(const int16_t* keys, const QueryVector* query, int64_t vectors) {
    __m256i sums[width] = {};
    for (int64_t vector = 0; vector < vectors; ++vector) {
        const auto* from = reinterpret_cast<const __m256i*>(keys) + vector * width;
        const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(query + vector));
#pragma GCC unroll 8
        for (int64_t key = 0; key < width; ++key) {
            sums[key] = _mm256_add_epi32(sums[key], _mm256_madd_epi16(words, _mm256_load_si256(from + key)));
        }
    }
    const auto four = [&](int64_t key) {  // the sums of a half of the lanes, for four keys, in each half
        return _mm256_hadd_epi32(_mm256_hadd_epi32(sums[key], sums[key + 1]),
                                 _mm256_hadd_epi32(sums[key + 2], sums[key + 3]));
    };
    const __m256i first = four(0), last = four(4);
    return Integers(_mm256_add_epi32(_mm256_permute2x128_si256(first, last, 0x20),
                                     _mm256_permute2x128_si256(first, last, 0x31)));
}

constexpr int64_t channels_of_nibbles = 16;

template <int bits>
SOFTMAXKIT_INLINE void weave(const Bytes (&tokens)[tokens_abreast], int16_t* to) {
    const Vectors<bits> low(_mm_unpacklo_epi8(tokens[0], tokens[1])), high(_mm_unpackhi_epi8(tokens[0], tokens[1]));
    for (int64_t part = 0; part < 8 / bits; ++part) {
        auto* vector = reinterpret_cast<__m256i*>(to) + part;
        _mm256_store_si256(vector, low.of[part]);
        _mm256_store_si256(vector + 8 / bits, high.of[part]);
    }
}

// Quantised weights of a block of tokens.
struct WeightVectors {
    alignas(32) int16_t words[values_together];

    void set(int64_t token, const Integers& integers) {
        const __m256i packed = _mm256_packs_epi32(static_cast<__m256i>(integers), _mm256_setzero_si256());
        _mm_store_si128(reinterpret_cast<__m128i*>(words + token),
                        _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0b1000)));
    }
};

template <int64_t vectors>
SOFTMAXKIT_INLINE void multiply_values(const WeightVectors& weights, int64_t count, const int16_t* values, int64_t step,
                                       Integers (&to)[vectors]) {
    __m256i sums[vectors] = {};
#pragma GCC unroll 4
    for (int64_t token = 0; token < count; token += 2, values += step) {
        int32_t two;
        std::memcpy(&two, weights.words + token, sizeof(two));
        const __m256i pair = _mm256_set1_epi32(two);
        for (int64_t part = 0; part < vectors; ++part) {
            const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(values) + part);
            sums[part] = _mm256_add_epi32(sums[part], _mm256_madd_epi16(pair, words));
        }
    }
    for (int64_t part = 0; part < vectors; ++part) to[part] = Integers(sums[part]);
}

}  // namespace softmaxkit
