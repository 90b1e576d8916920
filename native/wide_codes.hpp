// Codes of a cache, widened for products in AVX2 or NEON: see integer_codes.hpp. They are read 16 bytes at a time,
// which become vectors of 16 codes: one with 8 bits; two with 4, the lower nibbles first. Each instruction set has
// these operations of its own:
//
//   widen            writes the vectors of 16 bytes, `step` codes apart.
//   multiply_keys    returns the products of a query with as many keys as a vector has lanes. The query has a
//                    QueryVector for every 16 channels; keys are (vectors, keys, 16).
//   weave            writes the vectors of 16 bytes of `tokens_abreast` tokens, interleaved code by code. Of every
//                    `channels_of_nibbles` channels of 4 bits, even ones precede odd ones.
//   multiply_values  sums the products of WeightVectors with the woven values of `count` tokens, `step` codes apart.
#pragma once

#if defined(__AVX2__)
#include "codes_avx2.hpp"
#else
#include "codes_neon.hpp"
#endif

namespace softmaxkit {

constexpr int64_t bytes_together = 16;
constexpr int64_t codes_of_vector = 16;

template <int bits>
constexpr int64_t vectors_of_bytes = 8 / bits;

// Vectors of a token.
template <int bits>
int64_t vectors_of(const Codes<bits>& codes) {
    return (codes.bytes() + bytes_together - 1) / bytes_together * vectors_of_bytes<bits>;
}

// Loads 16 bytes, zero-padded if fewer remain.
SOFTMAXKIT_INLINE Bytes bytes_upto(const void* from, int64_t count) {
    if (count >= bytes_together) return load_bytes(from);
    if (count == bytes_together / 2) return load_half(from);
    alignas(16) uint8_t some[bytes_together] = {};
    std::memcpy(some, from, count);
    return load_bytes(some);
}

SOFTMAXKIT_INLINE Vector to_floats(const Integers& integers) { return stdx::static_simd_cast<Vector>(integers); }

}  // namespace softmaxkit
