// Exact softmax of a row: maximum, sum of exponentials, quotient.
#pragma once

#include <algorithm>
#include <limits>

#include "vector.hpp"

constexpr float infinity = std::numeric_limits<float>::infinity();

// A vector at the end of a row, beyond which `rest` stands.
template <class T>
Vector load_some(const T* from, int64_t count, float rest) {
    alignas(64) T lanes[width];
    for (int64_t lane = 0; lane < width; ++lane) {
        if (lane < count) lanes[lane] = from[lane];
    }
    Vector found = load(lanes);
    const Vector index([](auto lane) { return static_cast<float>(lane); });
    stdx::where(!(index < static_cast<float>(count)), found) = rest;
    return found;
}

template <class T>
void store_some(T* to, const Vector& value, int64_t count) {
    alignas(64) T lanes[width];
    store(lanes, value);
    std::copy(lanes, lanes + count, to);
}

// The scores at one place, masked ones at -infinity.
template <class T>
Vector scores_at(const T* from, const uint8_t* mask, int64_t count) {
    Vector found = count >= width ? load(from) : load_some(from, count, -infinity);
    if (mask != nullptr) {
        const Vector keep([mask, count](auto lane) { return lane < count && mask[lane] ? 1.0f : 0.0f; });
        stdx::where(keep == 0.0f, found) = -infinity;
    }
    return found;
}

template <class T>
void fill_zero(T* to, int64_t count) {
    std::fill_n(reinterpret_cast<char*>(to), count * static_cast<int64_t>(sizeof(T)), char(0));
}

template <class T>
void put(T* to, const Vector& value, int64_t count) {
    if (count >= width) {
        store(to, value);
    } else {
        store_some(to, value, count);
    }
}

// NaN survives: a lane that is NaN is never less than another.
inline Vector larger(const Vector& one, const Vector& other) {
    Vector found = one;
    stdx::where(!(one > other), found) = other;
    return found;
}

template <class T>
void exact_row(const T* from, T* to, const uint8_t* mask, int64_t keys) {
    constexpr int64_t chains = 4;  // so that one operation does not wait for the one before
    const auto masked_at = [&](int64_t key) { return mask == nullptr ? nullptr : mask + key; };
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
    for (; key < keys; key += width) highest[0] = larger(highest[0], scores_at(from + key, masked_at(key), keys - key));
    const float maximum = stdx::hmax(larger(larger(highest[0], highest[1]), larger(highest[2], highest[3])));
    if (maximum == -infinity) {
        // Nothing is attended, unless a NaN hides behind the comparison.
        bool nan = false;
        for (key = 0; key < keys; key += width) {
            const Vector scores = scores_at(from + key, masked_at(key), keys - key);
            nan = nan || stdx::any_of(scores != scores);
        }
        if (!nan) return fill_zero(to, keys);
    }
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
