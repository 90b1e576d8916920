// Softmax attention with bfloat16 products by AMX tiles, 32 queries and 256 keys at a time: the scores of a block,
// their maximum, the weights in bfloat16, and their products with the values, rescaled when the maximum grows (online
// softmax). Scores, sums and accumulated products are float32.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "attention_arguments.hpp"
#include "bfloat16_pairs.hpp"
#include "tile_matrix.hpp"

namespace softmaxkit {

// Rounds 32 weights to bfloat16.
inline __m512i halves(const __m512& first, const __m512& second) {
#if defined(__AVX512BF16__)
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
#else
    return _mm512_inserti64x4(_mm512_castsi256_si512(narrowed<bfloat16>(Vector(first))),
                              narrowed<bfloat16>(Vector(second)), 1);
#endif
}

// 2^t for t up to 0. The polynomial for 2^r, r from 0 to 1, is exact at 0 and has a relative error of at most 9e-5,
// less than 1/40 of the largest error of rounding to bfloat16.
inline __m512 coarse_exp2(const __m512& t) {
    const __m512 r = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.0770672f), r, _mm512_set1_ps(0.22764482f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69511682f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, t);
}

// The arguments of a call, and its keys and values rounded to bfloat16, one element for each key head of each sequence.
// Weights are 2^(scale * product).
template <class T>
struct TileOperands : Arguments<T> {
    std::vector<PackedHead> heads{};

    void prepare() {
        for (int64_t head = 0; head < this->shape.batch * this->shape.key_heads; ++head) {
            heads.emplace_back(this->shape.seen(this->shape.queries - 1), this->shape.channels,
                               this->shape.value_channels);
        }
    }

    void pack(int64_t head) {
        pack_keys(this->keys_of(head, nullptr), heads[head]);
        pack_values(this->values_of(head, nullptr), heads[head]);
    }

    // Rounding to bfloat16 is what such products are expected to do.
    Precision packed() const {
        return {std::all_of(heads.begin(), heads.end(), [](const PackedHead& head) { return head.finite; })};
    }
    double score_error(int64_t, int64_t, int64_t) const { return 0; }
};

template <class T>
class TileStripe {
public:
    using Operands = TileOperands<T>;

    static int64_t rows_for(int64_t) { return tile_pair; }

    TileStripe(const Operands& of, int64_t)
        : of_(of), scale_(std::max(static_cast<float>(std::abs(of.scale)), least_scale)),
          sign_(of.scale < 0 ? 0x80008000 : 0), pairs_(of.heads[0].pairs), columns_(of.heads[0].columns),
          queries_(tile_pair * pairs_), totals_(tile_pair * columns_), weights_(block * panel * tile_pair) {}

    // Computes the results of queries `first` to `last`. Returns NaN, with invalid results, if an input, a score or a
    // result is not finite, and otherwise 0.
    double run(int64_t batch, int64_t head, int64_t first, int64_t last) {
        const Shape& shape = of_.shape;
        const PackedHead& with = of_.heads[of_.key_head(batch, head)];
        const int64_t panels = (shape.seen(last - 1) + panel - 1) / panel;
        rows_.fill(Row{});
        std::fill_n(queries_.data(), tile_pair * pairs_, 0u);
        std::fill_n(totals_.data(), tile_pair * columns_, 0.0f);
        bool finite = true;
        for (int64_t index = first; index < last; ++index) {
            Row& row = rows_[index - first];
            uint32_t* query = queries_.data() + (index - first) * pairs_;
            pack_pairs(of_.query_at(batch, head, index), shape.channels, query, finite);
            for (int64_t pair = 0; pair < pairs_; ++pair) query[pair] ^= sign_;
            row.seen = shape.seen(index);
            row.mask = of_.mask_of(batch, head, index);
        }
        for (int64_t begin = 0; begin < panels; begin += block) {
            const int64_t end = std::min(begin + block, panels);
            for (int64_t at = begin; at < end; ++at) {
                const auto* keys = reinterpret_cast<const uint8_t*>(with.keys.data() + at * panel * pairs_);
                const auto* queries = reinterpret_cast<const uint8_t*>(queries_.data());
                if (pairs_ == tiles::rows) TileSums::load_rows(queries, tiles::row_bytes);
                score_panel<bfloat16>(queries, 4 * pairs_, keys, scores_[at - begin]);
            }
            for (int64_t index = 0; index < last - first; ++index) weigh(index, begin, end);
            for (int64_t column = 0; column < columns_; column += 2 * lanes) {
                const uint32_t* values = with.values.data() + begin * panel / 2 * columns_ + column;
                column + lanes < columns_ ? add<2>(values, column, end - begin)
                                          : add<1>(values, column, end - begin);
            }
        }
        for (int64_t index = first; index < last; ++index) {
            const float* totals = totals_.data() + (index - first) * columns_;
            finite = write_quotients(rows_[index - first].sum, totals, of_.result_at(batch, head, index),
                                     shape.value_channels) && finite;
        }
        return finite ? 0 : std::numeric_limits<double>::quiet_NaN();
    }

private:
    static constexpr int64_t block = 4;  // panels of keys whose scores are in memory at a time

