// Vector-wise reading of a row's scores and writing of its probabilities.
#pragma once

#include <array>
#include <type_traits>
#include <utility>
#include <vector>

#include "halves.hpp"
#include "prefetch.hpp"

namespace softmaxkit {

constexpr int chains = 4;  // independent accumulators, to hide the latency of an operation
using Chains = std::array<Vector, chains>;
using Full = std::integral_constant<int64_t, width>;

// Scores of a row: -infinity where masked, `rest` beyond the end.
template <class T, bool with_mask>
struct Scores {
    const T* from;
    const uint8_t* mask;

    template <class Count>
    SOFTMAXKIT_INLINE Vector operator()(int64_t key, Count count, float rest = -infinity) const {
        Vector score;
        if constexpr (std::is_same_v<Count, Full>) {
            score = load(from + key);
        } else {
            score = load_some(from + key, count, rest);
        }
        if constexpr (with_mask) score = masked(score, mask + key, count);
        return score;
    }

    Scores operator+(int64_t keys) const { return {from + keys, with_mask ? mask + keys : mask}; }
};

// A row of numbers: 0 beyond the end.
template <class T>
struct Numbers : Scores<T, false> {
    explicit Numbers(const T* from) : Scores<T, false>{from, nullptr} {}

    template <class Count>
    SOFTMAXKIT_INLINE Vector operator()(int64_t key, Count count) const {
        return Scores<T, false>::operator()(key, count, 0.0f);
    }
};

template <class T, class Count>
SOFTMAXKIT_INLINE void put(T* to, const Vector& value, Count count) {
    if constexpr (std::is_same_v<Count, Full>) {
        store(to, value);
    } else {
        store_some(to, value, count);
    }
}

#if defined(__AVX512F__)
constexpr bool can_stream = true;
#else
constexpr bool can_stream = false;
#endif

// A row of results written with non-temporal stores where the instruction set can; aligned to vectors.
template <class T>
struct Streamed {
    T* to;

    Streamed operator+(int64_t keys) const { return {to + keys}; }
};

template <class T, class Count>
SOFTMAXKIT_INLINE void put(Streamed<T> to, const Vector& value, Count count) {
    if constexpr (can_stream && std::is_same_v<Count, Full>) {
        stream(to.to, value);
    } else {
        put(to.to, value, count);
    }
}

// Prefetches the memory of `count` results, which are stored later; streamed ones need none.
template <class T>
SOFTMAXKIT_INLINE void prefetch_results(T* results, int64_t count) {
    prefetch_to_store(results, count * static_cast<int64_t>(sizeof(T)));
}
template <class T>
SOFTMAXKIT_INLINE void prefetch_results(Streamed<T>, int64_t) {}

// Calls body(key, chain, count) for each vector of a row; count is Full except for a partial last vector. The chain is
// a compile-time constant, so that per-chain variables stay in registers.
template <class Body>
SOFTMAXKIT_INLINE void sweep(int64_t keys, const Body& body) {
    int64_t key = 0;
    const auto chained = [&]<int... chain>(std::integer_sequence<int, chain...>) {
        (body(key + chain * width, std::integral_constant<int, chain>{}, Full{}), ...);
    };
    for (; key + chains * width <= keys; key += chains * width) chained(std::make_integer_sequence<int, chains>{});
    for (; key + width <= keys; key += width) body(key, std::integral_constant<int, 0>{}, Full{});
    if (key < keys) body(key, std::integral_constant<int, 0>{}, keys - key);
}

template <class T>
void fill_zero(T* to, int64_t count) {
    std::memset(static_cast<void*>(to), 0, static_cast<size_t>(count) * sizeof(T));
}

template <class T>
void fill_zero(Streamed<T> to, int64_t count) {
    fill_zero(to.to, count);
}

// Thread-local memory for one row, aligned to cache lines: a vector access across two lines takes twice as long.
template <class T>
T* scratch(int64_t count) {
    struct alignas(64) Line {
        T elements[64 / sizeof(T)];
    };
    thread_local std::vector<Line> memory;
    const size_t lines = (static_cast<size_t>(count) * sizeof(T) + sizeof(Line) - 1) / sizeof(Line);
    if (memory.size() < lines) memory.resize(lines);
    return memory.data()->elements;
}

}  // namespace softmaxkit
