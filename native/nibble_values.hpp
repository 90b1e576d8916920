// The 4-bit values of a cache times their weights, in integers: see integer_codes.hpp and nibbles.hpp.
#pragma once

#include "nibbles.hpp"

namespace softmaxkit {

template <>
class CodedValues<4> {
public:
    CodedValues(const FewQueries& queries, const Codes<4>& codes)
        : rows_(queries.rows()), codes_(codes), layout_(codes.channels) {}

    // Number of totals per row.
    int64_t columns() const { return layout_.vectors * totals_of_vector / layout_.slots; }

    // Index of a channel's total: per vector, even channels before odd ones, each as `side_by_side` orders them.
    int64_t place(int64_t channel) const {
        const int64_t byte = channel / 2, lanes_of_slot = 4 / layout_.slots;
        const int64_t lane = byte % bytes_of_vector / bytes_of_step, within = byte % bytes_of_step;
        const int64_t part = channel % 2 * 4 + within / 4;
        return byte / bytes_of_vector * totals_of_vector + (part * lanes_of_slot + lane) * 4 + within % 4;
    }

    // Adds the values times their weights to the totals of all rows, `columns` apart.
    void add(const Span& at, const float* weights, int64_t stride, float* totals, int64_t columns) const {
        with_slots(layout_, [&](auto slots) { add<slots>(at, weights, stride, totals, columns); });
    }

private:
    static constexpr int64_t totals_of_vector = 2 * bytes_of_vector;

    // Quantised weights of a row, for each step of a vector.
    struct Block {
        alignas(64) int8_t high[4 * values_together], low[4 * values_together];  // as `in_fours` orders them
        int32_t surplus[4] = {};  // what the excess of the codes adds to the sums
        float factors[4] = {};
    };

    template <int64_t slots>
    void add(const Span& at, const float* weights, int64_t stride, float* totals, int64_t columns) const {
        constexpr int64_t groups = 4 / slots;
        Block block;
        Buffer<uint8_t> values(2 * values_together / slots * bytes_of_vector);
        bfloat16 room[groups][values_together];
        Steps<groups> steps;
        for (int64_t first = 0; first < at.count; first += values_together) {
            const int64_t count = std::min(values_together, at.count - first);
            for (int64_t vector = 0; vector < layout_.vectors; ++vector) {
                interleave<slots>(at, first, count, vector, values.data());
                for (int64_t part = 0; part < groups; ++part) {
                    const int64_t group = vector * groups + part;
                    const bool is_there = group < codes_.groups();
                    steps[part] = is_there ? codes_.steps_of(at, group, first, count, room[part]) : nullptr;
                }
                for (int64_t row = 0; row < rows_; ++row) {
                    pack<groups>(weights + row * stride + first, steps, count, block);
                    multiply<slots>(block, count, values.data(), totals + row * columns + vector * totals_of_vector);
                }
            }
        }
    }

    // The steps of a block's tokens, for each group of channels in a vector; null beyond the last group.
    template <int64_t groups>
    using Steps = std::array<const bfloat16*, groups>;

    template <int64_t groups>
    static void pack(const float* weights, const Steps<groups>& steps, int64_t count, Block& to) {
        alignas(64) int8_t high[groups][values_together] = {}, low[groups][values_together] = {};
        for (int64_t part = 0; part < groups; ++part) {
            IntegerWeights integers{0, 0.0f};
            if (steps[part] != nullptr) {
                integers = integers_of<values_together>(weights, steps[part], count, high[part], low[part]);
            }
            to.surplus[part] = integers.sum * excess<4>;
            to.factors[part] = integers.factor;
        }
        for (int64_t token = 0; token < values_together; token += bytes_of_vector) {
            in_fours<groups>(high, token, to.high);
            in_fours<groups>(low, token, to.low);
        }
    }

    // Packs the weights of 64 tokens into dwords of four tokens that share a slot: every second token with 2 slots,
    // every fourth with 4. The dwords of a set, one per slot and step, are adjacent; `set_at` locates them.
    template <int64_t groups>
    static void in_fours(const int8_t (&from)[groups][values_together], int64_t token, int8_t* to) {
        const __m128i order = groups == 1   ? _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
                              : groups == 2 ? _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                                            : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        __m512i fours[groups], sets[groups];
        for (int64_t part = 0; part < groups; ++part) {
            fours[part] = _mm512_shuffle_epi8(_mm512_load_si512(from[part] + token), _mm512_broadcast_i32x4(order));
        }
        if constexpr (groups == 1) sets[0] = fours[0];
        if constexpr (groups == 2) {
            sets[0] = _mm512_unpacklo_epi32(fours[0], fours[1]);
            sets[1] = _mm512_unpackhi_epi32(fours[0], fours[1]);
        }
        if constexpr (groups == 4) {
            const __m512i low[2] = {_mm512_unpacklo_epi32(fours[0], fours[1]),
                                    _mm512_unpacklo_epi32(fours[2], fours[3])};
            const __m512i high[2] = {_mm512_unpackhi_epi32(fours[0], fours[1]),
                                     _mm512_unpackhi_epi32(fours[2], fours[3])};
            sets[0] = _mm512_unpacklo_epi64(low[0], low[1]);
            sets[1] = _mm512_unpackhi_epi64(low[0], low[1]);
            sets[2] = _mm512_unpacklo_epi64(high[0], high[1]);
            sets[3] = _mm512_unpackhi_epi64(high[0], high[1]);
        }
        for (int64_t part = 0; part < groups; ++part) {
            _mm512_store_si512(to + token * groups + part * bytes_of_vector, sets[part]);
        }
    }

