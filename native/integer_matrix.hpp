// 8-bit matrices in panels of 64 keys, and their dot products of unsigned with signed bytes, four at a time. Each
// 32-bit lane stores four bytes along the axis that is summed. All instruction sets compute the same integers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "tiles.hpp"

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#define SOFTMAXKIT_VNNI
#include <immintrin.h>
#endif

namespace softmaxkit {

constexpr int64_t lanes = 16;                 // 32-bit lanes of a vector, independent of the instruction set
constexpr int64_t panel = 64;                 // keys side by side
constexpr int64_t panel_steps = panel / 4;    // four-byte dot products over the keys of a panel
constexpr int64_t tile = 6;                   // rows at once: with four vectors of sums each, they fill the registers
constexpr int64_t codes = 128;                // entries of a table of weights
constexpr int64_t middle = 1 << 14;           // the 16-bit score that represents 0; scores reach 127 * 127 either way
using Sums [[gnu::vector_size(64)]] = int32_t;
using Floats [[gnu::vector_size(64)]] = float;
using Words [[gnu::vector_size(64)]] = uint16_t;

// A cache line; `Buffer` is memory aligned to cache lines and not initialised.
struct alignas(64) Line {
    uint8_t bytes[64];
};

template <class T>
class Buffer {
public:
    explicit Buffer(int64_t count)
        : lines_(std::make_unique_for_overwrite<Line[]>((count * sizeof(T) + sizeof(Line) - 1) / sizeof(Line))) {}
    T* data() { return reinterpret_cast<T*>(lines_.get()); }
    const T* data() const { return reinterpret_cast<const T*>(lines_.get()); }

private:
    std::unique_ptr<Line[]> lines_;
};

inline int64_t rounded_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Four-byte dot products over a key's channels; AMX tiles are padded to full size.
inline int64_t key_steps(int64_t channels) {
#if defined(SOFTMAXKIT_TILES)
    return rounded_up((channels + 3) / 4, tiles::rows);
#else
    return (channels + 3) / 4;
#endif
}

// The position of a key's dwords within its panel. Narrowing from 32 to 16 and 8 bits interleaves vectors; this order
// compensates for it, so that narrowed keys are in their natural order.
inline int64_t lane_of(int64_t key) { return key % 16 / 4 * lanes + key / 16 * 4 + key % 4; }

// Adds to each lane the dot product of the same four unsigned bytes with the lane's own four signed bytes.
inline void dot(Sums& sums, const uint8_t* four, const int8_t* with) {
#if defined(SOFTMAXKIT_VNNI)
    int32_t all;
    std::memcpy(&all, four, sizeof all);
    sums = (Sums)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(all), _mm512_loadu_si512(with));
#else
    for (int64_t lane = 0; lane < lanes; ++lane) {
        int32_t sum = 0;
        for (int64_t byte = 0; byte < 4; ++byte) sum += four[byte] * with[4 * lane + byte];
        sums[lane] += sum;
    }
#endif
}

// Accumulates a tile over `steps` four-byte dot products. The bytes of a row are contiguous; `with` advances by `step`
// bytes.
template <int vectors>
[[gnu::always_inline]] inline void dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row,
                                        const int8_t* with, int64_t step, int64_t steps) {
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

// Computes the scores of a tile of queries with a panel of keys, shifted to 16 bits, and updates `highest`, the maximum
// at each position of the panel.
inline void score_tile(const uint8_t* queries, int64_t steps, const int8_t* keys, const int32_t* start, int shift,
                       uint16_t* scores, int64_t row, uint16_t* highest) {
    Sums sums[tile][4];
#pragma GCC unroll 6
    for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 4
        for (int64_t vector = 0; vector < 4; ++vector) {
            std::memcpy(&sums[index][vector], start + lanes * vector, sizeof(Sums));
        }
    }
    dots<4>(sums, queries, 4 * steps, keys, 4 * 64, steps);
#pragma GCC unroll 6
    for (int64_t index = 0; index < tile; ++index) {
        uint16_t* to = scores + index * row;
        uint16_t* top = highest + index * panel;
#if defined(SOFTMAXKIT_VNNI)
        const __m128i by = _mm_cvtsi32_si128(shift);
#pragma GCC unroll 2
        for (int64_t half = 0; half < 2; ++half) {
            const __m512i narrow = _mm512_packus_epi32(_mm512_sra_epi32((__m512i)sums[index][2 * half], by),
                                                       _mm512_sra_epi32((__m512i)sums[index][2 * half + 1], by));
            _mm512_store_si512(to + 32 * half, narrow);
            _mm512_store_si512(top + 32 * half, _mm512_max_epu16(narrow, _mm512_load_si512(top + 32 * half)));
        }
#else
        for (int64_t key = 0; key < panel; ++key) {
            const int64_t lane = lane_of(key);
            to[key] = static_cast<uint16_t>(sums[index][lane / lanes][lane % lanes] >> shift);
            top[key] = std::max(top[key], to[key]);
        }
#endif
    }
}

