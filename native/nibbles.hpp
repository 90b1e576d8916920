// Codes of 4 bits, two a byte, in vectors: the lower halves of a vector's bytes are even channels, the upper halves odd
// ones, and neither is brought into another order. 16 bytes, a lane, are the channels of one step. A token of up to 32
// or 64 channels fills a quarter or half a vector, a slot, and others lie beside it.
#pragma once

#include <utility>

#include "integer_codes.hpp"

namespace softmaxkit {

constexpr int64_t bytes_of_step = channels_of_step / 2;

// Where the codes of a token lie.
struct NibbleLayout {
    explicit NibbleLayout(int64_t channels)
        : slots(channels <= 32 ? 4 : channels <= 64 ? 2 : 1),
          vectors(std::max<int64_t>((channels + 2 * bytes_of_vector - 1) / (2 * bytes_of_vector), 1)) {}

    int64_t slots;    // tokens in a vector
    int64_t vectors;  // of a token
};

// Calls work with the number of slots as a constant.
template <class Work>
void with_slots(const NibbleLayout& layout, const Work& work) {
    if (layout.slots == 4) return work(std::integral_constant<int64_t, 4>());
    if (layout.slots == 2) return work(std::integral_constant<int64_t, 2>());
    work(std::integral_constant<int64_t, 1>());
}

// Reads the tokens of a span, `slots` to a vector, one vector of each token's at a time.
template <int64_t slots>
class NibbleReader {
public:
    NibbleReader(const Codes<4>& codes, const Span& at, int64_t first, int64_t count, int64_t vector)
        : from_(codes.at(at, first) + vector * bytes_of_vector), stride_(codes.strides[2]), last_(count - 1),
          bytes_(std::min(codes.bytes() - vector * bytes_of_vector, bytes_of_vector)),
          dense_(bytes_ * slots == bytes_of_vector && stride_ == bytes_) {}

    // Tokens from one on, each in its slot, the last again where there are no more.
    __m512i operator()(int64_t token) const {
        if (dense_ && token + slots - 1 <= last_) return _mm512_loadu_si512(from_ + token * stride_);
        alignas(64) uint8_t bytes[bytes_of_vector] = {};
        for (int64_t slot = 0; slot < slots; ++slot) {
            std::memcpy(bytes + slot * (bytes_of_vector / slots), from_ + std::min(token + slot, last_) * stride_, bytes_);
        }
        return _mm512_load_si512(bytes);
    }

    // Asks for a token that comes later.
    void ask(int64_t token) const { prefetch<2>(from_ + token * stride_, 1); }

private:
    const uint8_t* const from_;
    const int64_t stride_, last_, bytes_;
    const bool dense_;
};

inline __m512i even_channels(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
inline __m512i odd_channels(__m512i bytes) { return even_channels(_mm512_srli_epi16(bytes, 4)); }

}  // namespace softmaxkit
