// Products with the codes of a cache in float32, for processors with neither AVX2 nor Arm's dot products. With 8 bits,
// a token's step multiplies its score or weight; 4-bit codes are decoded, once for all heads that share them.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "codes.hpp"
#include "plain_tokens.hpp"

namespace softmaxkit {

// Decodes a few tokens of 4-bit codes to float32; beyond the end, the last token is repeated.
class FourBitTokens {
public:
    explicit FourBitTokens(const Codes<4>& codes)
        : codes_(codes), padded_(rounded_up(codes.channels, channels_of_step)), floats_(together * padded_) {}

    Tokens4<float> at(const Span& span, int64_t first, const Tokens4<uint8_t>& codes) {
        Tokens4<float> next;
        for (int64_t index = 0; index < together; ++index) {
            float* to = floats_.data() + index * padded_;
            const auto at = codes_.place(span, std::min(first + index, span.count - 1));
            const uint8_t* bytes = codes[index];
            for (int64_t group = 0; group < codes_.groups(); ++group) {
                int8_t whole[channels_of_step];
                split(bytes + group * channels_of_step / 2, codes_.channels - group * channels_of_step, whole);
                const Vector step =
                    to_float(token(codes_.steps, codes_.step_strides, at.page, span.key_head, group)[at.token]);
                for (int64_t channel = 0; channel < channels_of_step; channel += width) {
                    store(to + group * channels_of_step + channel, load(whole + channel) * step);
                }
            }
            next[index] = to;
        }
        return next;
    }

private:
    // Unpacks the codes of a step's channels to signed bytes; those beyond the last channel are meaningless.
    static void split(const uint8_t* from, int64_t channels, int8_t (&to)[channels_of_step]) {
        uint8_t some[channels_of_step / 2] = {};
        const uint8_t* pairs = from;
        if (channels < channels_of_step) pairs = std::copy_n(from, (channels + 1) / 2, some) - (channels + 1) / 2;
#if defined(__SSE2__)
        const __m128i half = _mm_set1_epi8(15), excess = _mm_set1_epi8(8);
        const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pairs));
        const __m128i even = _mm_sub_epi8(_mm_and_si128(both, half), excess);
        const __m128i odd = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(both, 4), half), excess);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi8(even, odd));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16), _mm_unpackhi_epi8(even, odd));
#else
        for (int64_t pair = 0; pair < channels_of_step / 2; ++pair) {
            to[2 * pair] = static_cast<int8_t>((pairs[pair] & 15) - 8);
            to[2 * pair + 1] = static_cast<int8_t>((pairs[pair] >> 4) - 8);
        }
#endif
    }

    const Codes<4>& codes_;
    const int64_t padded_;
    Buffer<float> floats_;
};

// Calls body(first, tokens) for a span's tokens, a few at a time; the last call repeats the last token as padding.
template <int bits, class Body>
void for_tokens(const Codes<bits>& codes, const Span& at, const Body& body) {
    Rows<bits> rows(codes, at, 0);
    const auto few = [&](int64_t first) {
        std::array<const typename Codes<bits>::Code*, together> from;
        rows.template next<together>(std::min(together, at.count - first), [&](auto token_at) {
            for (int64_t index = 0; index < together; ++index) {
                from[index] = token_at(index);
                prefetch(rows.later(ahead) + index * codes.strides[2], codes.bytes());
            }
        });
        return from;
    };
    if constexpr (bits == 8) {
        for (int64_t first = 0; first < at.count; first += together) body(first, few(first));
    } else {
        FourBitTokens tokens(codes);
        for (int64_t first = 0; first < at.count; first += together) body(first, tokens.at(at, first, few(first)));
    }
}

// Multiplies the scores or weights of all rows, `stride` apart, by the steps of a span's tokens.
inline void multiply_by_steps(const Codes<8>& codes, const Span& at, int64_t rows, float* to, int64_t stride) {
    std::vector<float> room(codes.table == nullptr ? 0 : at.count);
    const float* steps = codes.steps_of(at, 0, 0, at.count, room.data());
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t key = 0; key < at.count; ++key) to[row * stride + key] *= steps[key];
    }
}

template <int bits>
class CodedKeys {
public:
    CodedKeys(const FewQueries& queries, const Codes<bits>& codes) : queries_(queries), codes_(codes) {}

    void score(const Span& at, float* to, int64_t stride) const {
        const std::vector<const float*> queries = queries_.all(at.batch, at.key_head);
        const int64_t rows = queries_.rows();
        for_tokens(codes_, at, [&](int64_t first, const auto& from) {
            for (int64_t row = 0; row < rows; ++row) {
                multiply_keys(from, codes_.channels, queries[row], queries_.scale, to + row * stride + first);
            }
        });
        if constexpr (bits == 8) multiply_by_steps(codes_, at, rows, to, stride);
    }

private:
    const FewQueries& queries_;
    const Codes<bits>& codes_;
};

template <int bits>
class CodedValues {
public:
    CodedValues(const FewQueries& queries, const Codes<bits>& codes) : rows_(queries.rows()), codes_(codes) {}

    void add(const Span& at, float* weights, int64_t stride, float* totals, int64_t columns) const {
        if constexpr (bits == 8) multiply_by_steps(codes_, at, rows_, weights, stride);
        for_tokens(codes_, at, [&](int64_t first, const auto& from) {
            for (int64_t row = 0; row < rows_; ++row) {
                add_values(from, codes_.channels, weights + row * stride + first, totals + row * columns);
            }
        });
    }

    // Number of totals per row, and the index of a channel's total.
    int64_t columns() const { return rounded_up(codes_.channels, width); }
    int64_t place(int64_t channel) const { return channel; }

private:
    const int64_t rows_;
    const Codes<bits>& codes_;
};

}  // namespace softmaxkit
