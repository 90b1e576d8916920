// Queries, keys and values in 8 bits, symmetric, rounded to nearest, ties to even; packed for integer_matrix.hpp.
#pragma once

#include <vector>

#include "access.hpp"
#include "integer_matrix.hpp"

namespace softmaxkit {

constexpr float largest_code = 127.0f;
constexpr float least_magnitude = 1e-30f;  // below, a value counts as 0: the inverse of its step is no float32

inline Vector load(const int8_t* from) {
#if defined(__AVX512F__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return Vector(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
#else
    using Bytes = stdx::rebind_simd_t<int8_t, Vector>;
    return stdx::static_simd_cast<Vector>(Bytes(from, stdx::element_aligned));
#endif
}

// A vector, or as much of it as there is and zeros.
template <class T>
Vector load_upto(const T* from, int64_t count) {
    if (count >= width) return load(from);
    T some[width] = {};
    std::copy_n(from, count, some);
    return load(some);
}

inline float to_float(float value) { return value; }
inline float to_float(bfloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

inline Vector magnitude(const Vector& value) { return stdx::max(value, -value); }

inline Integers rounded(const Vector& value) { return stdx::static_simd_cast<Integers>(stdx::nearbyint(value)); }

// The factor that brings values of such a magnitude to codes.
inline float inverse_step(float largest) { return largest > least_magnitude ? largest_code / largest : 0.0f; }

// Keys of one head, less their mean: it moves all scores of a query by the same.
struct PackedKeys {
    int64_t steps;               // dwords of four channels
    Buffer<int8_t> panels;       // (keys / panel, steps, panel) dwords of four channels
    Buffer<int32_t> start;       // (keys / panel, panel): what a score's sum starts from
    std::vector<float> mean;
    float step = 0;              // of a code
    bool finite = true;

    PackedKeys(int64_t keys, int64_t channels)
        : steps((channels + 3) / 4),
          panels(rounded_up(keys, panel) * steps * 4),
          start(rounded_up(keys, panel)),
          mean(channels) {}
};

// Bits that scores lose so that 127 * 127 * channels becomes less than `middle`.
inline int score_shift(int64_t channels) {
    int shift = 0;
    while ((int64_t{127} * 127 * channels >> shift) >= middle) ++shift;
    return shift;
}

// What a vector of channels holds over all keys.
struct Column {
    Vector sum = 0.0f, low = infinity, high = -infinity;
};

// One key after the other: a sum is the same in every vector width.
template <class T>
std::vector<Column> look_at(const T* from, int64_t stride, int64_t keys, int64_t channels) {
    std::vector<Column> columns((channels + width - 1) / width);
    for (int64_t key = 0; key < keys; ++key) {
        for (int64_t channel = 0; channel < channels; channel += width) {
            Column& column = columns[channel / width];
            const Vector value = load_upto(from + key * stride + channel, channels - channel);
            column.sum += value;
            column.low = stdx::min(column.low, value);
            column.high = stdx::max(column.high, value);
        }
    }
    return columns;
}

template <class T>
void pack_keys(const T* from, int64_t stride, int64_t keys, int64_t channels, PackedKeys& to) {
    const int64_t padded = rounded_up(to.steps * 4, width);
    const std::vector<Column> columns = look_at(from, stride, keys, channels);
    float largest = 0;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Column& column = columns[channel / width];
        const Vector mean = column.sum / static_cast<float>(keys);
        const Vector reach = stdx::max(column.high - mean, mean - column.low);
        to.finite = to.finite && stdx::all_of(magnitude(column.sum) < infinity) && stdx::all_of(reach < infinity);
        largest = std::max(largest, stdx::hmax(reach));
        store_some(to.mean.data() + channel, mean, std::min(width, channels - channel));
    }
    if (!to.finite) return;
    to.step = largest / largest_code;
    const Vector inverse = inverse_step(largest);
    const int shift = score_shift(channels);
    const int32_t offset = static_cast<int32_t>(middle << shift) + (shift > 0 ? 1 << (shift - 1) : 0);
    std::vector<int8_t> row(padded);
    for (int64_t key = 0; key < rounded_up(keys, panel); ++key) {
        Integers sum = 0;
        for (int64_t channel = 0; channel < channels && key < keys; channel += width) {
            const int64_t count = std::min(width, channels - channel);
            const Vector mean = load_upto(to.mean.data() + channel, count);
            const Integers code = rounded((load_upto(from + key * stride + channel, count) - mean) * inverse);
            sum += code;
            stdx::static_simd_cast<stdx::rebind_simd_t<int8_t, Vector>>(code).copy_to(row.data() + channel,
                                                                                      stdx::element_aligned);
        }
        if (key == keys) std::fill(row.begin(), row.end(), int8_t(0));
        const int64_t lane = lane_of(key % panel), first = key / panel * panel;
        to.start.data()[first + lane] = offset - 128 * stdx::reduce(sum);
        int8_t* dwords = to.panels.data() + (first * to.steps + lane) * 4;
        for (int64_t step = 0; step < to.steps; ++step) {
            std::memcpy(dwords + step * panel * 4, row.data() + step * 4, 4);
        }
    }
}

// Values of one head, a step for each column.
struct PackedValues {
    int64_t columns;             // a multiple of a vector's lanes
    Buffer<int8_t> panels;       // (keys / 4, columns) dwords of four keys
    std::vector<float> steps;
    bool finite = true;

