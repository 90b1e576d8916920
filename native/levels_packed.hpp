// A row's levels as codes, two or four per byte, and the probability of each level, in an eighth or less of float32's
// memory.
#pragma once

#include "levels.hpp"
#include "quantise.hpp"

namespace softmaxkit {

template <int count>
constexpr int codes_in_byte = count == 4 ? 4 : 2;

// Packs the codes of places into bytes, the first code in the lowest bits. The last byte is filled up with zeros, for
// which there is memory after the places.
template <int count>
void pack(uint8_t* places, int64_t keys, uint8_t* to) {
    constexpr int in_byte = codes_in_byte<count>, bits = 8 / in_byte;
    using Word = std::conditional_t<in_byte == 4, uint32_t, uint16_t>;  // the places of a byte, the first one lowest
    constexpr Word every_code = static_cast<Word>(0x01010101u * (count - 1));
    std::fill_n(places + keys, in_byte - 1, uint8_t{0});
    for (int64_t byte = 0; byte * in_byte < keys; ++byte) {
        Word codes;
        std::memcpy(&codes, places + byte * in_byte, sizeof codes);
        codes &= every_code;
        Word packed = codes;
        for (int index = 1; index < in_byte; ++index) packed |= codes >> (8 - bits) * index;
        to[byte] = static_cast<uint8_t>(packed);
    }
}

#if defined(__AVX512BW__)

// Packs 64 codes of scores of T, which are in the order of `places_of_64`.
template <int count, class T>
void pack_64(__m512i places, uint8_t* to) {
    const __m512i codes = _mm512_and_si512(places, _mm512_set1_epi8(count - 1));
    constexpr bool halves = std::is_same_v<T, bfloat16>;
    if constexpr (count == 4) {
        const __m512i pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0401));
        const __m128i packed = _mm512_cvtepi32_epi8(_mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00100001)));
        const __m128i order = halves ? _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)
                                     : _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(packed, order));
    } else {
        const __m256i packed = _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x1001)));
        const __m256i order = halves ? _mm256_setr_epi16(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)
                                     : _mm256_setr_epi16(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutexvar_epi16(order, packed));
    }
}

#endif

// Writes the codes and `count` probabilities; or returns false and writes nothing if a score is infinite or NaN.
template <int count, class T>
bool levels_packed_row(const Scores<T, false>& scores, uint8_t* codes, float* probabilities, int64_t keys,
                       const Levels& levels) {
    const auto [maximum, finite] = maximum_if_finite(scores, keys);
    if (!finite) return false;
    uint8_t* places = scratch<uint8_t>(keys + width);
#if defined(__AVX512BW__)
    const double sum = finite_sum<count>(scores, keys, maximum, levels, [&](int64_t at, __m512i bytes) {
        pack_64<count, T>(bytes, codes + at / codes_in_byte<count>);
    });
    const int64_t packed = keys / 64 * 64;
    for (int64_t key = packed; key < keys; key += width) {
        const int64_t size = std::min(width, keys - key);
        const __m512i whole = places_of<count>(scores(key, size), maximum, levels);
        _mm512_mask_cvtepi32_storeu_epi8(places + key, first(size), whole);
    }
#else
    const int64_t packed = 0;
    const double sum = row_sum(keys, [&, maximum = maximum](int64_t at, auto size) {
        const Vector place = place_of<count>(scores(at, size) - maximum, levels);
        store_bytes(places + at, std::bit_cast<Integers>(place + rounder));
        Vector power = pick<count>(place, levels.exponentials);
        if constexpr (!std::is_same_v<decltype(size), Full>) replace(power, scores(at, size) == -infinity, 0.0f);
        return power;
    });
#endif
    pack<count>(places + packed, keys - packed, codes + packed / codes_in_byte<count>);
    const auto values = quotients(levels.exponentials, sum);
    std::copy_n(values.begin(), count, probabilities);
    return true;
}

}  // namespace softmaxkit
