// Scores of a few queries with keys of a cache, in integers: see integer_codes.hpp.
#pragma once

#include "integer_codes.hpp"

namespace softmaxkit {

constexpr int64_t keys_together = 16;  // whose scores fill a vector
constexpr int64_t keys_ahead = 64;     // so early memory is asked for

// The largest integer of a query; its products with so many codes of 8 bits fit 32 bits.
constexpr int32_t largest_query(int64_t channels) {
    const int64_t fits = std::numeric_limits<int32_t>::max() / (127 * std::max<int64_t>(channels, 1));
    return static_cast<int32_t>(std::min<int64_t>(fits, largest_integer));
}

// Sums over the lower and the upper half of 16 vectors, in their order.
struct Halves {
    __m512i lower, upper;
};

inline Halves reduced(const __m512i (&sums)[keys_together]) {
    __m512i fours[4];
#pragma GCC unroll 4
    for (int index = 0; index < 4; ++index) {
        const __m512i* of = sums + 4 * index;
        const __m512i one = _mm512_add_epi32(_mm512_unpacklo_epi32(of[0], of[1]), _mm512_unpackhi_epi32(of[0], of[1]));
        const __m512i two = _mm512_add_epi32(_mm512_unpacklo_epi32(of[2], of[3]), _mm512_unpackhi_epi32(of[2], of[3]));
        fours[index] = _mm512_add_epi32(_mm512_unpacklo_epi64(one, two), _mm512_unpackhi_epi64(one, two));
    }
    const auto halves = [](__m512i one, __m512i two) {
        return _mm512_add_epi32(_mm512_shuffle_i32x4(one, two, 0x88), _mm512_shuffle_i32x4(one, two, 0xdd));
    };
    const __m512i first = halves(fours[0], fours[1]), last = halves(fours[2], fours[3]);
    return {_mm512_shuffle_i32x4(first, last, 0x88), _mm512_shuffle_i32x4(first, last, 0xdd)};
}

template <int bits>
class CodedKeys {
public:
    CodedKeys(const FewQueries& queries, const Codes<bits>& codes)
        : queries_(queries), codes_(codes), rows_(queries.rows()),
          padded_(rounded_up(codes.channels, bytes_of_vector)),
          high_(queries.shape.batch * queries.shape.key_heads * rows_ * padded_),
          low_(queries.shape.batch * queries.shape.key_heads * rows_ * padded_),
          packed_(queries.shape.batch * queries.shape.key_heads * rows_) {
        for (int64_t index = 0; index < static_cast<int64_t>(packed_.size()); ++index) {
            const int64_t head = index / rows_;
            pack(queries.of(head / queries.shape.key_heads, head % queries.shape.key_heads, index % rows_), index);
        }
    }

    // The scores of all rows, `stride` apart; room for whole vectors of them is there.
    void score(const Span& at, float* to, int64_t stride) const {
        using Step = typename Codes<bits>::Step;
        const int64_t groups = codes_.groups();
        Buffer<uint8_t> keys(keys_together * padded_);
        Buffer<Step> room(keys_together * groups);
        std::vector<const Step*> steps(groups);  // of the keys that are together
        Rows<bits> rows(codes_, at, 0), far(codes_, at, keys_ahead);
        for (int64_t first = 0; first < at.count; first += keys_together) {
            const int64_t count = std::min(keys_together, at.count - first);
            gather(rows, far, count, keys.data());
            for (int64_t group = 0; group < groups; ++group) {
                steps[group] = codes_.steps_of(at, group, first, count, room.data() + group * keys_together);
            }
            for (int64_t row = 0; row < rows_; ++row) {
                const int64_t index = (at.batch * queries_.shape.key_heads + at.key_head) * rows_ + row;
                Vector scores = 0.0f;
                if constexpr (bits == 8) {
                    const Halves sums = products(keys.data(), index, 0, padded_);
                    scores = scaled(_mm512_add_epi32(sums.lower, sums.upper), steps[0], count, index, 0);
                } else {
                    for (int64_t channel = 0; channel < padded_; channel += bytes_of_vector) {
                        const int64_t group = channel / channels_of_step;
                        const Halves sums = products(keys.data(), index, channel, channel + bytes_of_vector);
                        scores += scaled(sums.lower, steps[group], count, index, group);
                        if (group + 1 < groups) {
                            scores += scaled(sums.upper, steps[group + 1], count, index, group + 1);
                        }
                    }
                }
                store(to + row * stride + first, scores * packed_[index].factor);
            }
        }
    }

private:
    struct Packed {
        float factor = 0.0f;             // a score is this times the sum of products with codes and their steps
        std::vector<int32_t> offsets;    // of each group of channels, what unsigned codes add to the products
    };

