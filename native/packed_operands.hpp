// Queries, keys and values in 8 bits, packed for integer_matrix.hpp. Every build uses only this file to quantise them,
// and to estimate the errors that decide whether 8 bits are enough.
//
// Keys are centred in each channel between their minimum and maximum, and have a step per channel. Queries are
// multiplied by these steps and then quantised with a step per query. Values have a step per column. Keys and values
// that no query attends to do not influence the steps.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "integer_matrix.hpp"
#include "quantise.hpp"

namespace softmaxkit {

// Keys of one head.
struct PackedKeys {
    int64_t steps;               // lanes over the channels
    Buffer<Code> panels;         // (keys / panel, steps, panel) lanes of channels
    Buffer<int32_t> start;       // (keys / panel, panel): initial value of the integer sum of a score
    std::vector<float> centre, inverse, step;  // of each channel: code = round((key - centre) * inverse)
    std::vector<int32_t> mean_code;            // of each channel: the code nearest to the mean of the keys
    std::vector<float> mean;                   // the dequantised mean_code
    double spread = 0;           // mean squared norm of a key's codes about their means
    bool finite = true;

    PackedKeys(int64_t keys, int64_t channels)
        : steps(key_steps(channels)),
          panels(rounded_up(keys, panel) * steps * per_lane),
          start(rounded_up(keys, panel)),
          centre(rounded_up(channels, width)),
          inverse(centre.size()),
          step(centre.size()),
          mean_code(centre.size()),
          mean(centre.size()) {}
};

// The right shift of scores after which 127 * 127 * channels is less than `middle`.
inline int score_shift(int64_t channels) {
    int shift = 0;
    while ((int64_t{127} * 127 * channels >> shift) >= middle) ++shift;
    return shift;
}

template <class T>
void pack_keys(const Tokens<T>& keys, PackedKeys& to) {
    const std::vector<Column> columns = column_statistics(keys);
    const int64_t count = keys.seen_count(), whole = static_cast<int64_t>(to.centre.size());
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
    const int64_t padded = rounded_up(to.steps * per_lane, width);
    std::vector<int8_t> row(padded);
    int64_t squares = 0;
    Integers some_squares = 0;
    for (int64_t key = 0; key < rounded_up(keys.count, panel); ++key) {
        Integers sum = 0;
        const bool seen = key < keys.count && keys.is_seen(key);
        for (int64_t channel = 0; channel < keys.channels && seen; channel += width) {
            const Vector value = load_upto(keys.at(key) + channel, keys.channels - channel);
            const Vector centre = load(to.centre.data() + channel), inverse = load(to.inverse.data() + channel);
            const Integers code = rounded((value - centre) * inverse);
            sum += code;
            some_squares += code * code;
            store_bytes(row.data() + channel, code);
        }
        if (!seen) std::fill(row.begin(), row.end(), int8_t(0));
        if (key % 8 == 7) {  // the squares of 8 keys of 2^14 channels just fit 32 bits
            squares += stdx::reduce(some_squares);
            some_squares = 0;
        }
        const int64_t lane = lane_of(key % panel), first = key / panel * panel;
        to.start.data()[first + lane] = offset - 128 * stdx::reduce(sum);
        Code* codes = to.panels.data() + (first * to.steps + lane) * per_lane;
        for (int64_t step = 0; step < to.steps; ++step) {
            std::copy_n(row.data() + step * per_lane, per_lane, codes + step * panel * per_lane);
        }
    }
    to.spread = count > 0 ? std::max(static_cast<double>(squares) / static_cast<double>(count) - of_means, 0.0) : 0.0;
}

// Values of one head, with a step per column.
struct PackedValues {
    int64_t columns;             // a multiple of a vector's lanes
    Buffer<Code> panels;         // (keys / per_lane, columns) lanes of keys
    std::vector<float> steps;
    double error = 0;            // root mean square rounding error over the values' size without each column's largest
    bool finite = true;

