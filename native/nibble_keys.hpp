// Scores of a few queries against the 4-bit keys of a cache, in integers: see integer_codes.hpp and nibbles.hpp.
#pragma once

#include "nibbles.hpp"

namespace softmaxkit {

template <>
class CodedKeys<4> {
public:
    CodedKeys(const FewQueries& queries, const Codes<4>& codes)
        : queries_(queries), codes_(codes), layout_(codes.channels), rows_(queries.rows()),
          packed_(queries.count()), high_(at(queries.count(), 0, 0)), low_(high_.size()) {
        std::vector<int32_t> integers(codes.channels);
        for (int64_t index = 0; index < queries.count(); ++index) pack(queries.of(index), index, integers.data());
    }

    // Writes the scores of all rows, `stride` apart; each row has room for whole vectors.
    void score(const Span& at, float* to, int64_t stride) const {
        with_slots(layout_, [&](auto slots) { score<slots>(at, to, stride); });
    }

private:
    struct Packed {
        float factor;                  // score = factor * sum over steps of step * (sum of products - offset)
        std::vector<int32_t> offsets;  // per step: what the excess of the codes adds to the sum
    };

    void pack(const float* query, int64_t index, int32_t* integers) {
        Packed& packed = packed_[index];
        packed.factor = queries_.scale * integers_of(query, codes_.channels, integers);
        packed.offsets.assign(codes_.groups(), 0);
        for (int64_t channel = 0; channel < codes_.channels; ++channel) {
            const int64_t byte = channel / 2, vector = byte / bytes_of_vector;
            for (int64_t slot = 0; slot < layout_.slots; ++slot) {
                const int64_t place = at(index, vector, channel % 2) + slot * (bytes_of_vector / layout_.slots) +
                                      byte % bytes_of_vector;
                high_[place] = static_cast<int8_t>(upper_byte(integers[channel]));
                low_[place] = static_cast<int8_t>(integers[channel]);
            }
            packed.offsets[channel / channels_of_step] += integers[channel] * excess<4>;
        }
    }

    // Offset of the even or odd channels in one of a query's vectors.
    int64_t at(int64_t index, int64_t vector, int64_t odd) const {
        return ((index * layout_.vectors + vector) * 2 + odd) * bytes_of_vector;
    }

    template <int64_t slots>
    void score(const Span& at, float* to, int64_t stride) const {
        constexpr int64_t groups = 4 / slots;
        const int64_t all_groups = codes_.groups();
        Buffer<float> steps(all_groups * tokens_together);
        bfloat16 room[tokens_together];
        Rows<4> rows(codes_, at, 0);
        Buffer<uint8_t> keys(layout_.vectors * 2 * (tokens_together / slots) * bytes_of_vector);
        for (int64_t first = 0; first < at.count; first += tokens_together) {
            const int64_t count = std::min(tokens_together, at.count - first);
            rows.next<tokens_together>(count, [&](auto token) {
                gather<slots>(token, rows.later(keys_ahead), keys.data());
            });
            for (int64_t group = 0; group < all_groups; ++group) {
                prefetch<2>(codes_.later_steps(at, group, first + keys_ahead), 1);
                store(steps.data() + group * tokens_together,
                      load_upto(codes_.steps_of(at, group, first, count, room), count));
            }
            for (int64_t row = 0; row < rows_; ++row) {
                const int64_t index = (at.batch * queries_.shape.key_heads + at.key_head) * rows_ + row;
                const Packed& packed = packed_[index];
                Vector scores = 0.0f;
                for (int64_t vector = 0; vector < layout_.vectors; ++vector) {
                    __m512i sums[groups];
                    products<slots>(keys.data(), index, vector, sums);
                    for (int64_t part = 0; part < groups; ++part) {
                        const int64_t group = vector * groups + part;
                        if (group >= all_groups) break;
                        const __m512i own = _mm512_sub_epi32(sums[part], _mm512_set1_epi32(packed.offsets[group]));
                        scores += Vector(_mm512_cvtepi32_ps(own)) * load(steps.data() + group * tokens_together);
                    }
                }
                store(to + row * stride + first, scores * packed.factor);
            }
        }
    }

