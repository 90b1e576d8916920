// Scores of a few queries against the 8-bit keys of a cache, in integers: see integer_codes.hpp.
#pragma once

#include "interleaved_bytes.hpp"

namespace softmaxkit {

template <>
class CodedKeys<8> {
public:
    CodedKeys(const FewQueries& queries, const Codes<8>& codes)
        : queries_(queries), codes_(codes), rows_(queries.rows()),
          padded_(rounded_up(codes.channels, bytes_of_vector)),
          high_(queries.count() * padded_), low_(queries.count() * padded_), packed_(queries.count()) {
        std::vector<int32_t> integers(padded_);
        for (int64_t index = 0; index < queries.count(); ++index) pack(queries.of(index), index, integers.data());
    }

    // Writes the scores of all rows, `stride` apart; each row has room for whole vectors.
    void score(const Span& at, float* to, int64_t stride) const {
        Buffer<uint8_t> keys(tokens_together * padded_);
        float room[tokens_together];
        Rows<8> rows(codes_, at, 0);
        for (int64_t first = 0; first < at.count; first += tokens_together) {
            const int64_t count = std::min(tokens_together, at.count - first);
            rows.next<tokens_together>(count, [&](auto token) { gather(token, rows.later(keys_ahead), keys.data()); });
            prefetch<2>(codes_.later_steps(at, 0, first + keys_ahead), 1);
            const Vector steps = load_upto(codes_.steps_of(at, 0, first, count, room), count);
            for (int64_t row = 0; row < rows_; ++row) {
                const int64_t index = (at.batch * queries_.shape.key_heads + at.key_head) * rows_ + row;
                const __m512i sums =
                    _mm512_sub_epi32(products(keys.data(), index), _mm512_set1_epi32(packed_[index].offset));
                store(to + row * stride + first, Vector(_mm512_cvtepi32_ps(sums)) * steps * packed_[index].factor);
            }
        }
    }

private:
    struct Packed {
        float factor;    // score = factor * step * (sum of products - offset)
        int32_t offset;  // what the excess of the codes adds to the sum
    };

    void pack(const float* query, int64_t index, int32_t* integers) {
        const float factor = integers_of(query, codes_.channels, integers);
        int8_t *high = high_.data() + index * padded_, *low = low_.data() + index * padded_;
        uint32_t sum = 0;  // modulo 2^32, as the products are
        for (int64_t channel = 0; channel < padded_; ++channel) {
            high[channel] = static_cast<int8_t>(upper_byte(integers[channel]));
            low[channel] = static_cast<int8_t>(integers[channel]);
            sum += static_cast<uint32_t>(integers[channel] * excess<8>);
        }
        packed_[index] = {queries_.scale * factor, static_cast<int32_t>(sum)};
    }

    // Copies the bytes of 16 keys to (channels / 64, keys, 64) and prefetches the 16 keys from `later` on.
    void gather(const auto& key_at, const int8_t* later, uint8_t* to) const {
        const int64_t channels = codes_.channels, stride = codes_.strides[2];
        for (int64_t key = 0; key < tokens_together; ++key) {
            const int8_t* from = key_at(key);
            prefetch<2>(later + key * stride, channels);
            for (int64_t channel = 0; channel < channels; channel += bytes_of_vector) {
                _mm512_store_si512(to + channel * tokens_together + key * bytes_of_vector,
                                   bytes_of(from + channel, channels - channel));
            }
        }
    }

    // The products of a query with 16 keys.
    __m512i products(const uint8_t* keys, int64_t index) const {
        __m512i sums[tokens_together] = {};
        const auto add = [&](const int8_t* query) {
            for (int64_t channel = 0; channel < padded_; channel += bytes_of_vector) {
                const __m512i some = _mm512_load_si512(query + channel);
#pragma GCC unroll 16
                for (int64_t key = 0; key < tokens_together; ++key) {
                    const __m512i bytes = _mm512_load_si512(keys + channel * tokens_together + key * bytes_of_vector);
                    sums[key] = add_products(sums[key], bytes, some);
                }
            }
        };
        add(high_.data() + index * padded_);
#pragma GCC unroll 16
        for (int64_t key = 0; key < tokens_together; ++key) sums[key] = _mm512_slli_epi32(sums[key], 8);
        add(low_.data() + index * padded_);
        __m512i fours[4];
#pragma GCC unroll 4
        for (int index = 0; index < 4; ++index) fours[index] = sums_of_lanes(sums + 4 * index);
        const auto halves = [](__m512i one, __m512i two) {
            return _mm512_add_epi32(_mm512_shuffle_i32x4(one, two, 0x88), _mm512_shuffle_i32x4(one, two, 0xdd));
        };
        return halves(halves(fours[0], fours[1]), halves(fours[2], fours[3]));
    }

    const FewQueries& queries_;
    const Codes<8>& codes_;
    const int64_t rows_, padded_;
    Buffer<int8_t> high_, low_;
    std::vector<Packed> packed_;
};

}  // namespace softmaxkit
