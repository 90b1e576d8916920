// One stripe of queries of softmax attention with products of 16-bit integers, a panel of 64 keys at a time: the scores
// of six queries, their weights as integers relative to the panel's largest, and their products with the values, which
// a factor for each panel relates to those of the other panels (online softmax). Where one key has most of a panel's
// weight, as the first of a text often has, what rounding leaves of the other weights is multiplied too.
#pragma once

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "attention_arguments.hpp"
#include "word_operands.hpp"
#include "word_products.hpp"

namespace softmaxkit {

// The arguments of a call, and its keys and values, one element for each key head of each sequence. Weights are
// 2^(scale * product).
template <class T>
struct WordOperands : Arguments<T> {
    SeenKeys seen{this->shape, this->mask};
    std::vector<PackedWords> heads{};

    void prepare() {
        for (int64_t head = 0; head < this->shape.batch * this->shape.key_heads; ++head) {
            heads.emplace_back(seen.count(), this->shape.channels, this->shape.value_channels);
        }
    }

    void pack(int64_t head) {
        pack_keys(this->keys_of(head, &seen), heads[head]);
        pack_values(this->values_of(head, &seen), heads[head]);
    }

    Precision packed() const {
        Precision expected;
        for (const PackedWords& head : heads) {
            expected.finite = expected.finite && head.finite;
            expected.values = std::max(expected.values, head.error);
        }
        return expected;
    }

    const PackedWords& of(int64_t batch, int64_t head) const { return heads[this->key_head(batch, head)]; }

    double score_error(int64_t batch, int64_t head, int64_t stride) const {
        const Tokens<T> queries = this->queries_of(batch, head);
        std::vector<float> whole(rounded_up(queries.channels, width));
        std::vector<uint32_t> words((queries.channels + 1) / 2);
        bool finite = true;
        double noise = 0;
        for (int64_t query = 0; query < queries.count; query += stride) {
            noise += words_of(queries.at(query), batch, head, whole.data(), words.data(), finite).noise;
        }
        if (!finite) return std::numeric_limits<double>::quiet_NaN();
        return std::sqrt(noise / static_cast<double>((queries.count + stride - 1) / stride));
    }

    // Packs a query. Its noise is the expected mean square error of its scores, in nats.
    QueryWords words_of(const T* query, int64_t batch, int64_t head, float* whole, uint32_t* to, bool& finite) const {
        const float sign = this->scale < 0 ? -1.0f : 1.0f;
        const double nats = this->scale * std::numbers::ln2;
        QueryWords packed = pack_query(query, this->shape.channels, sign, of(batch, head), whole, to, finite);
        packed.noise *= nats * nats;
        return packed;
    }
};

template <class T>
class WordStripe {
public:
    using Operands = WordOperands<T>;

    // Queries of a stripe; several tiles, so that a loaded panel of keys and values is reused.
    static int64_t rows_for(int64_t) { return 8 * tile; }

    WordStripe(const Operands& of, int64_t rows)
        : of_(of), rows_(rows), exponents_(rows / tile), pairs_(of.heads[0].pairs), columns_(of.heads[0].columns),
          whole_(rounded_up(of.shape.channels, width)), queries_(rows * pairs_), totals_(rows * columns_) {}

    // Computes the results of queries `first` to `last`, and returns the sum of the expected mean square errors of
    // their scores; NaN, with invalid results, if a query, a score or a result is not finite.
    double run(int64_t batch, int64_t head, int64_t first, int64_t last) {
        const Shape& shape = of_.shape;
        const PackedWords& with = of_.of(batch, head);
        const auto rows = static_cast<int64_t>(rows_.size());
        std::fill(rows_.begin(), rows_.end(), Row{});
        std::fill(exponents_.begin(), exponents_.end(), Exponents{});
        std::fill_n(queries_.data(), rows * pairs_, 0u);
        std::fill_n(totals_.data(), rows * columns_, 0.0f);
        overflows_ = false;
        bool finite = true;
        double noise = 0;
        for (int64_t index = first; index < last; ++index) {
            Row& row = rows_[index - first];
            const QueryWords query = of_.words_of(of_.query_at(batch, head, index), batch, head, whole_.data(),
                                                  queries_.data() + (index - first) * pairs_, finite);
            const auto scale = static_cast<float>(std::abs(of_.scale) * query.step);
            exponents_[(index - first) / tile].scale[(index - first) % tile] = std::max(scale, least_scale);
            noise += query.noise;
            row.seen = shape.seen(index);
            row.mask = of_.mask_of(batch, head, index);
        }
        const int64_t panels = (shape.seen(last - 1) + panel - 1) / panel;
        for (int64_t at = 0; at < panels; ++at) {
            for (int64_t row = 0; row < last - first; row += tile) {
                if (shape.seen(std::min(first + row + tile, last) - 1) > at * panel) add(with, row, at);
            }
        }
        for (int64_t index = first; index < last; ++index) {
            const float* totals = totals_.data() + (index - first) * columns_;
            finite = write_quotients(stdx::reduce(rows_[index - first].sum), totals, of_.result_at(batch, head, index),
                                     shape.value_channels) && finite;
        }
        return finite && !overflows_ ? noise : std::numeric_limits<double>::quiet_NaN();
    }

private:
    static constexpr float largest_weight = 14.99986f;     // as a power of two: 2^15 - 3, which `spread` makes 2^13 - 1
    static constexpr int32_t most_peaked = 32767 / 4 * 5;  // sum of weights of which the largest is more than 4/5
    static constexpr float rest_steps = 8192;
    static constexpr float rise = 32;  // in powers of two, above which a new maximum becomes the reference

