// Softmax of a row whose distances from the maximum are rounded to many evenly spaced levels: the entries of a table by
// level, divided by their sum; and the gradient of this and of the few levels of levels.hpp.
#pragma once

#include <bit>
#include <vector>

#include "quantise.hpp"
#include "row_blocks.hpp"

namespace softmaxkit {

struct LevelTable {
    std::vector<float> entries;  // from the lowest level; as many as the level's bits can address
    int32_t last;                // of these
    float per_step;              // reciprocal of the distance between two levels
    float lowest, highest;       // places of the lowest level and of the highest

    LevelTable(float clip, const std::vector<float>& of) : entries(of) {
        const int count = static_cast<int>(of.size());
        entries.resize(std::bit_ceil(of.size()));
        last = static_cast<int32_t>(entries.size()) - 1;
        per_step = static_cast<float>(1 - count) / clip;
        // What is added absorbs the rounding error of the step, so that ties remain ties, and is no part of the index.
        lowest = static_cast<float>(entries.size());
        highest = lowest + static_cast<float>(count - 1);
    }

    // The entry of a distance; any entry for NaN.
    SOFTMAXKIT_INLINE Vector at(const Vector& distance) const {
        const Integers index = rounded(larger(Vector(lowest), distance * per_step + highest)) & last;
#if defined(__AVX512F__)
        return Vector(_mm512_i32gather_ps(static_cast<__m512i>(index), entries.data(), 4));
#elif defined(__AVX2__)
        return Vector(_mm256_i32gather_ps(entries.data(), static_cast<__m256i>(index), 4));
#else
        Vector entry;
        for (int64_t lane = 0; lane < width; ++lane) entry[lane] = entries[index[lane]];
        return entry;
#endif
    }
};

template <class T, class To, class Row>
void level_table_row(const Row& scores, To to, int64_t keys, const LevelTable& table) {
    const float maximum = row_maximum(scores, keys);
    if (is_empty(scores, keys, maximum)) return fill_zero(to, keys);
    const auto weigh = [&](const Vector& score, auto) __attribute__((always_inline)) {
        const Vector distance = score - maximum;
        Vector entry = table.at(distance);
        replace(entry, score == -infinity, 0.0f);
        replace(entry, distance != distance, distance);
        return entry;
    };
    float* values = scratch<float>(keys + chains * width);
    const double sum = weigh_row<T>(scores, weigh, values, keys);
    if (!(sum > 0.0)) return fill_invalid(scores, to, keys);
    Blocks<T>::scale_all(values, static_cast<float>(1.0 / sum), to, keys);
}

// The gradient of the scores, straight through the rounding, of results p that are entries or exponentials of levels,
// given their gradient g: p * (g - sum(p * g)), but 0 below the clip, where p is 0, and in rows with NaN. The row's
// maximum counts as a constant.
template <class T, class Row>
void levels_backward_row(const Row& scores, const T* probabilities, const T* gradient, T* to, int64_t keys,
                         float clip) {
    const Scores<T, false> p{probabilities, nullptr}, g{gradient, nullptr};
    const float maximum = row_maximum(scores, keys);
    const float mean = mean_gradient(p, g, keys);
    sweep(keys, [&](int64_t key, auto, auto count) {
        const Vector probability = p(key, count);
        Vector result = probability * (g(key, count) - mean);
        replace(result, !(probability > 0.0f && scores(key, count) - maximum >= clip), 0.0f);
        put(to + key, result, count);
    });
}

}  // namespace softmaxkit
