// Rows of bfloat16 in AVX-512 and AVX2, a vector of 32 or 16 elements at a time: even and odd elements become float32 by
// a shift or a mask, and results are rounded and interleaved again. The maximum is taken over the bits, as integers.
//
// Each of the two has these operations of its own. `some` says which elements of a vector are within the row: it is
// all_pairs() or first_pairs(count).
//
//   load_pairs     loads elements, -infinity where masked and beyond `some`.
//   store_pairs    stores `some` elements.
//   even, odd      converts half of the elements to float32.
//   round_pairs    rounds to nearest, ties up, and interleaves. The NaN that arithmetic with bfloat16 gives stays NaN.
//   without_signs  clears the signs, and all that is beyond `some`.
//   inverted       inverts all bits but the signs.
//   larger_signed, smaller_unsigned, least: of words, as integers; `least` is the smallest unsigned one.
#pragma once

#include <bit>
#include <utility>

#include "reductions.hpp"

#if defined(__AVX512BW__)
#include "pairs_avx512.hpp"
#elif defined(__AVX2__)
#include "pairs_avx2.hpp"
#endif

#if defined(__AVX2__)

namespace softmaxkit {

constexpr int64_t pairs_width = 2 * width;  // elements of a vector

// Calls body(key, some) for all vectors of a row.
template <class Body>
SOFTMAXKIT_INLINE void sweep_pairs(int64_t keys, const Body& body) {
    int64_t key = 0;
    for (; key + pairs_width <= keys; key += pairs_width) body(key, all_pairs());
    if (key < keys) body(key, first_pairs(keys - key));
}

// The largest element of a row: that with the largest bits as a signed integer if any is positive; otherwise that with
// the smallest, since the bits of negative elements order in reverse.
struct LargestPairs {
    Pairs as_signed = all_words(INT16_MIN), as_unsigned = all_words(-1);

    SOFTMAXKIT_INLINE void add(Pairs pairs) {
        as_signed = larger_signed(as_signed, pairs);
        as_unsigned = smaller_unsigned(as_unsigned, pairs);
    }

    // The largest element; NaN if a positive NaN is among them, or nothing but NaN.
    float largest() const {
        uint16_t bits = least(inverted(as_signed)) ^ INT16_MAX;
        if (bits > INT16_MAX) bits = least(as_unsigned);
        return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    }
};

// The largest score; if the row contains NaN, the result may be NaN.
template <bool with_mask>
float row_maximum(const Scores<bfloat16, with_mask>& scores, int64_t keys) {
    LargestPairs pairs;
    sweep_pairs(keys, [&](int64_t key, auto some) { pairs.add(load_pairs(scores, key, some)); });
    return pairs.largest();
}

// The largest score, and whether all are finite.
inline std::pair<float, bool> maximum_if_finite(const Scores<bfloat16, false>& scores, int64_t keys) {
    LargestPairs pairs;
    Pairs magnitude = all_words(0);
    sweep_pairs(keys, [&](int64_t key, auto some) {
        const Pairs loaded = load_pairs(scores, key, some);
        pairs.add(loaded);
        magnitude = larger_signed(magnitude, without_signs(loaded, some));
    });
    return {pairs.largest(), (least(inverted(magnitude)) ^ INT16_MAX) < 0x7f80};
}

}  // namespace softmaxkit

#endif
