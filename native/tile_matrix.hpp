// The operations of integer_matrix.hpp for the 32 rows of two AMX tiles, with the same integers, and products of
// bfloat16. Sums are 2 x 2 tiles, so that each loaded tile of either operand is used twice; they reach vector registers
// through memory.
#pragma once

#include <type_traits>

#include "integer_matrix.hpp"

#if defined(SOFTMAXKIT_TILES)

namespace softmaxkit {

constexpr int64_t tile_pair = 2 * tiles::rows;  // rows at once

// Sums of 32 rows and the columns of four tiles. The row stride is not a power of two, as such rows would map to few
// sets of the cache.
struct alignas(64) TileSums {
    static constexpr int64_t row = 4 * lanes + lanes;
    int32_t sums[tile_pair * row];

    const int32_t* of(int64_t index) const { return sums + index * row; }

    // Products of an operand of 32 rows with an operand of 16 or 32 columns: `load_rows` loads the rows, for any number
    // of calls of `add`.
    static void load_rows(const uint8_t* from, int64_t stride) {
        tiles::load<4>(from, stride);
        tiles::load<5>(from + tiles::rows * stride, stride);
    }
    template <class Element, int columns>
    static void add(const uint8_t* with, int64_t stride) {
        tiles::load<6>(with, stride);
        dot<Element, 0, 4, 6>();
        dot<Element, 1, 5, 6>();
        if constexpr (columns == 2) {
            tiles::load<7>(with + tiles::row_bytes, stride);
            dot<Element, 2, 4, 7>();
            dot<Element, 3, 5, 7>();
        }
    }
    // Multiplies unsigned bytes of the rows with signed bytes, or bfloat16 with bfloat16.
    template <class Element, int sums, int left, int right>
    static void dot() {
        if constexpr (std::is_same_v<Element, int8_t>) {
            tiles::dot_bytes<sums, left, right>();
        } else {
            tiles::dot_bfloat16<sums, left, right>();
        }
    }
    template <int columns>
    static void clear() {
        tiles::zero<0>();
        tiles::zero<1>();
        if constexpr (columns == 2) {
            tiles::zero<2>();
            tiles::zero<3>();
        }
    }
    template <int columns>
    void store_tiles(int64_t column) {
        store<columns>(sums + column * lanes, row);
    }

    // Loads or stores the sums; rows are `stride` lanes apart in memory.
    template <int columns, class Lane>
    static void load(const Lane* from, int64_t stride) {
        const int64_t bytes = stride * static_cast<int64_t>(sizeof(Lane));
        tiles::load<0>(from, bytes);
        tiles::load<1>(from + tiles::rows * stride, bytes);
        if constexpr (columns == 2) {
            tiles::load<2>(from + lanes, bytes);
            tiles::load<3>(from + lanes + tiles::rows * stride, bytes);
        }
    }
    template <int columns, class Lane>
    static void store(Lane* to, int64_t stride) {
        const int64_t bytes = stride * static_cast<int64_t>(sizeof(Lane));
        tiles::store<0>(to, bytes);
        tiles::store<1>(to + tiles::rows * stride, bytes);
        if constexpr (columns == 2) {
            tiles::store<2>(to + lanes, bytes);
            tiles::store<3>(to + lanes + tiles::rows * stride, bytes);
        }
    }
};

// Adds the products of 32 rows, stored tile by tile, with the columns of one or two tiles, over `count` tiles.
template <class Element, int tiles_wide>
void add_products(const uint8_t* rows, const uint8_t* with, int64_t columns, int64_t count) {
    for (int64_t at = 0; at < count; ++at) {
        TileSums::load_rows(rows, tiles::row_bytes);
        TileSums::add<Element, tiles_wide>(with, 4 * columns);
        rows += tile_pair * tiles::row_bytes;
        with += tiles::rows * 4 * columns;
    }
}

// Computes the sums of 32 queries, `stride` bytes each, with a panel of keys. Queries of a single tile's width must
// have been loaded by `load_rows`.
template <class Element>
void score_panel(const uint8_t* queries, int64_t stride, const uint8_t* keys, TileSums& sums) {
    constexpr int64_t step = panel * 4;
    for (int64_t half = 0; half < 2; ++half) {
        TileSums::clear<2>();
        const uint8_t* with = keys + half * 2 * tiles::row_bytes;
        for (int64_t part = 0; part < stride; part += tiles::row_bytes, with += tiles::rows * step) {
            if (stride > tiles::row_bytes) TileSums::load_rows(queries + part, stride);
            TileSums::add<Element, 2>(with, step);
        }
        sums.store_tiles<2>(2 * half);
    }
}

// Turns the sums of `rows` rows into scores, shifted to 16 bits, and updates `highest`, the maximum at each position of
// half a panel.
inline void narrow_panel(const TileSums& sums, int64_t rows, const int32_t* start, int shift, uint16_t* scores,
                         uint16_t* highest) {
    const __m512i by = _mm512_set1_epi32(shift);
    const auto from = [start](int64_t vector) { return _mm512_load_si512(start + lanes * vector); };
    const __m512i from_0 = from(0), from_1 = from(1), from_2 = from(2), from_3 = from(3);
    for (int64_t row = 0; row < rows; ++row) {
        uint16_t* to = scores + row * panel;
        __builtin_prefetch(to + tile_pair * panel, 1);
        __builtin_prefetch(to + tile_pair * panel + panel / 2, 1);
        const auto shifted = [&](const __m512i& add, int64_t vector) {
            return _mm512_srav_epi32(_mm512_add_epi32(add, _mm512_load_si512(sums.of(row) + lanes * vector)), by);
        };
        const __m512i one = _mm512_packus_epi32(shifted(from_0, 0), shifted(from_1, 1));
        const __m512i other = _mm512_packus_epi32(shifted(from_2, 2), shifted(from_3, 3));
        _mm512_store_si512(to, one);
        _mm512_store_si512(to + panel / 2, other);
        uint16_t* top = highest + row * panel;
        _mm512_store_si512(top, _mm512_max_epu16(_mm512_max_epu16(one, other), _mm512_load_si512(top)));
    }
}

// Adds to rows of floats the products of weights and the panels' values. Weights are bytes, or two planes of bytes as
// in `wide_dots`.
template <int vectors>
void value_block(const uint8_t* weights, int64_t rows, int64_t plane, int planes, const uint8_t* values,
                 int64_t columns, int64_t panels, TileSums* sums, float* to) {
    const auto multiply = [&]<int tiles_wide>(std::integral_constant<int, tiles_wide>, int64_t column, int64_t lower) {
        TileSums::clear<tiles_wide>();
        add_products<int8_t, tiles_wide>(weights + lower * plane, values + column * tiles::row_bytes, columns, panels);
        sums[lower].store_tiles<tiles_wide>(column);
    };
    for (int64_t lower = 0; lower < planes; ++lower) {
        multiply(std::integral_constant<int, std::min(vectors, 2)>{}, 0, lower);
        if constexpr (vectors > 2) multiply(std::integral_constant<int, vectors - 2>{}, 2, lower);
    }
    for (int64_t row = 0; row < rows; ++row) {
#pragma GCC unroll 4
        for (int64_t vector = 0; vector < vectors; ++vector) {
            const auto part = [&](int64_t lower) {
                Sums some;
                std::memcpy(&some, sums[lower].of(row) + lanes * vector, sizeof some);
                return some;
            };
            add_to(to + row * columns + lanes * vector, planes == 1 ? part(0) : (part(0) << 8) + part(1));
        }
    }
}

}  // namespace softmaxkit

#endif
