// Queries, keys and values in 8 bits, symmetric, rounded to nearest, ties to even; packed for integer_matrix.hpp. Every
// build quantises by this file alone, and the numbers by which a finer path is chosen come from here too.
//
// Keys have a step for each channel, about the middle between their least and largest; queries take up these steps
// before they have one of their own. Values have a step for each column. Keys and values that no query sees count for
// nothing.
#pragma once

#include <cmath>
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

// The lowest byte of each integer.
inline void store_bytes(void* to, const Integers& values) {
#if defined(__AVX512F__)
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtepi32_epi8(static_cast<__m512i>(values)));
#else
    stdx::static_simd_cast<stdx::rebind_simd_t<int8_t, Vector>>(values).copy_to(static_cast<int8_t*>(to),
                                                                               stdx::element_aligned);
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

inline Integers rounded(const Vector& value) {
#if defined(__AVX512F__)
    return Integers(_mm512_cvtps_epi32(static_cast<__m512>(value)));
#else
    return stdx::static_simd_cast<Integers>(stdx::nearbyint(value));
#endif
}

// The factors that bring values of such magnitudes to codes.
inline Vector inverse_steps(const Vector& largest) {
    Vector inverses = 0.0f;
    stdx::where(largest > least_magnitude, inverses) = largest_code / largest;
    return inverses;
}

// Tokens of one head.
template <class T>
struct Tokens {
    const T* from;
    int64_t stride, count, channels;
    const uint8_t* seen;  // a byte each, 0 where no query sees it; null where all are seen

    const T* at(int64_t token) const { return from + token * stride; }
    bool sees(int64_t token) const { return seen == nullptr || seen[token]; }
    int64_t how_many() const {
        return seen == nullptr ? count : count - std::count(seen, seen + count, uint8_t(0));
    }
};

// What a vector of channels holds over all tokens that are seen.
struct Column {
    Vector sum = 0.0f, sizes = 0.0f, low = infinity, high = -infinity;

    void take(const Vector& value) {
        sum += value;
        sizes += magnitude(value);
        low = stdx::min(low, value);
        high = stdx::max(high, value);
    }
};

// One token after the other: a sum is the same in every vector width.
template <class T>
std::vector<Column> look_at(const Tokens<T>& tokens) {
    constexpr int64_t together = 4;
    std::vector<Column> columns((tokens.channels + width - 1) / width);
    int64_t channel = 0;
    for (; channel + together * width <= tokens.channels; channel += together * width) {
        std::array<Column, together> some;
        for (int64_t token = 0; token < tokens.count; ++token) {
            if (!tokens.sees(token)) continue;
            const T* from = tokens.at(token) + channel;
            for (int64_t part = 0; part < together; ++part) some[part].take(load(from + part * width));
        }
        std::copy(some.begin(), some.end(), columns.begin() + channel / width);
    }
    for (; channel < tokens.channels; channel += width) {
        Column column;
        for (int64_t token = 0; token < tokens.count; ++token) {
            if (tokens.sees(token)) column.take(load_upto(tokens.at(token) + channel, tokens.channels - channel));
        }
        columns[channel / width] = column;
    }
    return columns;
}

// Keys of one head.
struct PackedKeys {
    int64_t steps;               // dwords of four channels
    Buffer<int8_t> panels;       // (keys / panel, steps, panel) dwords of four channels
    Buffer<int32_t> start;       // (keys / panel, panel): what a score's sum starts from
    std::vector<float> centre, inverse, step;  // of each channel: a code is round((key - centre) * inverse)
    std::vector<int32_t> mean_code;            // the codes nearest to the keys' means
    std::vector<float> mean;                   // and what they stand for
    double spread = 0;           // mean square of a key's codes about their means
    bool finite = true;

    PackedKeys(int64_t keys, int64_t channels)
        : steps(key_steps(channels)),
          panels(rounded_up(keys, panel) * steps * 4),
          start(rounded_up(keys, panel)),
          centre(rounded_up(channels, width)),
          inverse(centre.size()),
          step(centre.size()),
          mean_code(centre.size()),
          mean(centre.size()) {}
};