    struct Row {
        float highest = -infinity;  // maximum score so far
        double sum = 0;             // of the weights relative to it
        int64_t seen = 0;           // number of keys that causality leaves the query
        const uint8_t* mask = nullptr;
    };

    // Computes the weights of one row in a block; rescales its totals and sum if the maximum grows.
    void weigh(int64_t index, int64_t begin, int64_t end) {
        Row& row = rows_[index];
        __m512 largest = _mm512_set1_ps(-infinity);
        for (int64_t at = begin; at < end; ++at) {
            float* scores = scores_of(index, at - begin);
            const uint64_t seen = seen_of_panel(row.seen, row.mask, of_.shape.mask[3], at);
            for (int64_t vector = 0; vector < 4; ++vector) {
                __m512 score = _mm512_load_ps(scores + lanes * vector);
                if (seen != ~uint64_t{0}) {
                    const auto hidden = static_cast<__mmask16>(~seen >> lanes * vector);
                    score = _mm512_mask_mov_ps(score, hidden, _mm512_set1_ps(-infinity));
                    _mm512_store_ps(scores + lanes * vector, score);
                }
                largest = _mm512_max_ps(largest, score);
            }
        }
        const float highest = std::max(row.highest, scale_ * _mm512_reduce_max_ps(largest));
        if (highest > row.highest) rescale(row, totals_.data() + index * columns_, highest);
        const __m512 by = _mm512_set1_ps(scale_), less = _mm512_set1_ps(highest == -infinity ? 0.0f : highest);
        __m512 sum = _mm512_setzero_ps();
        uint8_t* to = weights() + index * tiles::row_bytes;
        for (int64_t at = begin; at < end; ++at) {
            const float* scores = scores_of(index, at - begin);
            for (int64_t half = 0; half < 2; ++half, scores += 2 * lanes, to += tile_pair * tiles::row_bytes) {
                const __m512 one = coarse_exp2(_mm512_fmsub_ps(_mm512_load_ps(scores), by, less));
                const __m512 other = coarse_exp2(_mm512_fmsub_ps(_mm512_load_ps(scores + lanes), by, less));
                sum = _mm512_add_ps(sum, _mm512_add_ps(one, other));
                _mm512_store_si512(to, halves(one, other));
            }
        }
        row.sum += static_cast<double>(_mm512_reduce_add_ps(sum));
    }

    void rescale(Row& row, float* totals, float highest) {
        const float factor = std::exp2(row.highest - highest);
        for (int64_t column = 0; column < columns_; column += lanes) {
            const __m512 total = _mm512_load_ps(totals + column);
            _mm512_store_ps(totals + column, _mm512_mul_ps(total, _mm512_set1_ps(factor)));
        }
        row.sum *= factor;
        row.highest = highest;
    }

    // Adds the products of a block's weights with one or two tiles of value columns.
    template <int tiles_wide>
    void add(const uint32_t* values, int64_t column, int64_t panels) {
        TileSums::load<tiles_wide>(totals_.data() + column, columns_);
        add_products<bfloat16, tiles_wide>(weights(), reinterpret_cast<const uint8_t*>(values), columns_,
                                           2 * panels);
        TileSums::store<tiles_wide>(totals_.data() + column, columns_);
    }

    uint8_t* weights() { return reinterpret_cast<uint8_t*>(weights_.data()); }

    float* scores_of(int64_t index, int64_t at) {
        return reinterpret_cast<float*>(scores_[at].sums) + index * TileSums::row;
    }

    const Operands& of_;
    const float scale_;    // magnitude of the scale; its sign is applied to the queries
    const uint32_t sign_;  // sign bits of both elements of a pair
    int64_t pairs_, columns_;
    std::array<Row, tile_pair> rows_;
    Buffer<uint32_t> queries_;
    Buffer<float> totals_;
    Buffer<bfloat16> weights_;  // two tiles of 32 rows for each panel
    std::unique_ptr<TileSums[]> scores_ = std::make_unique<TileSums[]>(block);
};

}  // namespace softmaxkit
