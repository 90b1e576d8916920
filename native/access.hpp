// Scores in and probabilities out, a vector at a time: masked keys, ends of rows, either precision.
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