    // Offset of the weights of a set: the tokens that are multiplied together, four per slot.
    template <int64_t groups>
    static int64_t set_at(int64_t set) {
        const int64_t within = set % (4 * groups);
        return (set - within) * 16 + within % groups * bytes_of_vector + within / groups * 16;
    }

    // Interleaves the codes of a vector's channels, four tokens per slot, to (tokens / 4 / slots, even and odd, 4, 64);
    // the last set is padded by repeating the last token.
    template <int64_t slots>
    void interleave(const Span& at, int64_t first, int64_t count, int64_t vector, uint8_t* to) const {
        const int64_t begin = vector * bytes_of_vector, bytes = layout_.bytes_in(vector, codes_);
        const int64_t stride = codes_.strides[2];
        Rows<4> rows(codes_, at, first);
        for (int64_t token = 0; token < count; token += tokens_together) {
            const int64_t some = std::min(tokens_together, count - token);
            rows.next<tokens_together>(some, [&](auto token_at) {
                const uint8_t* later = rows.later(values_ahead) + begin;
                const bool dense = are_dense<slots>(token_at, bytes);
                for (int64_t set = 0; set < some; set += 4 * slots, to += 8 * bytes_of_vector) {
                    __m512i four[4], places[4];
#pragma GCC unroll 4
                    for (int64_t index = 0; index < 4; ++index) {
                        prefetch<2>(later + (set + index * slots) * stride, 1);
                        four[index] = in_slots<slots>(token_at, set + index * slots, begin, bytes, dense);
                    }
                    side_by_side(four, places);
#pragma GCC unroll 4
                    for (int64_t place = 0; place < 4; ++place) {
                        _mm512_store_si512(to + place * bytes_of_vector, even_channels(places[place]));
                        _mm512_store_si512(to + (4 + place) * bytes_of_vector, odd_channels(places[place]));
                    }
                }
            });
        }
    }

    // Broadcasts each of four dwords to its own 128-bit lane.
    static __m512i over_lanes(const void* four) {
        const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        const __m128i dwords = _mm_loadu_si128(static_cast<const __m128i*>(four));
        return _mm512_permutexvar_epi32(lanes, _mm512_castsi128_si512(dwords));
    }

    // Adds the products of a vector's channels.
    template <int64_t slots>
    static void multiply(const Block& block, int64_t count, const uint8_t* values, float* totals) {
        __m512i high[8] = {}, low[8] = {};
        const int64_t sets = (count + 4 * slots - 1) / (4 * slots);
        for (int64_t set = 0; set < sets; ++set) {
            const int64_t at = set_at<4 / slots>(set);
            const __m512i weights[2] = {over_lanes(block.high + at), over_lanes(block.low + at)};
#pragma GCC unroll 8
            for (int64_t part = 0; part < 8; ++part) {
                const __m512i bytes = _mm512_load_si512(values + (set * 8 + part) * bytes_of_vector);
                high[part] = add_small_products(high[part], bytes, weights[0]);
                low[part] = add_small_products(low[part], bytes, weights[1]);
            }
        }
        constexpr int64_t size = lanes / slots;
        constexpr __mmask16 own = static_cast<__mmask16>((1u << size) - 1);
        const __m512i surplus = over_lanes(block.surplus);
        const __m512 factor = _mm512_castsi512_ps(over_lanes(block.factors));
#pragma GCC unroll 8
        for (int64_t part = 0; part < 8; ++part) {
            __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[part], 8), low[part]);
            if constexpr (slots > 1) sum = _mm512_add_epi32(sum, _mm512_shuffle_i32x4(sum, sum, 0x4e));
            if constexpr (slots > 2) sum = _mm512_add_epi32(sum, _mm512_shuffle_i32x4(sum, sum, 0xb1));
            const Vector products(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, surplus)), factor));
            float* to = totals + part * size;
            const Vector before(_mm512_maskz_loadu_ps(own, to));
            _mm512_mask_storeu_ps(to, own, static_cast<__m512>(before + products));
        }
    }

    const int64_t rows_;
    const Codes<4>& codes_;
    const NibbleLayout layout_;
};

}  // namespace softmaxkit
