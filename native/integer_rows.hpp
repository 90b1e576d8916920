// Reading rows for the integer kernels: scores, with -infinity where masked, and their codes.
#pragma once

#include <vector>

#include "access.hpp"
#include "pool.hpp"
#include "reductions.hpp"
#include "rows.hpp"

namespace softmaxkit {

constexpr int32_t masked_code = -(1 << 24);  // below every code and below every difference of two codes

// Rounds up to whole vectors, so that loops over scratch memory need no remainder.
inline int64_t padded(int64_t keys) { return (keys + width - 1) / width * width; }

// Copies a row; masked scores and the padding become -infinity. Returns whether NaN or +infinity is attended.
inline bool read_scores(const float* from, const uint8_t* mask, int64_t keys, float* scores) {
    const auto all_below_infinity = [&](const auto& row) {
        Mask below(true);
        sweep(keys, [&](int64_t key, auto, auto count) {
            const Vector score = row(key, count);
            below = below && score < infinity;
            store(scores + key, score);
        });
        return stdx::all_of(below);
    };
    return mask != nullptr ? !all_below_infinity(Scores<float, true>{from, mask})
                           : !all_below_infinity(Scores<float, false>{from, nullptr});
}

// Encodes real scores: divides by the scale, rounds and saturates.
struct ScoreCodes {
    double scale;
    int32_t lowest, highest;

    // Returns the highest code, or `masked_code` for a fully masked row.
    int32_t encode(const float* __restrict scores, int32_t* __restrict codes, int64_t count) const {
        constexpr double magic = 0x1.8p52;  // adding and subtracting it rounds to an integer, ties to even
        const double least = lowest, most = highest;
        int32_t maximum = masked_code;
        for (int64_t key = 0; key < count; ++key) {
            double steps = static_cast<double>(scores[key]) / scale;
            steps = steps < most ? steps : most;
            steps = steps > least ? steps : least;
            const int32_t code = static_cast<int32_t>((steps + magic) - magic);
            codes[key] = scores[key] == -infinity ? masked_code : code;
            maximum = std::max(maximum, codes[key]);
        }
        return maximum;
    }
};

// Replaces indices into a table by its entries and returns their sum. The indices are computed in a separate loop,
// which the compiler can vectorise.
inline int64_t look_up(const int32_t* __restrict table, int32_t* __restrict places, int64_t count) {
    int64_t sum = 0;
    for (int64_t key = 0; key < count; ++key) {
        places[key] = table[places[key]];
        sum += places[key];
    }
    return sum;
}

// The maximum of `count` codes and `least`.
inline int32_t highest_of(const int32_t* codes, int64_t count, int32_t least) {
    for (int64_t key = 0; key < count; ++key) least = std::max(least, codes[key]);
    return least;
}

constexpr int64_t least_integer_work = 1 << 13;  // minimum elements per thread for another thread to pay off

// Calls row(scores, invalid, keys, to, head) for all rows, where each thread creates its own row = make(padded keys).
template <class Make>
void visit_integer_rows(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
                        const Make& make) {
    const auto work = [&](int64_t begin, int64_t end) {
        std::vector<float> scores(padded(layout.keys));
        auto row = make(padded(layout.keys));
        const auto visit = [&](const float* source, float* result, const uint8_t* bits, int64_t keys,
                               const Place& place) {
            const bool invalid = read_scores(source, bits, keys, scores.data());
            row(scores.data(), invalid, keys, result, place.head);
        };
        visit_rows<float>(from, to, mask, layout, begin, end, visit);
    };
    const int64_t least = std::max<int64_t>(1, least_integer_work / std::max<int64_t>(layout.keys, 1));
    parallel_for(layout.rows(), least, threads, work);
}

// Processes all rows with the function object Row(tables, padded keys).
template <class Row, class Tables>
void run_integer_rows(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
                      const Tables& tables) {
    visit_integer_rows(from, to, mask, layout, threads, [&](int64_t keys) { return Row(tables, keys); });
}

// Converts the address of an array from Python.
template <class T>
const T* pointer(uintptr_t address) {
    return reinterpret_cast<const T*>(address);
}

}  // namespace softmaxkit