    void pack(const float* query, int64_t index) {
        const int64_t channels = codes_.channels;
        Vector largest = 0.0f, sizes = 0.0f;
        for (int64_t channel = 0; channel < channels; channel += width) {
            const Vector size = magnitude(load_upto(query + channel, channels - channel));
            sizes += size;
            largest = stdx::max(largest, size);
        }
        Packed& packed = packed_[index];
        packed.offsets.assign(codes_.groups(), 0);
        const float top = stdx::hmax(largest);
        const bool finite = stdx::all_of(sizes < infinity), small = !(top > least_magnitude);
        const float most = static_cast<float>(largest_query(channels));
        const float inverse = small || !finite ? 0.0f : most / top;
        packed.factor = finite ? small ? 0.0f : queries_.scale * (top / most) : infinity - infinity;
        int8_t *high = high_.data() + index * padded_, *low = low_.data() + index * padded_;
        for (int64_t channel = 0; channel < padded_; ++channel) {
            const bool inside = channel < channels && finite;
            const int32_t code = inside ? static_cast<int32_t>(std::nearbyint(query[channel] * inverse)) : 0;
            high[channel] = static_cast<int8_t>(upper_byte(code));
            low[channel] = static_cast<int8_t>(code);
            if (channel < channels) {
                uint32_t& sum = reinterpret_cast<uint32_t&>(packed.offsets[bits == 8 ? 0 : channel / channels_of_step]);
                sum += static_cast<uint32_t>(code * excess<bits>);  // modulo 2^32, as the products are
            }
        }
    }

    // Bytes of up to 16 keys: (channels / 64, keys, 64).
    void gather(Rows<bits>& rows, Rows<bits>& far, int64_t count, uint8_t* to) const {
        const auto from = rows.template next<keys_together>(count), later = far.template next<keys_together>(count);
        for (int64_t key = 0; key < keys_together; ++key) {
            if (key >= count) {
                for (int64_t channel = 0; channel < padded_; channel += bytes_of_vector) {
                    std::fill_n(to + channel * keys_together + key * bytes_of_vector, bytes_of_vector, uint8_t(0));
                }
                continue;
            }
            prefetch<2>(later[key], codes_.bytes());
            for (int64_t channel = 0; channel < padded_; channel += bytes_of_vector) {
                _mm512_store_si512(to + channel * keys_together + key * bytes_of_vector,
                                   bytes_of(from[key] + channel * bits / 8, codes_.channels - channel));
            }
        }
    }

    Halves products(const uint8_t* keys, int64_t index, int64_t begin, int64_t end) const {
        __m512i sums[keys_together] = {};
        const auto add = [&](const int8_t* query) {
            for (int64_t channel = begin; channel < end; channel += bytes_of_vector) {
                const __m512i some = _mm512_load_si512(query + channel);
#pragma GCC unroll 16
                for (int64_t key = 0; key < keys_together; ++key) {
                    const __m512i bytes =
                        _mm512_load_si512(keys + channel * keys_together + key * bytes_of_vector);
                    sums[key] = _mm512_dpbusd_epi32(sums[key], bytes, some);
                }
            }
        };
        add(high_.data() + index * padded_);
#pragma GCC unroll 16
        for (int64_t key = 0; key < keys_together; ++key) sums[key] = _mm512_slli_epi32(sums[key], 8);
        add(low_.data() + index * padded_);
        return reduced(sums);
    }

    Vector scaled(__m512i sums, const typename Codes<bits>::Step* steps, int64_t count, int64_t index,
                  int64_t group) const {
        const __m512i products = _mm512_sub_epi32(sums, _mm512_set1_epi32(packed_[index].offsets[group]));
        return Vector(_mm512_cvtepi32_ps(products)) * load_upto(steps, count);
    }

    const FewQueries& queries_;
    const Codes<bits>& codes_;
    const int64_t rows_, padded_;
    Buffer<int8_t> high_, low_;
    std::vector<Packed> packed_;
};

}  // namespace softmaxkit
