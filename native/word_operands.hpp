// Queries, keys and values as 16-bit integers, packed in pairs along the axis that is summed, for word_products.hpp.
//
// Keys are centred in each channel between their minimum and maximum, which changes all scores of a query alike, and
// have a step per channel, by which queries are multiplied. Values have a step per column and panel of keys. The step
// of a query is the finest for which its sums with all keys fit 32 bits. All steps are powers of two, since numbers in
// bfloat16 have few bits. Keys and values that no query attends to are 0.
#pragma once

#include <cmath>
#include <vector>

#include "integer_matrix.hpp"
#include "quantise.hpp"

namespace softmaxkit {

constexpr int key_bits = 14, query_bits = 14, value_bits = 12;      // of magnitudes
constexpr int32_t most_weights = (int32_t{1} << (31 - value_bits)) - 1;  // a sum whose products with values fit 32 bits

// The number of steps to a power of two that is at most the largest magnitude, and more than half of it.
constexpr float steps_to(int bits) { return static_cast<float>(int64_t{1} << (bits - 1)); }

constexpr double of_float_sums = 1e-4;  // largest relative error of a float32 sum of 2^14 squares, and of its root

constexpr float greatest_magnitude = 1e30f;  // the inverse of the step of larger values would be subnormal

// Whether all magnitudes are 0 or have both a step and its inverse.
inline bool are_representable(const Vector& magnitudes) {
    return stdx::all_of((magnitudes == 0.0f) || (magnitudes > least_magnitude && magnitudes < greatest_magnitude));
}

// The largest power of two up to each magnitude; 0 for 0.
inline Vector power_of_two(const Vector& magnitudes) {
    return std::bit_cast<Vector>(std::bit_cast<Integers>(magnitudes) & 0x7f800000);
}
inline float power_of_two(float magnitude) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) & 0x7f800000);
}

// The inverses of powers of two; 0 for 0.
inline Vector inverse(const Vector& powers) {
    Vector inverses = 0.0f;
    replace(inverses, powers > 0.0f, 1.0f / powers);
    return inverses;
}

// Stores the lower 16 bits of each integer.
inline void store_words(void* to, const Integers& values) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm512_cvtepi32_epi16(static_cast<__m512i>(values)));
#else
    const __m256i wide = static_cast<__m256i>(values);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(wide, wide), 0b1000);
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
#endif
}

// Keys and values of one head.
struct PackedWords {
    int64_t pairs, columns;
    Buffer<uint32_t> keys;      // (panels, pairs of channels, 64 keys)
    std::vector<float> steps;   // of each channel of the keys
    Buffer<uint32_t> values;    // (panels, 32 pairs of keys, columns); keys of a pair are a vector's width apart
    Buffer<float> value_steps;  // (panels, columns)
    double largest_norm = 0;    // of the keys' integers
    double mean_square = 0, rounding = 0;  // mean squares of the keys' integers, and of what rounding changed
    double error = 0;           // root mean square error of the values of the worst panel, relative to all values' size
    bool finite = true;

    PackedWords(int64_t count, int64_t channels, int64_t value_channels)
        : pairs((channels + 1) / 2), columns(rounded_up(value_channels, lanes)),
          keys(rounded_up(count, panel) * pairs), steps(rounded_up(channels, width)),
          values(rounded_up(count, panel) / 2 * columns), value_steps(rounded_up(count, panel) / panel * columns) {}
};

// Stores the pairs of four keys, `stride` apart, side by side, those of each pair of channels `panel` apart.
inline void store_transposed(const uint32_t* from, int64_t stride, int64_t pairs, uint32_t* to) {
    int64_t pair = 0;
    for (; pair + 4 <= pairs; pair += 4) {
        const auto four_of = [&](int64_t key) {
            return _mm_loadu_ps(reinterpret_cast<const float*>(from + key * stride + pair));
        };
        __m128 one = four_of(0), two = four_of(1), three = four_of(2), four = four_of(3);
        _MM_TRANSPOSE4_PS(one, two, three, four);
        auto* at = reinterpret_cast<float*>(to + pair * panel);
        _mm_storeu_ps(at, one);
        _mm_storeu_ps(at + panel, two);
        _mm_storeu_ps(at + 2 * panel, three);
        _mm_storeu_ps(at + 3 * panel, four);
    }
    for (; pair < pairs; ++pair) {
        for (int64_t key = 0; key < 4; ++key) to[pair * panel + key] = from[key * stride + pair];
    }
}