    struct Row {
        Vector sum = 0.0f;  // of the weights, relative to the reference
        int64_t seen = 0;   // number of keys that causality leaves the query
        const uint8_t* mask = nullptr;
    };

    // The scores of a tile of rows as powers of two, a row in each lane.
    struct Exponents {
        Vector scale = 1.0f;                                      // of integer sums
        Vector reference = std::numeric_limits<float>::lowest();  // to which totals and sums are relative
    };
    static_assert(tile <= width);

    // Adds what a panel of keys contributes to a tile of rows.
    void add(const PackedWords& with, int64_t first, int64_t at) {
        const uint32_t* keys = with.keys.data() + at * panel * pairs_;
        word_dots<4>(sums_, queries_.data() + first * pairs_, pairs_, keys, panel, pairs_);
        alignas(64) float largest[width] = {};
        for (int64_t index = 0; index < tile; ++index) {
            largest[index] = score(rows_[first + index], sums_[index], at, scores_[index]);
        }
        Exponents& exponents = exponents_[first / tile];
        const Vector top = load(largest), highest = top * exponents.scale;
        if (stdx::any_of(top > -infinity && !(magnitude(highest) < infinity))) {
            overflows_ = true;
            return;
        }
        if (!stdx::all_of(highest <= exponents.reference + rise)) rise_to(first, highest);
        alignas(64) float factors[width], scales[width], starts[width];
        store(factors, exp2(highest - exponents.reference));
        store(scales, exponents.scale);
        Vector start = largest_weight - highest;
        replace(start, highest == -infinity, 0.0f);  // all keys are hidden
        store(starts, start);
        bool peaked[tile] = {}, any_peaked = false;
        for (int64_t index = 0; index < tile; ++index) {
            const Integers sum = weigh<false>(scores_[index], scales[index], starts[index], weights_[index]);
            const int32_t total = stdx::reduce(sum);
            rows_[first + index].sum += stdx::static_simd_cast<Vector>(sum) * factors[index];
            if (total > most_weights) {
                factors[index] *= spread(weights_[index]);
            } else if (total < most_peaked && total > 0) {
                peaked[index] = any_peaked = true;
            }
        }
        multiply(with, first, at, factors);
        if (!any_peaked) return;
        for (int64_t index = 0; index < tile; ++index) {
            factors[index] *= peaked[index] ? 1 / rest_steps : 0.0f;
            const Integers sum = weigh<true>(scores_[index], scales[index], starts[index], weights_[index]);
            rows_[first + index].sum += stdx::static_simd_cast<Vector>(sum) * factors[index];
        }
        multiply(with, first, at, factors);
    }

    // Adds the products of a tile's weights with a panel of values, times a factor for each row.
    void multiply(const PackedWords& with, int64_t first, int64_t at, const float* factors) {
        const uint32_t* values = with.values.data() + at * panel / 2 * columns_;
        const float* steps = with.value_steps.data() + at * columns_;
        float* totals = totals_.data() + first * columns_;
        for (int64_t column = 0; column < columns_; column += 4 * lanes) {
            with_vectors((columns_ - column) / lanes, [&](auto vectors) {
                add_values<vectors>(values + column, steps + column, factors, totals + column);
            });
        }
    }

