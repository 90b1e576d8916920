// ConSmax of a row: exp(score - offset), at most `ceiling`; every element by itself.
#pragma once

#include "access.hpp"

template <class T>
void consmax_row(const T* from, T* to, const uint8_t* mask, int64_t keys, float offset, float limit) {
    const auto probability = [=](const Vector& scores) {
        Vector exponent = scores - offset;
        stdx::where(exponent > limit, exponent) = limit;  // NaN stays
        return exp(exponent);
    };
    int64_t key = 0;
    if (mask == nullptr) {
        for (; key + width <= keys; key += width) store(to + key, probability(load(from + key)));
    }
    for (; key < keys; key += width) {
        const uint8_t* bits = mask == nullptr ? nullptr : mask + key;
        put(to + key, probability(scores_at(from + key, bits, keys - key)), keys - key);
    }
}