    // Unpacks 16 keys to (vectors, even and odd, keys / slots, 64) and prefetches keys from `later` on.
    template <int64_t slots>
    void gather(const auto& key_at, const uint8_t* later, uint8_t* to) const {
        constexpr int64_t size = tokens_together / slots * bytes_of_vector;
        const int64_t stride = codes_.strides[2];
        for (int64_t vector = 0; vector < layout_.vectors; ++vector, to += 2 * size) {
            const int64_t begin = vector * bytes_of_vector, bytes = layout_.bytes_in(vector, codes_);
            const bool dense = are_dense<slots>(key_at, bytes);
            for (int64_t key = 0; key < tokens_together; key += slots) {
                prefetch<2>(later + key * stride + begin, 1);
                const __m512i codes = in_slots<slots>(key_at, key, begin, bytes, dense);
                uint8_t* place = to + key / slots * bytes_of_vector;
                _mm512_store_si512(place, even_channels(codes));
                _mm512_store_si512(place + size, odd_channels(codes));
            }
        }
    }

    // The products of a query with 16 keys, separately for each step of a vector.
    template <int64_t slots>
    void products(const uint8_t* keys, int64_t index, int64_t vector, __m512i (&to)[4 / slots]) const {
        constexpr int64_t vectors = tokens_together / slots;
        __m512i sums[vectors] = {};
        const auto add = [&](const int8_t* queries) {
            for (int64_t odd = 0; odd < 2; ++odd) {
                const __m512i query = _mm512_loadu_si512(queries + at(index, vector, odd));
                const uint8_t* from = keys + (vector * 2 + odd) * vectors * bytes_of_vector;
#pragma GCC unroll 16
                for (int64_t key = 0; key < vectors; ++key) {
                    sums[key] = add_small_products(sums[key], _mm512_load_si512(from + key * bytes_of_vector), query);
                }
            }
        };
        add(high_.data());
#pragma GCC unroll 16
        for (int64_t key = 0; key < vectors; ++key) sums[key] = _mm512_slli_epi32(sums[key], 8);
        add(low_.data());
        in_order(sums, to);
    }

    // Sums up lanes and sorts the sums by key, one vector per step. A lane of `sums_of_lanes` covers every fourth key
    // with 4 slots; every second key with 2, the next lane being their next step; four consecutive keys with 1.
    static void in_order(const __m512i (&sums)[4], __m512i (&to)[1]) {
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        to[0] = _mm512_permutexvar_epi32(order, sums_of_lanes(sums));
    }
    static void in_order(const __m512i (&sums)[8], __m512i (&to)[2]) {
        const __m512i first = sums_of_lanes(sums), last = sums_of_lanes(sums + 4);
        const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
        to[0] = _mm512_permutex2var_epi32(first, order, last);
        to[1] = _mm512_permutex2var_epi32(first, _mm512_add_epi32(order, _mm512_set1_epi32(4)), last);
    }
    static void in_order(const __m512i (&sums)[16], __m512i (&to)[4]) {
        const __m512i fours[4] = {sums_of_lanes(sums), sums_of_lanes(sums + 4), sums_of_lanes(sums + 8),
                                  sums_of_lanes(sums + 12)};
        const __m512i even[2] = {_mm512_shuffle_i32x4(fours[0], fours[1], 0x88),
                                 _mm512_shuffle_i32x4(fours[2], fours[3], 0x88)};
        const __m512i odd[2] = {_mm512_shuffle_i32x4(fours[0], fours[1], 0xdd),
                                _mm512_shuffle_i32x4(fours[2], fours[3], 0xdd)};
        to[0] = _mm512_shuffle_i32x4(even[0], even[1], 0x88);
        to[1] = _mm512_shuffle_i32x4(odd[0], odd[1], 0x88);
        to[2] = _mm512_shuffle_i32x4(even[0], even[1], 0xdd);
        to[3] = _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd);
    }

    const FewQueries& queries_;
    const Codes<4>& codes_;
    const NibbleLayout layout_;
    const int64_t rows_;
    std::vector<Packed> packed_;
    std::vector<int8_t> high_, low_;  // (queries, vectors, even and odd, 64), repeated in every slot
};

}  // namespace softmaxkit