// Bits that scores lose so that 127 * 127 * channels becomes less than `middle`.
inline int score_shift(int64_t channels) {
    int shift = 0;
    while ((int64_t{127} * 127 * channels >> shift) >= middle) ++shift;
    return shift;
}

template <class T>
void pack_keys(const Tokens<T>& keys, PackedKeys& to) {
    const std::vector<Column> columns = look_at(keys);
    const int64_t count = keys.how_many(), whole = static_cast<int64_t>(to.centre.size());
    double of_means = 0;
    for (int64_t channel = 0; channel < whole && count > 0; channel += width) {
        const Column& column = columns[channel / width];
        const Vector centre = column.low * 0.5f + column.high * 0.5f;
        const Vector reach = stdx::max(column.high - centre, centre - column.low);
        const Vector step = reach / largest_code, inverse = inverse_steps(reach);
        const Vector mean_code = (column.sum / static_cast<float>(count) - centre) * inverse;
        to.finite = to.finite && stdx::all_of(column.sizes < infinity) && stdx::all_of(reach < infinity);
        store(to.centre.data() + channel, centre);
        store(to.inverse.data() + channel, inverse);
        store(to.step.data() + channel, step);
        rounded(mean_code).copy_to(to.mean_code.data() + channel, stdx::element_aligned);
        for (int64_t lane = 0; lane < width; ++lane) {
            to.mean[channel + lane] =
                static_cast<float>(double{centre[lane]} + double{step[lane]} * to.mean_code[channel + lane]);
            of_means += double{mean_code[lane]} * double{mean_code[lane]};
        }
    }
    if (!to.finite) return;
    const int shift = score_shift(keys.channels);
    const int32_t offset = static_cast<int32_t>(middle << shift) + (shift > 0 ? 1 << (shift - 1) : 0);
    const int64_t padded = rounded_up(to.steps * 4, width);
    std::vector<int8_t> row(padded);
    int64_t squares = 0;
    Integers some_squares = 0;
    for (int64_t key = 0; key < rounded_up(keys.count, panel); ++key) {
        Integers sum = 0;
        const bool seen = key < keys.count && keys.sees(key);
        for (int64_t channel = 0; channel < keys.channels && seen; channel += width) {
            const Vector value = load_upto(keys.at(key) + channel, keys.channels - channel);
            const Vector centre = load(to.centre.data() + channel), inverse = load(to.inverse.data() + channel);
            const Integers code = rounded((value - centre) * inverse);
            sum += code;
            some_squares += code * code;
            store_bytes(row.data() + channel, code);
        }
        if (!seen) std::fill(row.begin(), row.end(), int8_t(0));
        if (key % 8 == 7) {  // those of 8 keys of 2^14 channels just fit
            squares += stdx::reduce(some_squares);
            some_squares = 0;
        }
        const int64_t lane = lane_of(key % panel), first = key / panel * panel;
        to.start.data()[first + lane] = offset - 128 * stdx::reduce(sum);
        int8_t* dwords = to.panels.data() + (first * to.steps + lane) * 4;
        for (int64_t step = 0; step < to.steps; ++step) {
            std::memcpy(dwords + step * panel * 4, row.data() + step * 4, 4);
        }
    }
    to.spread = count > 0 ? std::max(static_cast<double>(squares) / static_cast<double>(count) - of_means, 0.0) : 0.0;
}

// Values of one head, a step for each column.
struct PackedValues {
    int64_t columns;             // a multiple of a vector's lanes
    Buffer<int8_t> panels;       // (keys / 4, columns) dwords of four keys
    std::vector<float> steps;
    double error = 0;            // root mean square by rounding, over the size of the values but their largest
    bool finite = true;

    PackedValues(int64_t keys, int64_t channels)
        : columns(rounded_up(channels, lanes)), panels(rounded_up(keys, panel) * columns), steps(columns) {}
};

