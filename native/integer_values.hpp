// The 8-bit values of a cache times their weights, in integers: see integer_codes.hpp.
#pragma once

#include "interleaved_bytes.hpp"

namespace softmaxkit {

template <>
class CodedValues<8> {
public:
    CodedValues(const FewQueries& queries, const Codes<8>& codes) : rows_(queries.rows()), codes_(codes) {}

    // Number of totals per row.
    int64_t columns() const { return rounded_up(codes_.channels, bytes_of_vector); }

    // Index of a channel's total; interleaving bytes leaves channels in the order of `lane_of`.
    int64_t place(int64_t channel) const {
        return channel / bytes_of_vector * bytes_of_vector + lane_of(channel % bytes_of_vector);
    }

    // Adds the values times their weights to the totals of all rows, `columns` apart.
    void add(const Span& at, const float* weights, int64_t stride, float* totals, int64_t columns) const {
        std::vector<Block> blocks(rows_);
        Buffer<uint8_t> values(values_together * bytes_of_vector);
        float room[values_together];
        for (int64_t first = 0; first < at.count; first += values_together) {
            const int64_t count = std::min(values_together, at.count - first);
            const float* steps = codes_.steps_of(at, 0, first, count, room);
            for (int64_t row = 0; row < rows_; ++row) {
                Block& block = blocks[row];
                block.integers =
                    integers_of<values_together>(weights + row * stride + first, steps, count, block.high, block.low);
            }
            for (int64_t channel = 0; channel < codes_.channels; channel += bytes_of_vector) {
                interleave(at, first, count, channel, values.data());
                for (int64_t row = 0; row < rows_; ++row) {
                    multiply(blocks[row], (count + 3) / 4, values.data(), totals + row * columns + channel);
                }
            }
        }
    }

private:
    // Quantised weights of a row.
    struct Block {
        alignas(64) int8_t high[values_together], low[values_together];
        IntegerWeights integers;
    };

    // Interleaves the bytes of 64 channels, four tokens at a time; the last four repeat the last token as padding.
    void interleave(const Span& at, int64_t first, int64_t count, int64_t channel, uint8_t* to) const {
        const int64_t channels = codes_.channels - channel, stride = codes_.strides[2];
        Rows<8> rows(codes_, at, first);
        for (int64_t token = 0; token < count; token += tokens_together) {
            const int64_t some = std::min(tokens_together, count - token);
            if (channel == 0) prefetch<2>(codes_.later_steps(at, 0, first + token + values_ahead), 1);
            rows.next<tokens_together>(some, [&](auto token_at) {
                const int8_t* later = rows.later(values_ahead) + channel;
                for (int64_t four = 0; four < some; four += 4) {
                    __m512i bytes[4], places[4];
#pragma GCC unroll 4
                    for (int64_t index = 0; index < 4; ++index) {
                        prefetch<2>(later + (four + index) * stride, 1);
                        bytes[index] = bytes_of(token_at(four + index) + channel, channels);
                    }
                    side_by_side(bytes, places);
#pragma GCC unroll 4
                    for (int64_t place = 0; place < 4; ++place) {
                        _mm512_store_si512(to + (token + four + place) * bytes_of_vector, places[place]);
                    }
                }
            });
        }
    }

    // Adds the products of 64 channels.
    static void multiply(const Block& block, int64_t fours, const uint8_t* values, float* totals) {
        __m512i high[4] = {}, low[4] = {};
        for (int64_t four = 0; four < fours; ++four) {
            int32_t weights[2];
            std::memcpy(weights, block.high + 4 * four, 4);
            std::memcpy(weights + 1, block.low + 4 * four, 4);
#pragma GCC unroll 4
            for (int64_t part = 0; part < 4; ++part) {
                const __m512i bytes = _mm512_load_si512(values + four * 256 + part * 64);
                high[part] = add_products(high[part], bytes, _mm512_set1_epi32(weights[0]));
                low[part] = add_products(low[part], bytes, _mm512_set1_epi32(weights[1]));
            }
        }
        const __m512i surplus = _mm512_set1_epi32(block.integers.sum * excess<8>);
#pragma GCC unroll 4
        for (int64_t part = 0; part < 4; ++part) {
            const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[part], 8), low[part]);
            float* to = totals + part * lanes;
            store(to, load(to) + Vector(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, surplus))) * block.integers.factor);
        }
    }

    const int64_t rows_;
    const Codes<8>& codes_;
};

}  // namespace softmaxkit
