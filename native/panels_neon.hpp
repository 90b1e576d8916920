// The operations of integer_matrix.hpp in NEON, with Armv8.2's dot products of four bytes.
#pragma once

#include <arm_neon.h>

#include <algorithm>

#include "panels.hpp"

namespace softmaxkit {

SOFTMAXKIT_INLINE uint8x16_t four_bytes(const uint8_t* from) {
    return vreinterpretq_u8_u32(vld1q_dup_u32(reinterpret_cast<const uint32_t*>(from)));
}

// The sum of the bytes of a row.
SOFTMAXKIT_INLINE uint32_t sum_of(const uint8_t* row, int64_t steps) {
    const uint8x16_t one = vdupq_n_u8(1);
    uint32x4_t sums = vdupq_n_u32(0);
    int64_t at = 0;
    for (; at + 4 <= steps; at += 4) sums = vdotq_u32(sums, vld1q_u8(row + 4 * at), one);
    uint32_t sum = vaddvq_u32(sums);
    for (; at < steps; ++at) sum += vgetq_lane_u32(vdotq_u32(vdupq_n_u32(0), four_bytes(row + 4 * at), one), 0);
    return sum;
}

// Signed bytes are made unsigned by adding 128, since only bytes of one kind can be multiplied. Sums of two vectors of
// four lanes for each row stay in registers.
template <int vectors, bool more = false>
SOFTMAXKIT_INLINE void dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, const Code* with,
                            int64_t step, int64_t steps) {
    uint32x4_t excess[tile];
    for (int64_t index = 0; index < tile; ++index) excess[index] = vdupq_n_u32(128 * sum_of(rows + index * row, steps));
    for (int64_t half = 0; half < 2 * vectors; ++half) {
        const auto half_of = [&](int64_t index) { return reinterpret_cast<uint32_t*>(sums[index]) + 8 * half; };
        uint32x4_t parts[tile][2];
#pragma GCC unroll 6
        for (int64_t index = 0; index < tile; ++index) {
            for (int64_t part = 0; part < 2; ++part) {
                const uint32x4_t before = more ? vld1q_u32(half_of(index) + 4 * part) : vdupq_n_u32(0);
                parts[index][part] = vsubq_u32(vshlq_n_u32(before, 8), excess[index]);
            }
        }
        const uint8_t* from = reinterpret_cast<const uint8_t*>(with) + 32 * half;
        const auto add = [&](const uint8x16_t (&bytes)[tile], auto lane) {
            for (int64_t part = 0; part < 2; ++part) {
                const uint8x16_t columns = veorq_u8(vld1q_u8(from + 16 * part), vdupq_n_u8(128));
#pragma GCC unroll 6
                for (int64_t index = 0; index < tile; ++index) {
                    parts[index][part] = vdotq_laneq_u32(parts[index][part], columns, bytes[index], lane);
                }
            }
            from += step;
        };
        uint8x16_t bytes[tile];
        int64_t at = 0;
        for (; at + 4 <= steps; at += 4) {
#pragma GCC unroll 6
            for (int64_t index = 0; index < tile; ++index) bytes[index] = vld1q_u8(rows + index * row + 4 * at);
            add(bytes, std::integral_constant<int, 0>{});
            add(bytes, std::integral_constant<int, 1>{});
            add(bytes, std::integral_constant<int, 2>{});
            add(bytes, std::integral_constant<int, 3>{});
        }
        for (; at < steps; ++at) {
            for (int64_t index = 0; index < tile; ++index) bytes[index] = four_bytes(rows + index * row + 4 * at);
            add(bytes, std::integral_constant<int, 0>{});
        }
#pragma GCC unroll 6
        for (int64_t index = 0; index < tile; ++index) {
            for (int64_t part = 0; part < 2; ++part) vst1q_u32(half_of(index) + 4 * part, parts[index][part]);
        }
    }
}