    PackedValues(int64_t keys, int64_t channels)
        : columns(rounded_up(channels, lanes)), panels(rounded_up(keys, panel) * columns), steps(columns) {}
};

template <class T>
void pack_values(const T* from, int64_t stride, int64_t keys, int64_t channels, PackedValues& to) {
    std::vector<Vector> inverses;
    for (const Column& column : look_at(from, stride, keys, channels)) {
        const int64_t channel = static_cast<int64_t>(inverses.size()) * width;
        const Vector largest = stdx::max(column.high, -column.low);
        to.finite = to.finite && stdx::all_of(magnitude(column.sum) < infinity) && stdx::all_of(largest < infinity);
        store_some(to.steps.data() + channel, largest / largest_code, std::min(width, channels - channel));
        inverses.emplace_back(0.0f);
        stdx::where(largest > least_magnitude, inverses.back()) = largest_code / largest;
    }
    for (int64_t key = 0; key < rounded_up(keys, panel); key += 4) {
        int32_t* dwords = reinterpret_cast<int32_t*>(to.panels.data()) + key / 4 * to.columns;
        for (int64_t channel = 0; channel < channels; channel += width) {
            Integers four = 0;
            for (int64_t index = 0; index < std::min<int64_t>(4, keys - key); ++index) {
                const Vector value = load_upto(from + (key + index) * stride + channel, channels - channel);
                four |= (rounded(value * inverses[channel / width]) & 255) << static_cast<int>(8 * index);
            }
            four.copy_to(dwords + channel, stdx::element_aligned);
        }
        std::fill(dwords + rounded_up(channels, width), dwords + to.columns, 0);
    }
}

// A query's codes plus 128, and the step of one; padding is 128 too, and meets keys that are 0. A negative scale of the
// scores turns the signs.
template <class T>
float pack_query(const T* from, int64_t channels, bool negative, int64_t padded, uint8_t* to, bool& finite) {
    Vector largest = 0.0f, sum = 0.0f;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Vector value = magnitude(load_upto(from + channel, std::min(width, channels - channel)));
        largest = stdx::max(largest, value);
        sum += value;
    }
    finite = finite && stdx::all_of(sum < infinity);
    const float top = stdx::hmax(largest);
    const Vector inverse = negative ? -inverse_step(top) : inverse_step(top);
    std::fill_n(to, padded, uint8_t(128));
    for (int64_t channel = 0; channel < channels; channel += width) {
        const int64_t count = std::min(width, channels - channel);
        const Integers code = rounded(load_upto(from + channel, count) * inverse) + 128;
        uint8_t bytes[width];
        stdx::static_simd_cast<stdx::rebind_simd_t<uint8_t, Vector>>(code).copy_to(bytes, stdx::element_aligned);
        std::copy_n(bytes, count, to + channel);
    }
    return top / largest_code;
}

}  // namespace softmaxkit