template <class T>
void pack_values(const Tokens<T>& values, PackedValues& to) {
    const int64_t channels = values.channels, count = values.how_many();
    std::vector<float> inverses(to.columns);
    double rounding = 0, size = 0;
    const std::vector<Column> columns = look_at(values);
    for (int64_t channel = 0; channel < channels && count > 0; channel += width) {
        const Column& column = columns[channel / width];
        const Vector largest = stdx::max(column.high, -column.low);
        const Vector others = stdx::max(column.sizes - largest, Vector(0.0f));
        to.finite = to.finite && stdx::all_of(column.sizes < infinity);
        store(to.steps.data() + channel, largest / largest_code);
        store(inverses.data() + channel, inverse_steps(largest));
        for (int64_t lane = 0; lane < width; ++lane) {
            rounding += double{largest[lane]} * double{largest[lane]};
            size += double{others[lane]} * double{others[lane]};
        }
    }
    const double of_codes = std::sqrt(rounding / 12) / largest_code;
    if (count > 1 && of_codes > 0) to.error = of_codes * static_cast<double>(count - 1) / std::sqrt(size);
    for (int64_t key = 0; key < rounded_up(values.count, panel); key += 4) {
        int32_t* dwords = reinterpret_cast<int32_t*>(to.panels.data()) + key / 4 * to.columns;
        for (int64_t channel = 0; channel < channels; channel += width) {
            const Vector inverse = load(inverses.data() + channel);
            Integers four = 0;
            for (int64_t index = 0; index < std::min<int64_t>(4, values.count - key); ++index) {
                const Vector value = load_upto(values.at(key + index) + channel, channels - channel);
                if (values.sees(key + index)) {
                    four |= (rounded(value * inverse) & 255) << static_cast<int>(8 * index);
                } else {
                    to.finite = to.finite && stdx::all_of(magnitude(value) < infinity);
                }
            }
            four.copy_to(dwords + channel, stdx::element_aligned);
        }
        std::fill(dwords + rounded_up(channels, width), dwords + to.columns, 0);
    }
}

// A query in 8 bits, with the keys' steps and the scale of the scores in it.
struct PackedQuery {
    float step = 0;
    int32_t of_mean = 0;  // product of its codes with those of the keys' means
};

// Writes codes plus 128; padding is 128 too, and meets keys that are 0. `whole` has room for the channels in whole
// vectors.
template <class T>
PackedQuery pack_query(const T* from, int64_t channels, double scale, const PackedKeys& keys, float* whole, uint8_t* to,
                       bool& finite) {
    const float factor = static_cast<float>(scale);
    Vector largest = 0.0f, sizes = 0.0f;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Vector value = load_upto(from + channel, channels - channel) * load(keys.step.data() + channel) * factor;
        store(whole + channel, value);
        const Vector size = magnitude(value);
        sizes += size;
        largest = stdx::max(largest, size);
    }
    PackedQuery packed;
    if (!stdx::all_of(sizes < infinity)) {  // no integer stands for such a number
        finite = false;
        std::fill_n(to, rounded_up(channels, 4), uint8_t(128));
        return packed;
    }
    const float top = stdx::hmax(largest);
    const Vector inverse = inverse_steps(top);
    Integers of_mean = 0;
    uint8_t last[width];
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Integers code = rounded(load(whole + channel) * inverse);
        of_mean += code * Integers(keys.mean_code.data() + channel, stdx::element_aligned);
        if (channel + width <= channels) {
            store_bytes(to + channel, code + 128);
        } else {
            store_bytes(last, code + 128);
            std::copy_n(last, channels - channel, to + channel);
        }
    }
    std::fill(to + channels, to + rounded_up(channels, 4), uint8_t(128));
    packed.step = top > least_magnitude ? top / largest_code : 0.0f;
    packed.of_mean = stdx::reduce(of_mean);
    return packed;
}

}  // namespace softmaxkit
