// EXAQ of a row: levels by comparing score - maximum with thresholds, a histogram for the sum, one product for each level.
#pragma once

#include <array>

#include "exact.hpp"

// levels - 1 ascending thresholds, and the exponential of each level.
struct Levels {
    int count;
    std::array<float, 15> thresholds;
    std::array<float, 16> exponentials;
};

template <int count>
Vector by_level(const Vector& distance, const Levels& levels, const std::array<float, 16>& values) {
    Vector found = values[0];
    for (int level = 1; level < count; ++level) {
        stdx::where(distance >= levels.thresholds[level - 1], found) = values[level];
    }
    return found;
}

template <int count, class T>
void exaq_row(const T* from, T* to, const uint8_t* mask, int64_t keys, const Levels& levels) {
    const float maximum = row_maximum(from, mask, keys);
    if (maximum == -infinity && !any_nan(from, mask, keys)) return fill_zero(to, keys);
    const auto distance_at = [&](int64_t key) {
        return scores_at(from + key, mask == nullptr ? nullptr : mask + key, keys - key) - maximum;
    };
    // How many reach each threshold; all that are attended reach level 0, NaN none.
    std::array<int64_t, count> reached{};
    bool nan = !(maximum < infinity);
    for (int64_t key = 0; key < keys; key += width) {
        const Vector distance = distance_at(key);
        nan = nan || stdx::any_of(distance != distance);
        reached[0] += stdx::popcount(distance > -infinity);
        for (int level = 1; level < count; ++level) {
            reached[level] += stdx::popcount(distance >= levels.thresholds[level - 1]);
        }
    }
    double sum = 0;
    for (int level = 0; level < count; ++level) {
        sum += static_cast<double>(reached[level] - (level + 1 < count ? reached[level + 1] : 0)) * levels.exponentials[level];
    }
    std::array<float, 16> values{};
    for (int level = 0; level < count; ++level) {
        values[level] = nan ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(levels.exponentials[level] / sum);
    }
    for (int64_t key = 0; key < keys; key += width) {
        const Vector distance = distance_at(key);
        Vector found = by_level<count>(distance, levels, values);
        if (!nan) stdx::where(!(distance > -infinity), found) = 0.0f;
        put(to + key, found, keys - key);
    }
}