template <class T>
void pack_keys(const Tokens<T>& keys, PackedWords& to) {
    const auto whole = static_cast<int64_t>(to.steps.size());
    std::vector<float> centres(whole), inverses(whole);
    const std::vector<Column> columns = column_statistics(keys);
    for (int64_t channel = 0; channel < whole; channel += width) {
        const Column& column = columns[channel / width];
        const Vector centre = column.low * 0.5f + column.high * 0.5f;
        Vector reach = stdx::max(column.high - centre, centre - column.low);
        replace(reach, column.high < column.low, 0.0f);  // no query attends to any key
        to.finite = to.finite && stdx::all_of(column.sizes < infinity) && are_representable(reach);
        const Vector step = power_of_two(reach) / steps_to(key_bits);
        store(centres.data() + channel, centre);
        store(to.steps.data() + channel, step);
        store(inverses.data() + channel, inverse(step));
    }
    if (!to.finite) return;
    const int64_t stride = rounded_up(whole, 2 * width) / 2;
    std::vector<uint32_t> words(4 * stride);
    double squares = 0;
    Vector rounding = 0.0f;
    float largest = 0;
    for (int64_t key = 0; key < rounded_up(keys.count, panel); ++key) {
        uint32_t* row = words.data() + key % 4 * stride;
        if (key < keys.count && keys.is_seen(key)) {
            Vector norm = 0.0f;
            for (int64_t channel = 0; channel < whole; channel += width) {
                const Vector value = load_upto(keys.at(key) + channel, keys.channels - channel);
                const Vector in_steps = (value - load(centres.data() + channel)) * load(inverses.data() + channel);
                const Integers integer = rounded(in_steps);
                const Vector off = in_steps - stdx::static_simd_cast<Vector>(integer);
                norm += in_steps * in_steps;
                rounding += off * off;
                store_words(reinterpret_cast<int16_t*>(row) + channel, integer);
            }
            const float square = stdx::reduce(norm);
            largest = std::max(largest, square);
            squares += double{square};
        } else {
            std::fill_n(row, stride, 0u);
        }
        if (key % 4 == 3) {
            const int64_t first = key - 3, of_panel = first / panel * panel * to.pairs;
            store_transposed(words.data(), stride, to.pairs, to.keys.data() + of_panel + first % panel);
        }
    }
    // Rounding moves each channel by up to half a step.
    to.largest_norm = std::sqrt(double{largest}) * (1 + of_float_sums) + std::sqrt(static_cast<double>(keys.channels)) / 2;
    const auto numbers = static_cast<double>(std::max<int64_t>(keys.seen_count() * keys.channels, 1));
    to.mean_square = squares / numbers;
    to.rounding = double{stdx::reduce(rounding)} / numbers;
}

