// Products with the codes of a cache, as dot products of bytes that are exact in 32 bits.
//
// Codes enter as unsigned bytes with an excess of 128 or 8, which is corrected by the excess times the sum of the
// other operand. Products of weights and value steps are quantised to 16-bit integers relative to the largest of 128,
// and stored as two signed bytes; so are queries, relative to their largest channel. Queries need 16 bits because the
// error of a query is common to all its scores, whereas errors of keys average out. The bytes of 16 keys are
// interleaved and their sums reduced together, once for all heads that share them. 8-bit codes are read by
// integer_keys.hpp and integer_values.hpp, 4-bit codes by nibble_keys.hpp and nibble_values.hpp.
#pragma once

#include <cmath>
#include <limits>

#include "codes.hpp"

namespace softmaxkit {

constexpr int64_t bytes_of_vector = 64;
constexpr int64_t tokens_together = 16;            // processed together; the scores of 16 keys fill a vector
constexpr int64_t keys_ahead = 64;                 // prefetch distance in tokens
constexpr int64_t values_together = 128;           // quantised together: their weights share one step
constexpr int64_t values_ahead = values_together;  // prefetch distance in tokens
constexpr int32_t largest_integer = 127 * 256 + 127;

// The upper of two signed bytes that represent a 16-bit integer as 256 * upper + lower.
template <class Integer>
Integer upper_byte(const Integer& value) {
    return (value + 128) >> 8;
}

// The excess of codes that are stored as unsigned bytes.
template <int bits>
constexpr int32_t excess = 1 << (bits - 1);

template <int bits>
class CodedKeys;
template <int bits>
class CodedValues;

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

// The largest integer of a quantised query whose products with 8-bit codes, summed over the channels, fit 32 bits.
constexpr int32_t largest_query(int64_t channels) {
    const int64_t fits = std::numeric_limits<int32_t>::max() / (127 * std::max<int64_t>(channels, 1));
    return static_cast<int32_t>(std::min<int64_t>(fits, largest_integer));
}

// Quantises a query to integers and returns their step; NaN if the query is not finite.
inline float integers_of(const float* query, int64_t channels, int32_t* to) {
    Vector largest = 0.0f, sizes = 0.0f;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Vector size = magnitude(load_upto(query + channel, channels - channel));
        sizes += size;
        largest = stdx::max(largest, size);
    }
    const float top = stdx::hmax(largest), most = static_cast<float>(largest_query(channels));
    const bool finite = stdx::all_of(sizes < infinity), any = finite && top > least_magnitude;
    const float inverse = any ? most / top : 0.0f;
    for (int64_t channel = 0; channel < channels; ++channel) {
        to[channel] = any ? static_cast<int32_t>(std::nearbyint(query[channel] * inverse)) : 0;
    }
    return finite ? any ? top / most : 0.0f : infinity - infinity;
}

// The sum of quantised weights, and their step.
struct IntegerWeights {
    int32_t sum;
    float factor;
};

// Quantises the products of weights and their tokens' steps to 16-bit integers, as upper and lower signed bytes.
template <int64_t tokens, class Step>
IntegerWeights integers_of(const float* weights, const Step* steps, int64_t count, int8_t* high, int8_t* low) {
    Vector products[tokens / width], largest = 0.0f;
    for (int64_t part = 0; part * width < tokens; ++part) {
        const int64_t rest = count - part * width;
        products[part] = rest > 0 ? load(weights + part * width) * load_upto(steps + part * width, rest) : 0.0f;
        largest = stdx::max(largest, magnitude(products[part]));
    }
    const float top = stdx::hmax(largest);
    const bool any = top > least_magnitude;
    const Vector inverse = any ? static_cast<float>(largest_integer) / top : 0.0f;
    Integers sum = 0;
    for (int64_t part = 0; part * width < tokens; ++part) {
        const Integers codes = rounded(products[part] * inverse);
        sum += codes;
        store_bytes(high + part * width, upper_byte(codes));
        store_bytes(low + part * width, codes);
    }
    return {stdx::reduce(sum), any ? top / static_cast<float>(largest_integer) : 0.0f};
}

}  // namespace softmaxkit
