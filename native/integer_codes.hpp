// Products with codes of a cache as dot products of bytes, exact in 32 bits.
//
// Codes are unsigned bytes there, by 128 or 8 too large, which costs that much times the sum of what they meet. Weights
// times the steps of their values are integers of 16 bits in two signed bytes, as parts of the largest of 128; so are
// queries, as parts of their largest: what is lost of a query is lost in all its scores alike, where errors of keys
// average out. 16 keys are brought together, and their sums reduced together, once for all heads that share them.
#pragma once

#include "codes.hpp"

namespace softmaxkit {

constexpr int64_t bytes_of_vector = 64;  // channels
constexpr int64_t keys_together = 16;    // whose scores fill a vector
constexpr int64_t values_together = 128;
constexpr int64_t keys_ahead = 64, values_ahead = 128;  // tokens: so early memory is asked for
constexpr int32_t largest_integer = 127 * 256 + 127;

// The largest integer of a query; its products with so many codes of 8 bits fit 32 bits.
constexpr int32_t largest_query(int64_t channels) {
    const int64_t fits = std::numeric_limits<int32_t>::max() / (127 * std::max<int64_t>(channels, 1));
    return static_cast<int32_t>(std::min<int64_t>(fits, largest_integer));
}

// An integer of 16 bits is 256 times the upper byte and the lower one, both signed.
template <class Integer>
Integer upper_byte(const Integer& value) {
    return (value + 128) >> 8;
}

// What codes are too large by where they are unsigned.
template <int bits>
constexpr int32_t excess = 1 << (bits - 1);

// Up to 64 codes of a token as unsigned bytes.
inline __m512i bytes_of(const int8_t* from, int64_t count) {
    const __m512i bytes = count >= bytes_of_vector ? _mm512_loadu_si512(from)
                                                   : _mm512_maskz_loadu_epi8((uint64_t{1} << count) - 1, from);
    return _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
}
inline __m512i bytes_of(const uint8_t* from, int64_t count) {
    const __m256i pairs = count >= bytes_of_vector
                              ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                              : _mm256_maskz_loadu_epi8((uint32_t{1} << (count + 1) / 2) - 1, from);
    const __m512i wide = _mm512_cvtepu8_epi16(pairs);
    return _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)), _mm512_set1_epi8(15));
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
        Buffer<uint8_t> keys(keys_together * padded_);
        for (int64_t first = 0; first < at.count; first += keys_together) {
            const int64_t count = std::min(keys_together, at.count - first);
            gather(at, first, count, keys.data());
            for (int64_t row = 0; row < rows_; ++row) {
                const int64_t index = (at.batch * queries_.shape.key_heads + at.key_head) * rows_ + row;
                Vector scores = 0.0f;
                if constexpr (bits == 8) {
                    const Halves sums = products(keys.data(), index, 0, padded_);
                    scores = scaled(_mm512_add_epi32(sums.lower, sums.upper), at, first, count, index, 0);
                } else {
                    for (int64_t channel = 0; channel < padded_; channel += bytes_of_vector) {
                        const int64_t group = channel / channels_of_step;
                        const Halves sums = products(keys.data(), index, channel, channel + bytes_of_vector);
                        scores += scaled(sums.lower, at, first, count, index, group);
                        if (group + 1 < codes_.groups()) {
                            scores += scaled(sums.upper, at, first, count, index, group + 1);
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
    void gather(const Span& at, int64_t first, int64_t count, uint8_t* to) const {
        for (int64_t key = 0; key < keys_together; ++key) {
            if (key >= count) {
                for (int64_t channel = 0; channel < padded_; channel += bytes_of_vector) {
                    std::fill_n(to + channel * keys_together + key * bytes_of_vector, bytes_of_vector, uint8_t(0));
                }
                continue;
            }
            const auto* from = codes_.at(at, first + key);
            prefetch<2>(from + keys_ahead * codes_.strides[2], codes_.bytes());
            for (int64_t channel = 0; channel < padded_; channel += bytes_of_vector) {
                _mm512_store_si512(to + channel * keys_together + key * bytes_of_vector,
                                   bytes_of(from + channel * bits / 8, codes_.channels - channel));
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

    Vector scaled(__m512i sums, const Span& at, int64_t first, int64_t count, int64_t index, int64_t group) const {
        const __m512i products = _mm512_sub_epi32(sums, _mm512_set1_epi32(packed_[index].offsets[group]));
        return Vector(_mm512_cvtepi32_ps(products)) * load_upto(codes_.steps_at(at, group, first), count);
    }

    const FewQueries& queries_;
    const Codes<bits>& codes_;
    const int64_t rows_, padded_;
    Buffer<int8_t> high_, low_;
    std::vector<Packed> packed_;
};

template <int bits>
class CodedValues {
public:
    CodedValues(const FewQueries& queries, const Codes<bits>& codes) : rows_(queries.rows()), codes_(codes) {}

    // Adds to the totals of all rows, `columns` apart, the values times their weights.
    void add(const Span& at, const float* weights, int64_t stride, float* totals, int64_t columns) const {
        const int64_t groups = codes_.groups();
        std::vector<Block> blocks(rows_ * groups);
        Buffer<uint8_t> values(values_together * bytes_of_vector);
        for (int64_t first = 0; first < at.count; first += values_together) {
            const int64_t count = std::min(values_together, at.count - first);
            for (int64_t row = 0; row < rows_; ++row) {
                for (int64_t group = 0; group < groups; ++group) {
                    const auto* steps = codes_.steps_at(at, group, first);
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
        for (int64_t token = 0; token < count; token += 4) {
            __m512i four[4];
#pragma GCC unroll 4
            for (int64_t index = 0; index < 4; ++index) {
                if (token + index >= count) {
                    four[index] = _mm512_setzero_si512();
                    continue;
                }
                const auto* from = codes_.at(at, first + token + index) + channel * bits / 8;
                prefetch<2>(from + values_ahead * codes_.strides[2], 1);
                four[index] = bytes_of(from, channels);
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