// Keys of a panel's scores are in their natural order.
inline void narrow(const Sums (&sums)[4], const int32_t* start, int shift, uint16_t* scores, uint16_t* highest) {
    const int32x4_t left = vdupq_n_s32(-shift);
    for (int64_t key = 0; key < panel; key += 8) {
        const auto shifted = [&](int64_t first) {
            const int64_t lane = lane_of(first);
            const int32x4_t some = vld1q_s32(reinterpret_cast<const int32_t*>(&sums) + lane);
            return vshlq_s32(vaddq_s32(some, vld1q_s32(start + lane)), left);
        };
        const uint16x8_t words = vqmovun_high_s32(vqmovun_s32(shifted(key)), shifted(key + 4));
        vst1q_u16(scores + key, words);
        vst1q_u16(highest + key, vmaxq_u16(words, vld1q_u16(highest + key)));
    }
}

// The bits of a byte, as the lanes of a vector in which they select.
constexpr uint16_t places_of_words[8] = {1, 2, 4, 8, 16, 32, 64, 128};
constexpr uint8_t places_of_bytes[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};

inline void hide(uint16_t* scores, uint64_t visible, uint16_t* highest) {
    const uint16x8_t places = vld1q_u16(places_of_words);
    for (int64_t key = 0; key < panel; key += 8) {
        const uint16x8_t seen = vtstq_u16(vdupq_n_u16(static_cast<uint16_t>(visible >> key)), places);
        const uint16x8_t shown = vandq_u16(vld1q_u16(scores + key), seen);
        vst1q_u16(scores + key, shown);
        vst1q_u16(highest + key, vmaxq_u16(shown, vld1q_u16(highest + key)));
    }
}

template <bool summed>
SOFTMAXKIT_INLINE void weigh(const uint16_t* scores, const Words& anchor, const Words& multiplier, const uint8_t* table,
                             uint64_t visible, uint8_t* weights, Sums& sums) {
    const uint16x8_t anchors = vdupq_n_u16(anchor[0]);
    const uint16x4_t multipliers = vdup_n_u16(multiplier[0]);
    const uint8x16_t places = vld1q_u8(places_of_bytes);
    const uint8x16x4_t low = vld1q_u8_x4(table), high = vld1q_u8_x4(table + 64);
    for (int64_t part = 0; part < panel / 16; ++part) {
        const auto codes_of = [&](int64_t key) {  // the upper halves of the products
            const uint16x8_t distance = vqsubq_u16(anchors, vld1q_u16(scores + key));
            const uint32x4_t first = vmull_u16(vget_low_u16(distance), multipliers);
            const uint32x4_t second = vmull_high_u16(distance, vcombine_u16(multipliers, multipliers));
            return vuzp2q_u16(vreinterpretq_u16_u32(first), vreinterpretq_u16_u32(second));
        };
        const uint8x16_t wide = vqmovn_high_u16(vqmovn_u16(codes_of(16 * part)), codes_of(16 * part + 8));
        const uint8x16_t code = vminq_u8(wide, vdupq_n_u8(codes - 1));
        const uint8x16_t entries = vqtbx4q_u8(vqtbl4q_u8(low, code), high, vsubq_u8(code, vdupq_n_u8(64)));
        const auto bits = [&](int64_t byte) { return vdup_n_u8(static_cast<uint8_t>(visible >> 8 * byte)); };
        const uint8x16_t seen = vtstq_u8(vcombine_u8(bits(2 * part), bits(2 * part + 1)), places);
        const uint8x16_t bytes = vandq_u8(entries, seen);
        vst1q_u8(weights + 16 * part, bytes);
        if constexpr (summed) {
            uint32_t* to = reinterpret_cast<uint32_t*>(&sums) + 4 * part;
            vst1q_u32(to, vdotq_u32(vld1q_u32(to), bytes, vdupq_n_u8(1)));
        }
    }
}

inline uint64_t true_bits(const uint8_t* from, uint64_t, int64_t count) {
    uint8_t bytes[panel] = {};
    std::memcpy(bytes, from, static_cast<size_t>(count));
    const auto bits = [&](int64_t part) {
        const uint8x16_t some = vld1q_u8(bytes + 16 * part);
        return vandq_u8(vtstq_u8(some, some), vld1q_u8(places_of_bytes));
    };
    const uint8x16_t pairs = vpaddq_u8(vpaddq_u8(bits(0), bits(1)), vpaddq_u8(bits(2), bits(3)));
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(pairs, pairs)), 0);
}

}  // namespace softmaxkit