template <class T>
void pack_values(const Tokens<T>& values, PackedWords& to) {
    std::vector<float> most(to.columns), sizes(to.columns);  // of each column: the largest, and the sum of all
    double worst = 0;                                         // sum of the squares of a panel's steps
    for (int64_t first = 0; first < rounded_up(values.count, panel); first += panel) {
        const int64_t last = std::min(first + panel, values.count);
        uint32_t* pairs = to.values.data() + first / 2 * to.columns;
        float* steps = to.value_steps.data() + first / panel * to.columns;
        Vector squares = 0.0f;
        for (int64_t channel = 0; channel < to.columns; channel += width) {
            const auto value = [&](int64_t key) {
                return load_upto(values.at(key) + channel, std::max<int64_t>(values.channels - channel, 0));
            };
            Vector largest = 0.0f, size = 0.0f, unseen = 0.0f;
            for (int64_t key = first; key < last; ++key) {
                const Vector one = magnitude(value(key));
                if (values.is_seen(key)) {
                    largest = stdx::max(largest, one);
                    size += one;
                } else {
                    unseen += one * 0.0f;  // NaN if it is not finite
                }
            }
            to.finite = to.finite && stdx::all_of(size < infinity) && are_representable(largest) &&
                        stdx::all_of(unseen == 0.0f);
            const Vector step = power_of_two(largest) / steps_to(value_bits), by = inverse(step);
            squares += step * step;
            store(steps + channel, step);
            store(most.data() + channel, stdx::max(load(most.data() + channel), largest));
            store(sizes.data() + channel, load(sizes.data() + channel) + size);
            const auto integers = [&](int64_t key) {
                return key < last && values.is_seen(key) ? rounded(value(key) * by) : Integers(0);
            };
            for (int64_t pair = 0; pair < panel / 2; ++pair) {
                const int64_t key = first + pair / width * 2 * width + pair % width;
                const Integers both = (integers(key) & 0xffff) | (integers(key + width) << 16);
                both.copy_to(reinterpret_cast<int32_t*>(pairs) + pair * to.columns + channel, stdx::element_aligned);
            }
        }
        worst = std::max(worst, double{stdx::reduce(squares)});
    }
    const int64_t count = values.seen_count();
    double size = 0;
    for (int64_t column = 0; column < to.columns; ++column) {
        const double others = std::max(double{sizes[column]} - double{most[column]}, 0.0);
        size += others * others;
    }
    if (count > 1 && worst > 0) to.error = std::sqrt(worst / 12 / size) * static_cast<double>(count - 1);
}

// A query in integers, with the expected mean square error of its products with keys.
struct QueryWords {
    float step = 0;
    double noise = 0;
};

// Packs a query times `sign` and the steps of the keys. `whole` is scratch memory for the channels, rounded up to whole
// vectors.
template <class T>
QueryWords pack_query(const T* from, int64_t channels, float sign, const PackedWords& keys, float* whole, uint32_t* to,
                      bool& finite) {
    Vector largest = 0.0f, sizes = 0.0f;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Vector value = load_upto(from + channel, channels - channel) * load(keys.steps.data() + channel) * sign;
        store(whole + channel, value);
        sizes += magnitude(value);
        largest = stdx::max(largest, magnitude(value));
    }
    const float top = stdx::hmax(largest);
    if (!stdx::all_of(sizes < infinity) || !are_representable(Vector(top))) {
        finite = false;
        return {};
    }
    const float unit = power_of_two(top), inverse_unit = unit > 0 ? 1 / unit : 0.0f;
    Vector squares = 0.0f;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Vector value = load(whole + channel) * inverse_unit;
        store(whole + channel, value);
        squares += value * value;
    }
    const double square = double{stdx::reduce(squares)}, half = std::sqrt(static_cast<double>(channels)) / 2;
    const double room = 2147483647.0 / std::max(keys.largest_norm, 1.0) - half;  // for the norm of the integers
    const double finest = room / (std::sqrt(std::max(square, 1.0)) * (1 + of_float_sums));
    const float by = std::min(steps_to(query_bits), power_of_two(static_cast<float>(finest)));
    int16_t last[width];
    auto* words = reinterpret_cast<int16_t*>(to);
    Vector rounding = 0.0f;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const Vector in_steps = load(whole + channel) * by;
        const Integers integer = rounded(in_steps);
        const Vector off = in_steps - stdx::static_simd_cast<Vector>(integer);
        rounding += off * off;
        if (channel + width <= channels) {
            store_words(words + channel, integer);
        } else {
            store_words(last, integer);
            std::copy_n(last, channels - channel, words + channel);
        }
    }
    const double step = double{unit} / by, of_keys = square * by * by * keys.rounding;
    const double of_query = double{stdx::reduce(rounding)} * keys.mean_square;
    return {static_cast<float>(step), step * step * (of_keys + of_query)};
}

}  // namespace softmaxkit
