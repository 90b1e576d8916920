// Exact softmax of a row: maximum, sum of exponentials, quotient.
#pragma once

#include <array>
#include <type_traits>

#include "access.hpp"

constexpr int64_t chains = 4;  // so that one operation does not wait for the one before

template <class T>
float row_maximum(const T* from, const uint8_t* mask, int64_t keys) {
    std::array<Vector, chains> highest;
    highest.fill(-infinity);
    int64_t key = 0;
    if (mask == nullptr) {
        for (; key + chains * width <= keys; key += chains * width) {
            for (int64_t chain = 0; chain < chains; ++chain) {
                highest[chain] = larger(highest[chain], load(from + key + chain * width));
            }
        }
    }
    for (; key < keys; key += width) highest[0] = larger(highest[0], scores_at(from + key, mask == nullptr ? nullptr : mask + key, keys - key));
    return stdx::hmax(larger(larger(highest[0], highest[1]), larger(highest[2], highest[3])));
}

template <class T>
bool any_nan(const T* from, const uint8_t* mask, int64_t keys) {
    for (int64_t key = 0; key < keys; key += width) {
        const Vector scores = scores_at(from + key, mask == nullptr ? nullptr : mask + key, keys - key);
        if (stdx::any_of(scores != scores)) return true;
    }
    return false;
}

template <class T>
void exact_row(const T* from, T* to, const uint8_t* mask, int64_t keys) {
    const auto masked_at = [&](int64_t key) { return mask == nullptr ? nullptr : mask + key; };
    const float maximum = row_maximum(from, mask, keys);
    if (maximum == -infinity && !any_nan(from, mask, keys)) return fill_zero(to, keys);
    int64_t key = 0;
    std::array<Vector, chains> sums;
    sums.fill(0.0f);
    const auto exponential = [&](const Vector& scores) { return exp(scores - maximum); };
    if constexpr (std::is_same_v<T, float>) {
        key = 0;
        if (mask == nullptr) {
            for (; key + chains * width <= keys; key += chains * width) {
                for (int64_t chain = 0; chain < chains; ++chain) {
                    const Vector value = exponential(load(from + key + chain * width));
                    store(to + key + chain * width, value);
                    sums[chain] += value;
                }
            }
        }
        for (; key < keys; key += width) {
            const Vector value = exponential(scores_at(from + key, masked_at(key), keys - key));
            put(to + key, value, keys - key);
            sums[0] += value;
        }
        const float scale = 1.0f / stdx::reduce((sums[0] + sums[1]) + (sums[2] + sums[3]));
        for (key = 0; key + width <= keys; key += width) store(to + key, load(to + key) * scale);
        for (; key < keys; ++key) to[key] *= scale;
    } else {
        // In half precision the exponentials would lose what the sum needs: they are made twice.
        for (key = 0; key < keys; key += width) sums[0] += exponential(scores_at(from + key, masked_at(key), keys - key));
        const float scale = 1.0f / stdx::reduce(sums[0]);
        for (key = 0; key < keys; key += width) {
            put(to + key, exponential(scores_at(from + key, masked_at(key), keys - key)) * scale, keys - key);
        }
    }
}
