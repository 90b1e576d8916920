// The values of a cache times their weights, in integers: see integer_codes.hpp and wide_codes.hpp.
#pragma once

#include "wide_codes.hpp"

namespace softmaxkit {

template <int bits>
class CodedValues {
public:
    CodedValues(const FewQueries& queries, const Codes<bits>& codes) : rows_(queries.rows()), codes_(codes) {}

    // Number of totals per row, and the index of a channel's total.
    int64_t columns() const { return vectors_of(codes_) * codes_of_vector; }
    int64_t place(int64_t channel) const {
        if constexpr (bits == 8) return channel;
        const int64_t within = channel % channels_of_nibbles;
        return channel - within + within % 2 * (channels_of_nibbles / 2) + within / 2;
    }

    // Adds the values times their weights to the totals of all rows, `columns` apart.
    void add(const Span& at, const float* weights, int64_t stride, float* totals, int64_t columns) const {
        std::vector<Block> blocks(rows_);
        Buffer<WideCode> values(values_together * channels_of_line);
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
                    multiply(blocks[row], count, values.data() + tokens_abreast * in_line,
                             totals + row * columns + channel);
                }
            }
        }
    }

private:
    static constexpr int64_t channels = vectors_of_bytes<bits> * codes_of_vector;  // of the bytes read together
    static constexpr int64_t channels_of_line = cache_line * 8 / bits;
    static_assert(bits == 8 || channels == channels_of_step);

    // Quantised weights of a row.
    struct Block {
        WeightVectors weights;
        IntegerWeights integers;
    };

    template <class Step>
    static void pack(const float* weights, const Step* steps, int64_t count, Block& to) {
        to.integers = integers_of<values_together>(
            weights, steps, count, [&](int64_t token, const Integers& codes) { to.weights.set(token, codes); });
    }

    // Widens a cache line of each token and interleaves `tokens_abreast` tokens at a time: (tokens / tokens_abreast,
    // channels of the line, tokens_abreast). The last token is repeated as padding. With the tokens abreast side by
    // side, stores are one stream.
    void interleave(const Span& at, int64_t first, int64_t count, int64_t line, WideCode* to) const {
        constexpr int64_t few = 8;
        const int64_t end = std::min(line + cache_line, codes_.bytes());
        Rows<bits> rows(codes_, at, first);
        for (int64_t token = 0; token < count; token += few) {
            rows.template next<few>(std::min(few, count - token), [&](auto token_at) {
                const auto* later = rows.later(values_ahead) + line;
                for (int64_t index = 0; index < few; ++index) prefetch<2>(later + index * codes_.strides[2], 1);
                for (int64_t begin = line; begin < end; begin += bytes_together) {
                    WideCode* place = to + token * channels_of_line + tokens_abreast * (begin - line) * 8 / bits;
#pragma GCC unroll 4
                    for (int64_t index = 0; index < few; index += tokens_abreast) {
                        Bytes bytes[tokens_abreast];
#pragma GCC unroll 4
                        for (int64_t beside = 0; beside < tokens_abreast; ++beside) {
                            bytes[beside] = bytes_upto(token_at(index + beside) + begin, end - begin);
                        }
                        weave<bits>(bytes, place + index * channels_of_line);
                    }
                }
            });
        }
    }

    // Adds the products of the channels of 16 bytes.
    static void multiply(const Block& block, int64_t count, const WideCode* values, float* totals) {
        Integers sums[channels / width];
        multiply_values(block.weights, count, values, tokens_abreast * channels_of_line, sums);
        const int32_t surplus = bits == 4 ? block.integers.sum * excess<4> : 0;
        for (const Integers& sum : sums) {
            store(totals, load(totals) + to_floats(sum - surplus) * block.integers.factor);
            totals += width;
        }
    }

    const int64_t rows_;
    const Codes<bits>& codes_;
};

}  // namespace softmaxkit
