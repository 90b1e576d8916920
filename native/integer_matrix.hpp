// Products of unsigned with signed bytes, a tile of rows with a panel of keys at a time, and weights from scores. All
// instruction sets compute the same integers. Each has these operations of its own:
//
//   dots      computes for a tile the sums of `steps` dot products of `per_lane` codes, with `more` added to 256 times
//             the sums before. The bytes of a row are contiguous; `with` advances by `step` codes.
//   wide_dots does so for rows of integers below 2^15, whose upper bytes are `plane` bytes before their lower bytes.
//   narrow    adds `start` to the sums of a row with a panel and shifts them right, to 16-bit scores, and updates
//             `highest`, the maximum at each position of the panel.
//   hide      replaces the scores of hidden keys by 0, which is below every score, and updates `highest` with the
//             others.
//   weigh     looks up the weights of a panel: (anchor - score) * multiplier / 2^16, clamped to 0..127, indexes the
//             table. If `summed`, adds the weights to `sums`, distributed over its lanes. All words of `anchor` are
//             equal, as are those of `multiplier`.
//   true_bits packs `count` booleans, up to 64, into bits. `some` has the lowest `count` bits set; nothing beyond them
//             is read.
#pragma once

#include <type_traits>

#include "panels.hpp"
#include "vector.hpp"

#if defined(__AVX512BW__)
#include "panels_avx512.hpp"
#elif defined(__AVX2__)
#include "panels_avx2.hpp"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "panels_neon.hpp"
#else
#include "panels_plain.hpp"
#endif

namespace softmaxkit {

#if !defined(SOFTMAXKIT_WORDS)

template <int vectors>
SOFTMAXKIT_INLINE void wide_dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, int64_t plane,
                                 const Code* with, int64_t step, int64_t steps) {
    dots<vectors>(sums, rows, row, with, step, steps);
    dots<vectors, true>(sums, rows + plane, row, with, step, steps);
}

#endif

// Calls part with the number of vectors of columns, up to 4, as a compile-time constant.
SOFTMAXKIT_INLINE void with_vectors(int64_t count, const auto& part) {
    if (count == 1) return part(std::integral_constant<int, 1>{});
    if (count == 2) return part(std::integral_constant<int, 2>{});
    if (count == 3) return part(std::integral_constant<int, 3>{});
    part(std::integral_constant<int, 4>{});
}

// Computes the scores of a tile of queries with a panel of keys.
inline void score_tile(const uint8_t* queries, int64_t steps, const Code* keys, const int32_t* start, int shift,
                       uint16_t* scores, int64_t row, uint16_t* highest) {
    Sums sums[tile][4];
    dots<4>(sums, queries, per_lane * steps, keys, per_lane * panel, steps);
#pragma GCC unroll 6
    for (int64_t index = 0; index < tile; ++index) {
        narrow(sums[index], start, shift, scores + index * row, highest + index * panel);
    }
}

// Adds sums to floats.
SOFTMAXKIT_INLINE void add_to(float* to, const Sums& sums) {
    for (int64_t lane = 0; lane < lanes; lane += width) {
        const Integers some(reinterpret_cast<const int32_t*>(&sums) + lane, stdx::element_aligned);
        store(to + lane, load(to + lane) + stdx::static_simd_cast<Vector>(some));
    }
}

// Adds to a tile of float rows the products of weights and the panels' values. Weights are bytes, or two planes of
// bytes as in `wide_dots`.
template <int vectors>
void value_tile(const uint8_t* weights, int64_t row, int64_t plane, int planes, const Code* values, int64_t columns,
                int64_t steps, float* to) {
    Sums sums[tile][vectors];
    if (planes == 1) {
        dots<vectors>(sums, weights, row, values, per_lane * columns, steps);
    } else {
        wide_dots<vectors>(sums, weights, row, plane, values, per_lane * columns, steps);
    }
#pragma GCC unroll 6
    for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 4
        for (int64_t vector = 0; vector < vectors; ++vector) {
            add_to(to + index * columns + lanes * vector, sums[index][vector]);
        }
    }
}

}  // namespace softmaxkit
