// Softmax of a row whose distances from the maximum are rounded to many evenly spaced levels: the entries of a table by
// level, divided by their sum; and the gradient of this and of the few levels of levels.hpp.
#pragma once

#include <algorithm>
#include <bit>
#include <vector>

#include "quantise.hpp"
#include "row_blocks.hpp"

namespace softmaxkit {

class LevelTable {
public:
    LevelTable(float clip, const std::vector<float>& entries)
        : entries_(entries), last_(static_cast<int32_t>(std::bit_ceil(entries.size())) - 1),
          per_step_(static_cast<float>(1 - static_cast<int>(entries.size())) / clip),
          lowest_(static_cast<float>(last_ + 1)), highest_(lowest_ + static_cast<float>(entries.size() - 1)) {
        entries_.resize(std::max<size_t>(last_ + 1, few));
    }

    // Calls use(entry_of), where entry_of(distance) looks up the entry of a distance; any entry for NaN.
    auto with_lookup(const auto& use) const {
#if defined(__AVX512F__)
        if (last_ < few) {
            const __m512 low = _mm512_loadu_ps(entries_.data()), high = _mm512_loadu_ps(entries_.data() + width);
            return use([=, this](const Vector& distance) __attribute__((always_inline)) {
                return Vector(_mm512_permutex2var_ps(low, static_cast<__m512i>(index(distance)), high));
            });
        }
#endif
        return use([this](const Vector& distance) __attribute__((always_inline)) { return at(index(distance)); });
    }

private:
    static constexpr int32_t few = 32;  // entries that two vectors of AVX-512 hold

    SOFTMAXKIT_INLINE Integers index(const Vector& distance) const {
        return rounded(larger(Vector(lowest_), distance * per_step_ + highest_)) & last_;
    }

    SOFTMAXKIT_INLINE Vector at(const Integers& index) const {
#if defined(__AVX512F__)
        return Vector(_mm512_i32gather_ps(static_cast<__m512i>(index), entries_.data(), 4));
#elif defined(__AVX2__)
        return Vector(_mm256_i32gather_ps(entries_.data(), static_cast<__m256i>(index), 4));
#else
        Vector entry;
        for (int64_t lane = 0; lane < width; ++lane) entry[lane] = entries_[index[lane]];
        return entry;
#endif
    }

    std::vector<float> entries_;  // from the lowest level
    int32_t last_;                // the largest of the indices that the level's bits can address
    float per_step_;              // reciprocal of the distance between two levels
    // Places of the lowest level and of the highest. What is added to levels absorbs the rounding error of the step, so
    // that ties remain ties, and is no part of the index.
    float lowest_, highest_;
};

template <class T, class To, class Row>
void level_table_row(const Row& scores, To to, int64_t keys, const LevelTable& table) {
    const float maximum = row_maximum(scores, keys);
    if (is_empty(scores, keys, maximum)) return fill_zero(to, keys);
    float* values = scratch<float>(keys + chains * width);
    const double sum = table.with_lookup([&](const auto& entry_of) {
        const auto weigh = [&](const Vector& score, auto) __attribute__((always_inline)) {
            const Vector distance = score - maximum;
            Vector entry = entry_of(distance);
            replace(entry, score == -infinity, 0.0f);
            replace(entry, distance != distance, distance);
            return entry;
        };
        return weigh_row<T>(scores, weigh, values, to, keys);
    });
    if (!(sum > 0.0)) return fill_invalid(scores, to, keys);
    Blocks<T>::scale_all(values, static_cast<float>(1.0 / sum), to, keys);
}

// The gradient of the scores, straight through the rounding, of results p that are entries or exponentials of levels,
// given their gradient g: p * (g - sum(p * g)), but 0 below the clip, where p is 0, and in rows with NaN. The row's
// maximum counts as a constant.
template <class T, class Row>
void levels_backward_row(const Row& scores, const T* probabilities, const T* gradient, T* to, int64_t keys,
                         float clip) {
    const Numbers<T> p(probabilities), g(gradient);
    const float maximum = row_maximum(scores, keys);
    const float mean = mean_gradient(p, g, to, keys);
    const auto term = [=](const Vector& score, const Vector& probability, const Vector& given)
                          __attribute__((always_inline)) {
        Vector result = probability * (given - mean);
        replace(result, !(probability > 0.0f && score - maximum >= clip), 0.0f);
        return result;
    };
    map_row<T>(to, keys, term, scores, p, g);
}

}  // namespace softmaxkit
