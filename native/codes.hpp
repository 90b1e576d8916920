// Keys and values of a cache as codes of 8 or of 4 bits. A code times its step is a number; of 8 bits a token has one
// step, of 4 bits every 32 of its channels have one. Two codes of 4 bits share a byte, the first in the lower half,
// and are stored plus 8.
#pragma once

#include "few_queries.hpp"
#include "quantise.hpp"

namespace softmaxkit {

constexpr int64_t channels_of_step = 32;  // of codes of 4 bits

template <int bits>
struct Codes {
    static_assert(bits == 8 || bits == 4);
    using Code = std::conditional_t<bits == 8, int8_t, uint8_t>;
    using Step = std::conditional_t<bits == 8, float, bfloat16>;

    const Code* from;
    const Step* steps;                       // (batch, key heads, groups, tokens), token by token
    std::array<int64_t, 3> strides;          // in bytes, of batch, key head, token
    std::array<int64_t, 3> step_strides;     // of batch, key head, group
    int64_t channels;

    int64_t groups() const { return bits == 8 ? 1 : (channels + channels_of_step - 1) / channels_of_step; }
    int64_t bytes() const { return bits == 8 ? channels : (channels + 1) / 2; }
    const Code* at(const Span& span, int64_t index) const {
        return token(from, strides, span.batch, span.key_head, span.first + index);
    }
    // Steps of consecutive tokens of a span, from one of them on.
    const Step* steps_at(const Span& span, int64_t group, int64_t index) const {
        return token(steps, step_strides, span.batch, span.key_head, group) + span.first + index;
    }
};

}  // namespace softmaxkit
