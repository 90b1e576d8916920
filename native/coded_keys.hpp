// Scores of a few queries against the keys of a cache, in integers: see integer_codes.hpp and wide_codes.hpp.
#pragma once

#include "wide_codes.hpp"

namespace softmaxkit {

template <int bits>
class CodedKeys {
public:
    CodedKeys(const FewQueries& queries, const Codes<bits>& codes)
        : queries_(queries), codes_(codes), rows_(queries.rows()), vectors_(vectors_of(codes)),
          packed_(queries.count()), integers_(queries.count() * vectors_) {
        std::fill_n(integers_.data(), queries.count() * vectors_, QueryVector{});
        std::vector<int32_t> integers(codes.channels);
        for (int64_t index = 0; index < queries.count(); ++index) pack(queries.of(index), index, integers.data());
    }

    // Writes the scores of all rows, `stride` apart; each row has room for whole vectors.
    void score(const Span& at, float* to, int64_t stride) const {
        const int64_t groups = codes_.groups(), vectors = bits == 8 ? vectors_ : vectors_of_step;
        Buffer<WideCode> keys(vectors_ * codes_of_vector * width);
        Buffer<float> steps(groups * width);
        typename Codes<bits>::Step room[width];
        Rows<bits> rows(codes_, at, 0);
        for (int64_t first = 0; first < at.count; first += width) {
            const int64_t count = std::min(width, at.count - first);
            rows.template next<width>(count, [&](auto token_at) {
                gather(token_at, rows.later(keys_ahead), keys.data());
            });
            for (int64_t group = 0; group < groups; ++group) {
                prefetch<2>(codes_.later_steps(at, group, first + keys_ahead), 1);
                store(steps.data() + group * width, load_upto(codes_.steps_of(at, group, first, count, room), count));
            }
            for (int64_t row = 0; row < rows_; ++row) {
                const int64_t index = (at.batch * queries_.shape.key_heads + at.key_head) * rows_ + row;
                const QueryVector* query = integers_.data() + index * vectors_;
                Vector scores = 0.0f;
                for (int64_t group = 0; group < groups; ++group) {
                    const int64_t begin = group * vectors;
                    const Integers sums =
                        multiply_keys(keys.data() + begin * codes_of_vector * width, query + begin, vectors);
                    scores += to_floats(sums - packed_[index].offsets[group]) * load(steps.data() + group * width);
                }
                store(to + row * stride + first, scores * packed_[index].factor);
            }
        }
    }

private:
    static constexpr int64_t vectors_of_step = channels_of_step / codes_of_vector;  // with 4 bits; with 8, all have one

    struct Packed {
        float factor;                  // score = factor * sum over steps of step * (sum of products - offset)
        std::vector<int32_t> offsets;  // per step: what the excess of 4-bit codes adds to the sum
    };

    void pack(const float* query, int64_t index, int32_t* integers) {
        Packed& packed = packed_[index];
        packed.factor = queries_.scale * integers_of(query, codes_.channels, integers);
        packed.offsets.assign(codes_.groups(), 0);
        QueryVector* vectors = integers_.data() + index * vectors_;
        for (int64_t channel = 0; channel < codes_.channels; ++channel) {
            if constexpr (bits == 8) {
                vectors[channel / codes_of_vector].set(channel % codes_of_vector, integers[channel]);
            } else {
                const int64_t group = channel / channels_of_step, within = channel % channels_of_step;
                vectors[group * vectors_of_step + within % 2].set(within / 2, integers[channel]);
                packed.offsets[group] += integers[channel] * excess<4>;
            }
        }
    }

    // Widens a few keys to (vectors, keys, 16) and prefetches keys from `later` on.
    void gather(const auto& key_at, const auto* later, WideCode* to) const {
        for (int64_t key = 0; key < width; ++key) prefetch<2>(later + key * codes_.strides[2], codes_.bytes());
        for (int64_t begin = 0; begin < codes_.bytes(); begin += bytes_together) {
#pragma GCC unroll 8
            for (int64_t key = 0; key < width; ++key) {
                widen<bits>(bytes_upto(key_at(key) + begin, codes_.bytes() - begin), to + key * codes_of_vector,
                            width * codes_of_vector);
            }
            to += vectors_of_bytes<bits> * width * codes_of_vector;
        }
    }

    const FewQueries& queries_;
    const Codes<bits>& codes_;
    const int64_t rows_, vectors_;
    std::vector<Packed> packed_;
    Buffer<QueryVector> integers_;  // (queries, vectors)
};

}  // namespace softmaxkit