    // Out of line, as its sums take all registers.
    template <int vectors>
    [[gnu::noinline]] void add_values(const uint32_t* values, const float* steps, const float* factors, float* totals) {
        word_dots<vectors>(sums_, weights_[0], panel / 2, values, columns_, panel / 2);
#pragma GCC unroll 6
        for (int64_t index = 0; index < tile; ++index) {
            const Vector factor = factors[index];
            for (int64_t column = 0; column < vectors * lanes; column += width) {
                const Integers sum(sums_[index] + column, stdx::element_aligned);
                float* total = totals + index * columns_ + column;
                store(total, load(total) + stdx::static_simd_cast<Vector>(sum) * (load(steps + column) * factor));
            }
        }
    }

    // Converts the sums of a row with a panel, hides those that it does not attend to, and returns the largest.
    SOFTMAXKIT_INLINE float score(const Row& row, const int32_t* sums, int64_t at, float* to) {
        Vector largest = -infinity;
        const uint64_t seen = seen_of_panel(row.seen, row.mask, of_.shape.mask[3], at);
#pragma GCC unroll 8
        for (int64_t key = 0; key < panel; key += width) {
            const Integers sum(sums + key, stdx::element_aligned);
            Vector score = stdx::static_simd_cast<Vector>(sum);
            if (seen != ~uint64_t{0}) hide(score, seen >> key);
            store(to + key, score);
            largest = larger(score, largest);
        }
        return stdx::hmax(largest);
    }

    // Computes the weights of a row in a panel, or what rounding leaves of them in steps of 1 / rest_steps, and returns
    // their sum, distributed over the lanes.
    template <bool rest>
    SOFTMAXKIT_INLINE Integers weigh(const float* scores, float scale, float start, uint32_t* weights) {
        const auto weight = [&](int64_t key) {
            const Vector exact = exp2<4>(smaller(load(scores + key) * scale + start, largest_weight));
            const Integers integer = rounded(exact);
            if constexpr (!rest) return integer;
            return rounded((exact - stdx::static_simd_cast<Vector>(integer)) * rest_steps);
        };
        Integers sum = 0;
#pragma GCC unroll 8
        for (int64_t key = 0; key < panel; key += 2 * width) {
            const Integers one = weight(key), other = weight(key + width);
            sum += one + other;
            ((one & 0xffff) | other << 16)
                .copy_to(reinterpret_cast<int32_t*>(weights) + key / 2, stdx::element_aligned);
        }
        return sum;
    }

    // Makes 15-bit weights whose sum is too large weights of 13 bits; returns the factor by which they are smaller.
    static float spread(uint32_t* weights) {
        for (int64_t pair = 0; pair < panel / 2; ++pair) {
            const uint32_t one = ((weights[pair] & 0xffff) + 2) >> 2, other = ((weights[pair] >> 16) + 2) >> 2;
            weights[pair] = one | other << 16;
        }
        return 4;
    }

    // Replaces the scores whose bit in `seen` is 0 by -infinity.
    static void hide(Vector& scores, uint64_t seen) {
        const Integers bits([](auto lane) { return 1 << lane; });
        replace(scores, stdx::static_simd_cast<Vector>(Integers(static_cast<int32_t>(seen)) & bits) == 0.0f, -infinity);
    }

    // Makes the highest scores of a tile's rows the references of those that they exceed by far.
    void rise_to(int64_t first, const Vector& highest) {
        Exponents& exponents = exponents_[first / tile];
        Vector risen = exponents.reference;
        replace(risen, highest > exponents.reference + rise, highest);
        const Vector factors = exp2(exponents.reference - risen);
        exponents.reference = risen;
        for (int64_t index = 0; index < tile; ++index) {
            const float factor = factors[index];
            float* totals = totals_.data() + (first + index) * columns_;
            for (int64_t column = 0; column < columns_; column += width) {
                store(totals + column, load(totals + column) * factor);
            }
            rows_[first + index].sum *= factor;
        }
    }

    const Operands& of_;
    std::vector<Row> rows_;
    std::vector<Exponents> exponents_;
    int64_t pairs_, columns_;
    bool overflows_ = false;  // whether a score does
    std::vector<float> whole_;
    Buffer<uint32_t> queries_;
    Buffer<float> totals_;
    alignas(64) int32_t sums_[tile][4 * lanes];  // of a panel of keys, or of four vectors of columns
    alignas(64) float scores_[tile][panel];
    alignas(64) uint32_t weights_[tile][panel / 2];
};

}  // namespace softmaxkit