// Replaces the scores of hidden keys by 0, which is below every score, and updates `highest` with the others.
inline void hide(uint16_t* scores, uint64_t visible, uint16_t* highest) {
#if defined(SOFTMAXKIT_VNNI)
    for (int half = 0; half < 2; ++half) {
        uint32_t places = 0;
        for (int group = 0; group < 4; ++group) {
            places |= static_cast<uint32_t>(visible >> (16 * group + 8 * half) & 0xff) << 8 * group;
        }
        const __m512i shown = _mm512_maskz_loadu_epi16(places, scores + 32 * half);
        _mm512_store_si512(scores + 32 * half, shown);
        _mm512_store_si512(highest + 32 * half, _mm512_max_epu16(shown, _mm512_load_si512(highest + 32 * half)));
    }
#else
    for (int64_t key = 0; key < panel; ++key) {
        if ((visible >> key & 1) == 0) scores[key] = 0;
        highest[key] = std::max(highest[key], scores[key]);
    }
#endif
}

// Looks up the weights of a panel: (anchor - score) * multiplier / 2^16, clamped to 0..127, indexes the table. If
// `summed`, adds the weights to `sums`, distributed over its lanes. All words of `anchor` are equal, as are those of
// `multiplier`.
template <bool summed>
void weigh(const uint16_t* scores, const Words& anchor, const Words& multiplier, const uint8_t* table,
           uint64_t visible, uint8_t* weights, Sums& sums) {
#if defined(SOFTMAXKIT_VNNI)
    const auto code = [&](int64_t half) {
        return _mm512_mulhi_epu16(_mm512_subs_epu16((__m512i)anchor, _mm512_load_si512(scores + 32 * half)),
                                  (__m512i)multiplier);
    };
    const __m512i bytes =
        _mm512_maskz_permutex2var_epi8(visible, _mm512_loadu_si512(table), _mm512_packs_epi16(code(0), code(1)),
                                       _mm512_loadu_si512(table + 64));
    _mm512_store_si512(weights, bytes);
    if constexpr (summed) sums = (Sums)_mm512_dpbusd_epi32((__m512i)sums, bytes, _mm512_set1_epi8(1));
#else
    for (int64_t key = 0; key < panel; ++key) {
        const uint32_t distance = static_cast<uint32_t>(std::max(anchor[0] - scores[key], 0));
        const uint32_t code = std::min<uint32_t>(distance * multiplier[0] >> 16, codes - 1);
        weights[key] = visible >> key & 1 ? table[code] : 0;
        if constexpr (summed) sums[key / 4] += weights[key];
    }
#endif
}

// Adds sums times a power of two to floats.
inline void add_to(float* to, const Sums& sums, float power) {
    Floats total;
    std::memcpy(&total, to, sizeof total);
    total += power * __builtin_convertvector(sums, Floats);
    std::memcpy(to, &total, sizeof total);
}

// Adds to a tile of float rows the products of weights and the panels' values, times a power of two.
template <int vectors>
void value_tile(const uint8_t* weights, int64_t row, const int8_t* values, int64_t columns, int64_t steps, float power,
                float* to) {
    Sums sums[tile][vectors] = {};
    dots<vectors>(sums, weights, row, values, 4 * columns, steps);
#pragma GCC unroll 6
    for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 4
        for (int64_t vector = 0; vector < vectors; ++vector) {
            add_to(to + index * columns + lanes * vector, sums[index][vector], power);
        }
    }
}

// Packs `count` booleans, up to 64, into bits. `some` has the lowest `count` bits set; nothing beyond them is read.
inline uint64_t true_bits(const uint8_t* from, uint64_t some, int64_t count) {
#if defined(SOFTMAXKIT_VNNI)
    (void)count;
    const __m512i bytes = _mm512_maskz_loadu_epi8(some, from);
    return _mm512_test_epi8_mask(bytes, bytes);
#else
    (void)some;
    uint64_t bits = 0;
    for (int64_t key = 0; key < count; ++key) bits |= static_cast<uint64_t>(from[key] != 0) << key;
    return bits;
#endif
}

}  // namespace softmaxkit