    PackedValues(int64_t keys, int64_t channels)
        : columns(rounded_up(channels, lanes)), panels(rounded_up(keys, panel) * columns), steps(columns) {}
};

template <class T>
void pack_values(const Tokens<T>& values, PackedValues& to) {
    const int64_t channels = values.channels, count = values.seen_count();
    constexpr int bits = 8 * sizeof(Code), mask = (1 << bits) - 1;
    std::vector<float> inverses(to.columns);
    double rounding = 0, size = 0;
    const std::vector<Column> columns = column_statistics(values);
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
    for (int64_t key = 0; key < rounded_up(values.count, panel); key += per_lane) {
        int32_t* lanes_of_keys = reinterpret_cast<int32_t*>(to.panels.data()) + key / per_lane * to.columns;
        for (int64_t channel = 0; channel < channels; channel += width) {
            const Vector inverse = load(inverses.data() + channel);
            Integers codes = 0;
            for (int64_t index = 0; index < std::min(per_lane, values.count - key); ++index) {
                const Vector value = load_upto(values.at(key + index) + channel, channels - channel);
                if (values.is_seen(key + index)) {
                    codes |= (rounded(value * inverse) & mask) << static_cast<int>(bits * index);
                } else {
                    to.finite = to.finite && stdx::all_of(magnitude(value) < infinity);
                }
            }
            codes.copy_to(lanes_of_keys + channel, stdx::element_aligned);
        }
        std::fill(lanes_of_keys + rounded_up(channels, width), lanes_of_keys + to.columns, 0);
    }
}

// An 8-bit query, multiplied by the steps of the keys and the scale of the scores before quantisation.
struct PackedQuery {
    float step = 0;
    int32_t of_mean = 0;  // product of its codes with the codes of the keys' means
    float norm = 0;       // sum of the squares of its channels, each times the scale and the keys' step
};

// The expected mean square error of a query's scores: rounding errors of the codes of queries and keys are uniform,
// with a mean square of 1/12.
inline double score_noise(double norm, double step, const PackedKeys& keys) {
    return (norm + step * step * keys.spread) / 12;
}

// Writes the codes plus 128, padded with 128, where the keys' padding is 0. `whole` is scratch memory for the channels,
// rounded up to whole vectors.
template <class T>
PackedQuery pack_query(const T* from, int64_t channels, double scale, const PackedKeys& keys, float* whole, uint8_t* to,
                       bool& finite) {
    const float factor = static_cast<float>(scale);
    Vector largest = 0.0f, sizes = 0.0f, squares = 0.0f;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Vector value = load_upto(from + channel, channels - channel) * load(keys.step.data() + channel) * factor;
        store(whole + channel, value);
        const Vector size = magnitude(value);
        sizes += size;
        squares += value * value;
        largest = stdx::max(largest, size);
    }
    PackedQuery packed;
    if (!stdx::all_of(sizes < infinity)) {  // integers cannot represent NaN or infinity
        finite = false;
        std::fill_n(to, rounded_up(channels, per_lane), uint8_t(128));
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
    std::fill(to + channels, to + rounded_up(channels, per_lane), uint8_t(128));
    packed.step = top > least_magnitude ? top / largest_code : 0.0f;
    packed.of_mean = stdx::reduce(of_mean);
    packed.norm = stdx::reduce(squares);
    return packed;
}

// The expected root mean square error of the scores of a head, from every `stride`-th query; not finite if one of these
// is not.
template <class T>
double score_error(const Tokens<T>& queries, int64_t stride, double scale, const PackedKeys& keys) {
    std::vector<float> whole(rounded_up(queries.channels, width));
    std::vector<uint8_t> codes(rounded_up(queries.channels, per_lane));
    bool finite = true;
    double sum = 0;
    for (int64_t query = 0; query < queries.count; query += stride) {
        const PackedQuery packed =
            pack_query(queries.at(query), queries.channels, scale, keys, whole.data(), codes.data(), finite);
        sum += score_noise(packed.norm, packed.step, keys);
    }
    if (!finite) return std::numeric_limits<double>::quiet_NaN();
    return std::sqrt(sum / static_cast<double>((queries.count + stride - 1) / stride));
}

}  // namespace softmaxkit
