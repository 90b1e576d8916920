// The operations of wide_codes.hpp in NEON, by dot products of four signed bytes. Two bytes represent an integer of a
// query or weight.
#pragma once

#include <arm_neon.h>

#include "integer_codes.hpp"

namespace softmaxkit {

using WideCode = int8_t;
using Bytes = int8x16_t;
constexpr int64_t tokens_abreast = 4;

SOFTMAXKIT_INLINE Bytes load_bytes(const void* from) { return vld1q_s8(static_cast<const int8_t*>(from)); }
SOFTMAXKIT_INLINE Bytes load_half(const void* from) {
    return vcombine_s8(vld1_s8(static_cast<const int8_t*>(from)), vdup_n_s8(0));
}

// Vectors of codes: one with 8 bits; two with 4, the lower nibbles first.
template <int bits>
struct Vectors {
    Bytes of[8 / bits];

    explicit Vectors(Bytes bytes) {
        if constexpr (bits == 8) {
            of[0] = bytes;
        } else {
            of[0] = vandq_s8(bytes, vdupq_n_s8(15));
            of[1] = vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(bytes), 4));
        }
    }
};

template <int bits>
SOFTMAXKIT_INLINE void widen(Bytes bytes, int8_t* to, int64_t step) {
    const Vectors<bits> vectors(bytes);
    for (int64_t part = 0; part < 8 / bits; ++part) vst1q_s8(to + part * step, vectors.of[part]);
}

// 16 channels of a query.
struct QueryVector {
    int8_t high[16], low[16];

    void set(int64_t lane, int32_t integer) {
        high[lane] = static_cast<int8_t>(upper_byte(integer));
        low[lane] = static_cast<int8_t>(integer);
    }
};

// 256 * high + low.
SOFTMAXKIT_INLINE int32x4_t joined(int32x4_t high, int32x4_t low) { return vaddq_s32(vshlq_n_s32(high, 8), low); }

SOFTMAXKIT_INLINE Integers multiply_keys(const int8_t* keys, const QueryVector* query, int64_t vectors) {
    int32x4_t high[width] = {}, low[width] = {};
    for (int64_t vector = 0; vector < vectors; ++vector) {
        const int8x16_t upper = vld1q_s8(query[vector].high), lower = vld1q_s8(query[vector].low);
#pragma GCC unroll 4
        for (int64_t key = 0; key < width; ++key) {
            const int8x16_t codes = vld1q_s8(keys + (vector * width + key) * 16);
            high[key] = vdotq_s32(high[key], codes, upper);
            low[key] = vdotq_s32(low[key], codes, lower);
        }
    }
    const auto two = [&](int64_t key) {
        return vpaddq_s32(joined(high[key], low[key]), joined(high[key + 1], low[key + 1]));
    };
    return Integers(vpaddq_s32(two(0), two(2)));
}

constexpr int64_t channels_of_nibbles = 32;

template <int bits>
SOFTMAXKIT_INLINE void weave(const Bytes (&tokens)[tokens_abreast], int8_t* to) {
    const Vectors<bits> codes[tokens_abreast] = {Vectors<bits>(tokens[0]), Vectors<bits>(tokens[1]),
                                                 Vectors<bits>(tokens[2]), Vectors<bits>(tokens[3])};
    for (int64_t part = 0; part < 8 / bits; ++part) {
        const int8x16x4_t four{{codes[0].of[part], codes[1].of[part], codes[2].of[part], codes[3].of[part]}};
        vst4q_s8(to + 64 * part, four);
    }
}

// Quantised weights of a block of tokens.
struct WeightVectors {
    alignas(16) int8_t high[values_together], low[values_together];

    void set(int64_t token, const Integers& integers) {
        store_bytes(high + token, upper_byte(integers));
        store_bytes(low + token, integers);
    }
};

template <int64_t vectors>
SOFTMAXKIT_INLINE void multiply_values(const WeightVectors& weights, int64_t count, const int8_t* values, int64_t step,
                                       Integers (&to)[vectors]) {
    int32x4_t high[vectors] = {}, low[vectors] = {};
    for (int64_t token = 0; token < count; token += 4, values += step) {
        const auto four = [token](const int8_t* from) {
            return vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t*>(from + token)));
        };
        const int8x16_t upper = four(weights.high), lower = four(weights.low);
        for (int64_t part = 0; part < vectors; ++part) {
            const int8x16_t codes = vld1q_s8(values + 16 * part);
            high[part] = vdotq_s32(high[part], codes, upper);
            low[part] = vdotq_s32(low[part], codes, lower);
        }
    }
    for (int64_t part = 0; part < vectors; ++part) to[part] = Integers(joined(high[part], low[part]));
}

}  // namespace softmaxkit
