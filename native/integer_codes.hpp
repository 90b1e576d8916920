// Products with the codes of a cache in integers, exact in 32 bits.
//
// Products of weights and value steps are quantised to 16-bit integers relative to the largest of 128; so are queries,
// relative to their largest channel. Queries need 16 bits because the error of a query is common to all its scores,
// whereas errors of keys average out.
//
// AVX-512 with VNNI has dot products of bytes; without, byte_products.hpp makes them of words. With AVX-512, integers
// are two signed bytes, and codes are unsigned bytes with an excess of 128 or 8, which is corrected by the excess
// times the sum of the other operand. The bytes of 16 keys are interleaved and their sums reduced together, once for
// all heads that share them. 8-bit codes are read by integer_keys.hpp and integer_values.hpp, 4-bit codes by
// nibble_keys.hpp and nibble_values.hpp. With AVX2 and NEON, codes are widened to vectors of words or bytes:
// coded_keys.hpp and coded_values.hpp.
#pragma once

#include <cmath>
#include <limits>

#include "codes.hpp"

namespace softmaxkit {

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

// Quantises the products of weights and their tokens' steps to 16-bit integers, a vector of which goes to put(token,
// integers) at a time; those beyond `count` are 0.
template <int64_t tokens, class Step, class Put>
IntegerWeights integers_of(const float* weights, const Step* steps, int64_t count, const Put& put) {
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
        put(part * width, codes);
    }
    return {stdx::reduce(sum), any ? top / static_cast<float>(largest_integer) : 0.0f};
}

// The same, as upper and lower signed bytes.
template <int64_t tokens, class Step>
IntegerWeights integers_of(const float* weights, const Step* steps, int64_t count, int8_t* high, int8_t* low) {
    return integers_of<tokens>(weights, steps, count, [&](int64_t token, const Integers& codes) {
        store_bytes(high + token, upper_byte(codes));
        store_bytes(low + token, codes);
    });
}

}  // namespace softmaxkit
