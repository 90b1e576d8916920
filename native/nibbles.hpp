// 4-bit codes, two per byte, in vectors, without reordering: the lower nibbles of a vector's bytes are even channels,
// the upper nibbles odd channels. 16 bytes, a 128-bit lane, contain the channels that share a step. A token of up to 32
// or 64 channels fills only a quarter or half of a vector, called a slot; other tokens fill the other slots.
#pragma once

#include <utility>

#include "interleaved_bytes.hpp"

namespace softmaxkit {

constexpr int64_t bytes_of_step = channels_of_step / 2;

// How the codes of tokens are laid out in vectors.
struct NibbleLayout {
    explicit NibbleLayout(int64_t channels)
        : slots(channels <= 32 ? 4 : channels <= 64 ? 2 : 1),
          vectors(std::max<int64_t>((channels + 2 * bytes_of_vector - 1) / (2 * bytes_of_vector), 1)) {}

    // Bytes of a token in one of its vectors.
    static int64_t bytes_in(int64_t vector, const Codes<4>& codes) {
        return std::min(codes.bytes() - vector * bytes_of_vector, bytes_of_vector);
    }

    int64_t slots;    // tokens per vector
    int64_t vectors;  // per token
};

// Calls work with the number of slots as a compile-time constant.
template <class Work>
void with_slots(const NibbleLayout& layout, const Work& work) {
    if (layout.slots == 4) return work(std::integral_constant<int64_t, 4>());
    if (layout.slots == 2) return work(std::integral_constant<int64_t, 2>());
    work(std::integral_constant<int64_t, 1>());
}

// Whether 16 tokens fill their slots and are contiguous in memory. They lie in at most two pages, so the first and last
// address are enough to tell.
template <int64_t slots>
bool are_dense(const auto& token_at, int64_t bytes) {
    return bytes * slots == bytes_of_vector &&
           token_at(tokens_together - 1) == token_at(0) + (tokens_together - 1) * bytes;
}

// Loads one vector with one token per slot: `bytes` bytes of each token, starting at byte `begin`.
template <int64_t slots>
__m512i in_slots(const auto& token_at, int64_t first, int64_t begin, int64_t bytes, bool dense) {
    if (slots == 1 ? bytes == bytes_of_vector : dense) return _mm512_loadu_si512(token_at(first) + begin);
    alignas(64) uint8_t some[bytes_of_vector] = {};
    for (int64_t slot = 0; slot < slots; ++slot) {
        std::memcpy(some + slot * (bytes_of_vector / slots), token_at(first + slot) + begin, bytes);
    }
    return _mm512_load_si512(some);
}

inline __m512i even_channels(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
inline __m512i odd_channels(__m512i bytes) { return even_channels(_mm512_srli_epi16(bytes, 4)); }

}  // namespace softmaxkit
