// The operations of integer_matrix.hpp in portable C++.
#pragma once

#include <algorithm>

#include "panels.hpp"

namespace softmaxkit {

// Loops of a constant length within one vector of sums, which the compiler vectorises.
SOFTMAXKIT_INLINE void dot(Sums& sums, const uint8_t* four, const Code* with) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
        int32_t sum = 0;
        for (int64_t byte = 0; byte < 4; ++byte) sum += four[byte] * with[4 * lane + byte];
        sums[lane] += sum;
    }
}

template <int vectors, bool more = false>
SOFTMAXKIT_INLINE void dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, const Code* with,
                            int64_t step, int64_t steps) {
    for (auto& row_sums : sums) {
        for (Sums& some : row_sums) some = more ? some << 8 : Sums{};
    }
    for (int64_t at = 0; at < steps; ++at) {
#pragma GCC unroll 6
        for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 4
            for (int64_t vector = 0; vector < vectors; ++vector) {
                dot(sums[index][vector], rows + index * row + 4 * at, with + at * step + 64 * vector);
            }
        }
    }
}

inline void narrow(const Sums (&sums)[4], const int32_t* start, int shift, uint16_t* scores, uint16_t* highest) {
    for (int64_t key = 0; key < panel; ++key) {
        const int64_t lane = lane_of(key);
        scores[key] = static_cast<uint16_t>((sums[lane / lanes][lane % lanes] + start[lane]) >> shift);
        highest[key] = std::max(highest[key], scores[key]);
    }
}

inline void hide(uint16_t* scores, uint64_t visible, uint16_t* highest) {
    for (int64_t key = 0; key < panel; ++key) {
        if ((visible >> key & 1) == 0) scores[key] = 0;
        highest[key] = std::max(highest[key], scores[key]);
    }
}

template <bool summed>
SOFTMAXKIT_INLINE void weigh(const uint16_t* scores, const Words& anchor, const Words& multiplier, const uint8_t* table,
                             uint64_t visible, uint8_t* weights, Sums& sums) {
    for (int64_t key = 0; key < panel; ++key) {
        const uint32_t distance = static_cast<uint32_t>(std::max(anchor[0] - scores[key], 0));
        const uint32_t code = std::min<uint32_t>(distance * multiplier[0] >> 16, codes - 1);
        weights[key] = visible >> key & 1 ? table[code] : 0;
        if constexpr (summed) sums[key / 4] += weights[key];
    }
}

inline uint64_t true_bits(const uint8_t* from, uint64_t, int64_t count) {
    uint64_t bits = 0;
    for (int64_t key = 0; key < count; ++key) bits |= static_cast<uint64_t>(from[key] != 0) << key;
    return bits;
}

}  // namespace softmaxkit
