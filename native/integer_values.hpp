// Values of a cache times their weights, in integers: see integer_codes.hpp.
#pragma once

#include "integer_codes.hpp"

namespace softmaxkit {

constexpr int64_t values_together = 128;           // whose weights have one largest
constexpr int64_t values_ahead = values_together;  // so early memory is asked for

template <int bits>
class CodedValues {
public:
    CodedValues(const FewQueries& queries, const Codes<bits>& codes) : rows_(queries.rows()), codes_(codes) {}

    // Adds to the totals of all rows, `columns` apart, the values times their weights.
    void add(const Span& at, const float* weights, int64_t stride, float* totals, int64_t columns) const {
        const int64_t groups = codes_.groups();
        std::vector<Block> blocks(rows_ * groups);
        Buffer<uint8_t> values(values_together * bytes_of_vector);
        typename Codes<bits>::Step room[values_together];
        for (int64_t first = 0; first < at.count; first += values_together) {
            const int64_t count = std::min(values_together, at.count - first);
            for (int64_t group = 0; group < groups; ++group) {
                const auto* steps = codes_.steps_of(at, group, first, count, room);
                for (int64_t row = 0; row < rows_; ++row) {
                    pack(weights + row * stride + first, steps, count, blocks[row * groups + group]);
                }
            }
            for (int64_t channel = 0; channel < codes_.channels; channel += bytes_of_vector) {
                interleave(at, first, count, channel, values.data());
                const int64_t group = bits == 8 ? 0 : channel / channels_of_step;
                for (int64_t row = 0; row < rows_; ++row) {
                    const Block& one = blocks[row * groups + group];
                    const Block& other = blocks[row * groups + std::min(group + 1, groups - 1)];
                    multiply(one, other, (count + 3) / 4, values.data(), totals + row * columns + channel);
                }
            }
        }
    }

    // Where a channel's total is: interleaving bytes leaves channels in the order of `lane_of`.
    static int64_t place(int64_t channel) {
        return channel / bytes_of_vector * bytes_of_vector + lane_of(channel % bytes_of_vector);
    }

private:
    // Weights of a row for the values of some channels.
    struct Block {
        alignas(64) int8_t high[values_together], low[values_together];
        float factor;
        int32_t excess;  // of the sums of products with unsigned codes
    };

    static void pack(const float* weights, const typename Codes<bits>::Step* steps, int64_t count, Block& to) {
        Vector products[values_together / width], largest = 0.0f;
        for (int64_t part = 0; part * width < values_together; ++part) {
            const int64_t rest = count - part * width;
            products[part] = rest > 0 ? load(weights + part * width) * load_upto(steps + part * width, rest) : 0.0f;
            largest = stdx::max(largest, magnitude(products[part]));
        }
        const float top = stdx::hmax(largest);
        const bool any = top > least_magnitude;
        const Vector inverse = any ? static_cast<float>(largest_integer) / top : 0.0f;
        Integers sum = 0;
        for (int64_t part = 0; part * width < values_together; ++part) {
            const Integers codes = rounded(products[part] * inverse);
            sum += codes;
            store_bytes(to.high + part * width, upper_byte(codes));
            store_bytes(to.low + part * width, codes);
        }
        to.factor = any ? top / static_cast<float>(largest_integer) : 0.0f;
        to.excess = stdx::reduce(sum) * excess<bits>;
    }

    // Bytes of 64 channels, those of four tokens side by side.
    void interleave(const Span& at, int64_t first, int64_t count, int64_t channel, uint8_t* to) const {
        const int64_t channels = codes_.channels - channel;
        Rows<bits> rows(codes_, at, first), far(codes_, at, first + values_ahead);
        for (int64_t token = 0; token < count; token += 4) {
            const int64_t some = std::min<int64_t>(4, count - token);
            const auto from = rows.template next<4>(some), later = far.template next<4>(some);
            __m512i four[4];
#pragma GCC unroll 4
            for (int64_t index = 0; index < 4; ++index) {
                if (index >= some) {
                    four[index] = _mm512_setzero_si512();
                    continue;
                }
                prefetch<2>(later[index] + channel * bits / 8, 1);
                four[index] = bytes_of(from[index] + channel * bits / 8, channels);
            }
            const __m512i low[2] = {_mm512_unpacklo_epi8(four[0], four[1]), _mm512_unpacklo_epi8(four[2], four[3])};
            const __m512i high[2] = {_mm512_unpackhi_epi8(four[0], four[1]), _mm512_unpackhi_epi8(four[2], four[3])};
            uint8_t* place = to + token * bytes_of_vector;
            _mm512_store_si512(place, _mm512_unpacklo_epi16(low[0], low[1]));
            _mm512_store_si512(place + 64, _mm512_unpackhi_epi16(low[0], low[1]));
            _mm512_store_si512(place + 128, _mm512_unpacklo_epi16(high[0], high[1]));
            _mm512_store_si512(place + 192, _mm512_unpackhi_epi16(high[0], high[1]));
        }
    }

    static __m512i four_of(const int8_t* one, const int8_t* other) {
        int32_t weights[2];
        std::memcpy(weights, one, 4);
        std::memcpy(weights + 1, other, 4);
        const __m512i all = _mm512_set1_epi32(weights[0]);
        return bits == 8 ? all : _mm512_mask_set1_epi32(all, 0xff00, weights[1]);
    }

    // Adds the products of 64 channels, of which the upper half may have other weights.
    static void multiply(const Block& one, const Block& other, int64_t fours, const uint8_t* values, float* totals) {
        __m512i high[4] = {}, low[4] = {};
        for (int64_t four = 0; four < fours; ++four) {
            const __m512i weights[2] = {four_of(one.high + 4 * four, other.high + 4 * four),
                                        four_of(one.low + 4 * four, other.low + 4 * four)};
#pragma GCC unroll 4
            for (int64_t part = 0; part < 4; ++part) {
                const __m512i bytes = _mm512_load_si512(values + four * 256 + part * 64);
                high[part] = _mm512_dpbusd_epi32(high[part], bytes, weights[0]);
                low[part] = _mm512_dpbusd_epi32(low[part], bytes, weights[1]);
            }
        }
        const Vector factor(_mm512_mask_blend_ps(0xff00, _mm512_set1_ps(one.factor), _mm512_set1_ps(other.factor)));
        const __m512i excess = _mm512_mask_set1_epi32(_mm512_set1_epi32(one.excess), 0xff00, other.excess);
#pragma GCC unroll 4
        for (int64_t part = 0; part < 4; ++part) {
            const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[part], 8), low[part]);
            float* to = totals + part * lanes;
            store(to, load(to) + Vector(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, excess))) * factor);
        }
    }

    const int64_t rows_;
    const Codes<bits>& codes_;
};

}  // namespace softmaxkit
