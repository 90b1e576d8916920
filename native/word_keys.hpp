// Scores of a few queries against the keys of a cache, in 16-bit words: see integer_codes.hpp and word_codes.hpp.
#pragma once

#include "word_codes.hpp"

namespace softmaxkit {

constexpr int64_t keys_together = 8;  // their scores fill a vector

template <int bits>
class CodedKeys {
public:
    CodedKeys(const FewQueries& queries, const Codes<bits>& codes)
        : queries_(queries), codes_(codes), rows_(queries.rows()), padded_(padded_channels(codes)),
          packed_(queries.count()), words_(queries.count() * padded_) {
        std::vector<int32_t> integers(codes.channels);
        for (int64_t index = 0; index < queries.count(); ++index) pack(queries.of(index), index, integers.data());
    }

    // Writes the scores of all rows, `stride` apart; each row has room for whole vectors.
    void score(const Span& at, float* to, int64_t stride) const {
        const int64_t groups = codes_.groups();
        Buffer<int16_t> keys(keys_together * padded_);
        Buffer<float> steps(groups * keys_together);
        typename Codes<bits>::Step room[keys_together];
        Rows<bits> rows(codes_, at, 0);
        for (int64_t first = 0; first < at.count; first += keys_together) {
            const int64_t count = std::min(keys_together, at.count - first);
            rows.template next<keys_together>(count, [&](auto token_at) {
                gather(token_at, rows.later(keys_ahead), keys.data());
            });
            for (int64_t group = 0; group < groups; ++group) {
                prefetch<2>(codes_.later_steps(at, group, first + keys_ahead), 1);
                store(steps.data() + group * keys_together,
                      load_upto(codes_.steps_of(at, group, first, count, room), count));
            }
            for (int64_t row = 0; row < rows_; ++row) {
                const int64_t index = (at.batch * queries_.shape.key_heads + at.key_head) * rows_ + row;
                const int16_t* query = words_.data() + index * padded_;
                Vector scores = 0.0f;
                for (int64_t group = 0; group < groups; ++group) {
                    const int64_t begin = group * vectors_of_step;
                    const __m256i sums = products(keys.data() + begin * words_of_vector * keys_together,
                                                  query + begin * words_of_vector);
                    const __m256i own = _mm256_sub_epi32(sums, _mm256_set1_epi32(packed_[index].offsets[group]));
                    scores += Vector(_mm256_cvtepi32_ps(own)) * load(steps.data() + group * keys_together);
                }
                store(to + row * stride + first, scores * packed_[index].factor);
            }
        }
    }

private:
    static constexpr int64_t vectors_of_step = channels_of_step / words_of_vector;  // with 4 bits; with 8, all have one

    struct Packed {
        float factor;                  // score = factor * sum over steps of step * (sum of products - offset)
        std::vector<int32_t> offsets;  // per step: what the excess of 4-bit codes adds to the sum
    };

    void pack(const float* query, int64_t index, int32_t* integers) {
        Packed& packed = packed_[index];
        packed.factor = queries_.scale * integers_of(query, codes_.channels, integers);
        packed.offsets.assign(codes_.groups(), 0);
        int16_t* words = words_.data() + index * padded_;
        for (int64_t channel = 0; channel < codes_.channels; ++channel) {
            if constexpr (bits == 8) {
                words[channel] = static_cast<int16_t>(integers[channel]);
            } else {
                const int64_t within = channel % channels_of_step;
                words[channel - within + within % 2 * words_of_vector + within / 2] =
                    static_cast<int16_t>(integers[channel]);
                packed.offsets[channel / channels_of_step] += integers[channel] * excess<4>;
            }
        }
    }

    // Widens 8 keys to (vectors, keys, 16) and prefetches keys from `later` on.
    void gather(const auto& key_at, const auto* later, int16_t* to) const {
        for (int64_t key = 0; key < keys_together; ++key) prefetch<2>(later + key * codes_.strides[2], codes_.bytes());
        for (int64_t begin = 0; begin < codes_.bytes(); begin += bytes_together) {
#pragma GCC unroll 8
            for (int64_t key = 0; key < keys_together; ++key) {
                const auto words = words_of<bits>(bytes_upto(key_at(key) + begin, codes_.bytes() - begin));
                for (int64_t part = 0; part < vectors_of_bytes<bits>; ++part) {
                    _mm256_store_si256(reinterpret_cast<__m256i*>(to + (part * keys_together + key) * words_of_vector),
                                       words.vectors[part]);
                }
            }
            to += vectors_of_bytes<bits> * keys_together * words_of_vector;
        }
    }

    // The products of a query with 8 keys: of all channels with 8 bits, of those that share a step with 4.
    __m256i products(const int16_t* keys, const int16_t* query) const {
        const int64_t vectors = bits == 8 ? padded_ / words_of_vector : vectors_of_step;
        __m256i sums[keys_together] = {};
        for (int64_t vector = 0; vector < vectors; ++vector) {
            const auto* from = reinterpret_cast<const __m256i*>(keys) + vector * keys_together;
            const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query) + vector);
#pragma GCC unroll 8
            for (int64_t key = 0; key < keys_together; ++key) {
                sums[key] = _mm256_add_epi32(sums[key], _mm256_madd_epi16(words, _mm256_load_si256(from + key)));
            }
        }
        const auto four = [&](int64_t key) {  // the sums of a half of the lanes, for four keys, in each half
            return _mm256_hadd_epi32(_mm256_hadd_epi32(sums[key], sums[key + 1]),
                                     _mm256_hadd_epi32(sums[key + 2], sums[key + 3]));
        };
        const __m256i first = four(0), last = four(4);
        return _mm256_add_epi32(_mm256_permute2x128_si256(first, last, 0x20),
                                _mm256_permute2x128_si256(first, last, 0x31));
    }

    const FewQueries& queries_;
    const Codes<bits>& codes_;
    const int64_t rows_, padded_;
    std::vector<Packed> packed_;
    std::vector<int16_t> words_;  // the queries, (queries, padded channels)
};

}  // namespace softmaxkit
