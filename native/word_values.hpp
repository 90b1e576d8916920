// The values of a cache times their weights, in 16-bit words: see integer_codes.hpp and word_codes.hpp.
#pragma once

#include "word_codes.hpp"

namespace softmaxkit {

template <int bits>
class CodedValues {
public:
    CodedValues(const FewQueries& queries, const Codes<bits>& codes) : rows_(queries.rows()), codes_(codes) {}

    // Number of totals per row, and the index of a channel's total.
    int64_t columns() const { return padded_channels(codes_); }
    int64_t place(int64_t channel) const {
        if constexpr (bits == 8) return channel;
        return channel / (2 * width) * (2 * width) + channel % 2 * width + channel % (2 * width) / 2;
    }

    // Adds the values times their weights to the totals of all rows, `columns` apart.
    void add(const Span& at, const float* weights, int64_t stride, float* totals, int64_t columns) const {
        std::vector<Block> blocks(rows_);
        Buffer<int16_t> values(values_together * channels_of_line);
        typename Codes<bits>::Step room[values_together];
        for (int64_t first = 0; first < at.count; first += values_together) {
            const int64_t count = std::min(values_together, at.count - first);
            for (int64_t channel = 0; channel < columns; channel += channels) {
                const int64_t in_line = channel % channels_of_line;
                if (in_line == 0) interleave(at, first, count, channel * bits / 8, values.data());
                if (bits == 4 || channel == 0) {
                    const int64_t group = channel / channels_of_step;
                    prefetch<2>(codes_.later_steps(at, group, first + values_ahead), count * sizeof(*room));
                    const auto* steps = codes_.steps_of(at, group, first, count, room);
                    for (int64_t row = 0; row < rows_; ++row) {
                        pack(weights + row * stride + first, steps, count, blocks[row]);
                    }
                }
                for (int64_t row = 0; row < rows_; ++row) {
                    multiply(blocks[row], (count + 1) / 2, values.data() + 2 * in_line,
                             totals + row * columns + channel);
                }
            }
        }
    }

private:
    static constexpr int64_t channels = vectors_of_bytes<bits> * words_of_vector;  // of the bytes read together
    static constexpr int64_t channels_of_line = cache_line * 8 / bits;
    static_assert(bits == 8 || channels == channels_of_step);
    static constexpr int64_t vectors = channels / width;  // of totals

    // Quantised weights of a row.
    struct Block {
        alignas(32) int16_t words[values_together];
        IntegerWeights integers;
    };

    template <class Step>
    static void pack(const float* weights, const Step* steps, int64_t count, Block& to) {
        to.integers = integers_of<values_together>(weights, steps, count, [&](int64_t token, const Integers& codes) {
            const __m256i words = _mm256_packs_epi32(static_cast<__m256i>(codes), _mm256_setzero_si256());
            _mm_store_si128(reinterpret_cast<__m128i*>(to.words + token),
                            _mm256_castsi256_si128(_mm256_permute4x64_epi64(words, 0b1000)));
        });
    }

    // Widens a cache line of each token and interleaves two tokens at a time: (tokens / 2, vectors of the line, 8
    // channels, 2). The last token is repeated as padding. With a pair's vectors side by side, stores are one stream.
    void interleave(const Span& at, int64_t first, int64_t count, int64_t line, int16_t* to) const {
        constexpr int64_t few = 8;
        const int64_t end = std::min(line + cache_line, codes_.bytes());
        Rows<bits> rows(codes_, at, first);
        for (int64_t token = 0; token < count; token += few) {
            rows.template next<few>(std::min(few, count - token), [&](auto token_at) {
                const auto* later = rows.later(values_ahead) + line;
                for (int64_t index = 0; index < few; ++index) prefetch<2>(later + index * codes_.strides[2], 1);
                for (int64_t begin = line; begin < end; begin += bytes_together) {
                    int16_t* place = to + token * channels_of_line + 2 * (begin - line) * 8 / bits;
#pragma GCC unroll 4
                    for (int64_t index = 0; index < few; index += 2, place += 2 * channels_of_line) {
                        const __m128i one = bytes_upto(token_at(index) + begin, end - begin);
                        const __m128i other = bytes_upto(token_at(index + 1) + begin, end - begin);
                        const auto low = words_of<bits>(_mm_unpacklo_epi8(one, other));
                        const auto high = words_of<bits>(_mm_unpackhi_epi8(one, other));
                        for (int64_t part = 0; part < vectors / 2; ++part) {
                            auto* vector = reinterpret_cast<__m256i*>(place) + part;
                            _mm256_store_si256(vector, low.vectors[part]);
                            _mm256_store_si256(vector + vectors / 2, high.vectors[part]);
                        }
                    }
                }
            });
        }
    }

    // Adds the products of the channels of 16 bytes.
    static void multiply(const Block& block, int64_t pairs, const int16_t* values, float* totals) {
        __m256i sums[vectors] = {};
#pragma GCC unroll 4
        for (int64_t pair = 0; pair < pairs; ++pair) {
            int32_t two;
            std::memcpy(&two, block.words + 2 * pair, sizeof(two));
            const __m256i weights = _mm256_set1_epi32(two);
            const auto* from = reinterpret_cast<const __m256i*>(values + pair * 2 * channels_of_line);
            for (int64_t part = 0; part < vectors; ++part) {
                sums[part] = _mm256_add_epi32(sums[part], _mm256_madd_epi16(weights, _mm256_load_si256(from + part)));
            }
        }
        const __m256i surplus = _mm256_set1_epi32(bits == 4 ? block.integers.sum * excess<4> : 0);
        for (int64_t part = 0; part < vectors; ++part) {
            float* to = totals + part * width;
            const Vector products(_mm256_cvtepi32_ps(_mm256_sub_epi32(sums[part], surplus)));
            store(to, load(to) + products * block.integers.factor);
        }
    }

    const int64_t rows_;
    const Codes<bits>& codes_;
};

}  // namespace softmaxkit
