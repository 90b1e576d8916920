// The sums of integer_matrix.hpp in AVX2, and in AVX-512 without VNNI. Products are of 16 bits, since those of bytes
// would saturate.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "panels.hpp"

namespace softmaxkit {

#if defined(__AVX512BW__)
constexpr int64_t register_bytes = 64;
#else
constexpr int64_t register_bytes = 32;
#endif
using SignedWords [[gnu::vector_size(register_bytes)]] = int16_t;
using Products [[gnu::vector_size(register_bytes), gnu::may_alias]] = int32_t;

// The sums of the products of two words each with a pair.
SOFTMAXKIT_INLINE Products multiply(const SignedWords& words, uint32_t pair) {
    const int32_t both = static_cast<int32_t>(pair);
#if defined(__AVX512BW__)
    return (Products)_mm512_madd_epi16((__m512i)words, _mm512_set1_epi32(both));
#else
    return (Products)_mm256_madd_epi16((__m256i)words, _mm256_set1_epi32(both));
#endif
}

template <class Register>
SOFTMAXKIT_INLINE Register from_memory(const void* from) {
    Register loaded;
    std::memcpy(&loaded, from, sizeof loaded);
    return loaded;
}

// `widen` writes words of a row, beginning with a given one. A vector of sums for each row of the tile stays in
// registers.
template <int vectors>
SOFTMAXKIT_INLINE void dots_of_words(Sums (&sums)[tile][vectors], const Code* with, int64_t step, int64_t steps,
                                     const auto& widen) {
    constexpr int64_t at_once = 64, registers = sizeof(Sums) / register_bytes;
    alignas(64) uint16_t words[tile][at_once * per_lane];
    for (int64_t begin = 0; begin < steps; begin += at_once) {
        const int64_t count = std::min(at_once, steps - begin);
        for (int64_t index = 0; index < tile; ++index) widen(index, begin * per_lane, count * per_lane, words[index]);
        for (int64_t vector = 0; vector < vectors; ++vector) {
            const auto sums_of = [&](int64_t index) { return reinterpret_cast<Products*>(&sums[index][vector]); };
            Products parts[tile][registers] = {};
            if (begin > 0) {
#pragma GCC unroll 6
                for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 2
                    for (int64_t part = 0; part < registers; ++part) parts[index][part] = sums_of(index)[part];
                }
            }
            const Code* from = with + begin * step + vector * lanes * per_lane;
            for (int64_t at = 0; at < count; ++at) {
                SignedWords codes[registers];
#pragma GCC unroll 2
                for (int64_t part = 0; part < registers; ++part) {
                    codes[part] = from_memory<SignedWords>(from + at * step + part * register_bytes / 2);
                }
#pragma GCC unroll 6
                for (int64_t index = 0; index < tile; ++index) {
                    const auto pair = from_memory<uint32_t>(words[index] + at * per_lane);
#pragma GCC unroll 2
                    for (int64_t part = 0; part < registers; ++part) parts[index][part] += multiply(codes[part], pair);
                }
            }
#pragma GCC unroll 6
            for (int64_t index = 0; index < tile; ++index) {
#pragma GCC unroll 2
                for (int64_t part = 0; part < registers; ++part) sums_of(index)[part] = parts[index][part];
            }
        }
    }
}

template <int vectors>
SOFTMAXKIT_INLINE void dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, const Code* with,
                            int64_t step, int64_t steps) {
    dots_of_words(sums, with, step, steps, [=](int64_t index, int64_t first, int64_t count, uint16_t* to) {
        std::copy_n(rows + index * row + first, count, to);
    });
}

template <int vectors>
SOFTMAXKIT_INLINE void wide_dots(Sums (&sums)[tile][vectors], const uint8_t* rows, int64_t row, int64_t plane,
                                 const Code* with, int64_t step, int64_t steps) {
    dots_of_words(sums, with, step, steps, [=](int64_t index, int64_t first, int64_t count, uint16_t* to) {
        const uint8_t *upper = rows + index * row + first, *lower = upper + plane;
        for (int64_t at = 0; at < count; ++at) to[at] = static_cast<uint16_t>(upper[at] << 8 | lower[at]);
    });
}

}  // namespace softmaxkit
