// One stripe of queries of attention with 8-bit products: their 16-bit scores with all keys; 8-bit weights from a
// table, indexed by a score's distance below its row's maximum; and the products of the weights with the values.
#pragma once

#include <limits>
#include <type_traits>

#include "attention_arguments.hpp"
#include "attention_row.hpp"
#include "packed_operands.hpp"
#include "tile_matrix.hpp"

namespace softmaxkit {

// The arguments of a call, and its keys and values in 8 bits, one element for each key head of each sequence.
template <class T>
struct AttentionOperands : Arguments<T> {
    Weights weights;
    SeenKeys seen{this->shape, this->mask};
    std::vector<PackedKeys> keys{};
    std::vector<PackedValues> values{};

    void prepare() {
        for (int64_t head = 0; head < this->shape.batch * this->shape.key_heads; ++head) {
            keys.emplace_back(seen.count(), this->shape.channels);
            values.emplace_back(seen.count(), this->shape.value_channels);
        }
    }

    void pack(int64_t head) {
        pack_keys(this->keys_of(head, &seen), keys[head]);
        pack_values(this->values_of(head, &seen), values[head]);
    }

    Precision packed() const {
        Precision expected;
        for (size_t head = 0; head < keys.size(); ++head) {
            expected.finite = expected.finite && keys[head].finite && values[head].finite;
            expected.values = std::max(expected.values, values[head].error);
        }
        return expected;
    }

    double score_error(int64_t batch, int64_t head, int64_t stride) const {
        return softmaxkit::score_error(this->queries_of(batch, head), stride, this->scale,
                                       keys[this->key_head(batch, head)]);
    }
};

// The queries of a stripe, with the working memory for them; a thread computes one stripe after the other.
template <class T>
class AttentionStripe {
public:
    using Operands = AttentionOperands<T>;

    // The queries of a stripe, given the number of keys.
    static int64_t rows_for([[maybe_unused]] int64_t keys) {
#if defined(SOFTMAXKIT_TILES)
        return tile_pair;
#else
        // Several tiles, so that a loaded panel of keys is reused, as long as their scores fit the second-level cache.
        constexpr int64_t cache_bytes = int64_t{1} << 18, most_tiles = 4;
        return tile * std::clamp<int64_t>(cache_bytes / (2 * tile * std::max<int64_t>(keys, 1)), 1, most_tiles);
#endif
    }

    AttentionStripe(const Operands& of, int64_t rows)
        : of_(of), padded_(rounded_up(of.seen.count(), panel)),
          columns_(rounded_up(of.shape.value_channels, lanes)), bytes_(per_lane * key_steps(of.shape.channels)),
          rows_(rows), whole_(rounded_up(of.shape.channels, width)), queries_(rows * bytes_), scores_(rows * padded_),
          highest_(rows * panel), panel_weights_(of.weights.planes * plane_bytes()), sums_(rows * of.weights.planes),
          totals_(rows * columns_) {}

    // Computes the results of queries `first` to `last` and returns the sum of the expected mean square errors of their
    // scores; NaN, with invalid results, if a query is not finite.
    double run(int64_t batch, int64_t head, int64_t first, int64_t last) {
        const int64_t key_head = of_.key_head(batch, head);
        const PackedKeys& keys = of_.keys[key_head];
        const PackedValues& values = of_.values[key_head];
        const int64_t panels = (of_.shape.seen(last - 1) + panel - 1) / panel;
        count_ = last - first;
        open_ = of_.shape.masked ? 0 : of_.shape.seen(first) / panel;
        const double noise = pack_queries(batch, head, first, last, keys);
        score(keys, panels);
        for (int64_t row = 0; row < count_; ++row) rows_[row].set_anchor(highest(row), of_.weights, head);
        std::fill_n(sums_.data(), rows_.size() * of_.weights.planes, Sums{});
        std::fill_n(totals_.data(), static_cast<int64_t>(rows_.size()) * columns_, 0.0f);
        for (int64_t begin = 0; begin < panels; begin += block) add(values, begin, std::min(begin + block, panels));
        for (int64_t row = 0; row < count_; ++row) finish(values, row, batch, head, first + row);
        return noise;
    }

private:
    static constexpr int64_t block = 8;  // panels of keys whose weights are in memory at a time

    double pack_queries(int64_t batch, int64_t head, int64_t first, int64_t last, const PackedKeys& keys) {
        const Shape& shape = of_.shape;
        const int shift = score_shift(shape.channels);
        std::fill(rows_.begin(), rows_.end(), Row{});
        std::fill_n(queries_.data(), static_cast<int64_t>(rows_.size()) * bytes_, uint8_t(128));
        bool finite = true;
        double noise = 0;
        for (int64_t index = first; index < last; ++index) {
            Row& row = rows_[index - first];
            const T* from = of_.query_at(batch, head, index);
            const PackedQuery query = pack_query(from, shape.channels, of_.scale, keys, whole_.data(),
                                                 queries_.data() + (index - first) * bytes_, finite);
            row.unit = std::ldexp(query.step, shift);
            noise += score_noise(query.norm, query.step, keys);
            // The contribution of the keys' mean to the scores is added without quantisation.
            if (!of_.weights.normalised()) {
                const double of_mean = of_.scale * product(from, keys.mean.data(), shape.channels);
                row.zero = of_mean - double{query.step} * query.of_mean;
            }
            row.seen = shape.seen(index);
            row.mask = of_.mask_of(batch, head, index);
        }
        return finite ? noise : std::numeric_limits<double>::quiet_NaN();
    }

    // Computes the scores of all rows.
    void score(const PackedKeys& keys, int64_t panels) {
        const int64_t count = static_cast<int64_t>(rows_.size());
        std::fill_n(highest_.data(), count * panel, uint16_t(0));
        const int shift = score_shift(of_.shape.channels);
        Buffer<uint16_t> aside(at_once * panel);
        std::fill_n(aside.data(), at_once * panel, uint16_t(0));
#if defined(SOFTMAXKIT_TILES)
        if (bytes_ == tiles::row_bytes) TileSums::load_rows(queries_.data(), bytes_);
#endif
        for (int64_t at = 0; at < panels; ++at) {
            const auto* with = keys.panels.data() + at * panel * bytes_;
            const int32_t* start = keys.start.data() + at * panel;
#if defined(SOFTMAXKIT_TILES)
            score_panel<int8_t>(queries_.data(), bytes_, reinterpret_cast<const uint8_t*>(with), tile_sums_[0]);
            narrow_panel(tile_sums_[0], count_, start, shift, scores(0, at),
                         at < open_ ? highest_.data() : aside.data());
#else
            for (int64_t row = 0; row < count; row += tile) {
                score_tile(queries_.data() + row * bytes_, keys.steps, with, start, shift, scores(row, at),
                           padded_, at < open_ ? highest_.data() + row * panel : aside.data());
            }
#endif
        }
        for (int64_t row = 0; row < count_; ++row) {
            for (int64_t at = open_; at < panels; ++at) {
                hide(scores(row, at), visible(rows_[row], at), highest_.data() + row * panel);
            }
        }
    }

    // With AMX tiles, the scores and weights of a panel are contiguous across rows; otherwise those of a row are
    // contiguous across panels.
#if defined(SOFTMAXKIT_TILES)
    uint16_t* scores(int64_t row, int64_t at) { return scores_.data() + (at * tile_pair + row) * panel; }
    uint8_t* weights(int64_t row, int64_t at) { return panel_weights_.data() + (at * tile_pair + row) * panel; }
#else
    uint16_t* scores(int64_t row, int64_t at) { return scores_.data() + row * padded_ + at * panel; }
    uint8_t* weights(int64_t row, int64_t at) { return panel_weights_.data() + (row * block + at) * panel; }
#endif

    // The largest score of a row.
    uint16_t highest(int64_t row) const {
        const uint16_t* top = highest_.data() + row * panel;
        uint16_t highest = 0;
        for (int64_t key = 0; key < panel; ++key) highest = std::max(highest, top[key]);
        return highest;
    }

    uint64_t visible(const Row& row, int64_t at) const {
        return seen_of_panel(row.seen, row.mask, of_.shape.mask[3], at);
    }

    int64_t plane_bytes() const { return static_cast<int64_t>(rows_.size()) * block * panel; }

    // Adds the products of the weights and values of a block of panels.
    void add(const PackedValues& values, int64_t begin, int64_t end) {
        const int planes = of_.weights.planes;
        for (int plane = 0; plane < planes; ++plane) {
            of_.weights.normalised() ? weigh_rows<true>(plane, begin, end) : weigh_rows<false>(plane, begin, end);
        }
        const Code* from = values.panels.data() + begin * panel * columns_;
        for (int64_t row = 0; row < count_; row += at_once) {
            for (int64_t column = 0; column < columns_; column += 4 * lanes) {
                with_vectors((columns_ - column) / lanes, [&](auto vectors) {
                    float* to = totals_.data() + row * columns_ + column;
#if defined(SOFTMAXKIT_TILES)
                    value_block<vectors>(weights(0, 0), count_, plane_bytes(), planes,
                                         reinterpret_cast<const uint8_t*>(from + per_lane * column), columns_,
                                         end - begin, tile_sums_.get(), to);
#else
                    value_tile<vectors>(weights(row, 0), block * panel, plane_bytes(), planes,
                                        from + per_lane * column, columns_, (end - begin) * panel_steps, to);
#endif
                });
            }
        }
    }

    template <bool summed>
    void weigh_rows(int plane, int64_t begin, int64_t end) {
        const Weights weights_of = of_.weights;
        const int64_t of_plane = plane * plane_bytes();
        const auto one = [&](const Row& row, int64_t at, const uint16_t* from, uint8_t* to, Sums& sum) {
            const uint8_t* table = weights_of.of(row.table, plane) + at % Weights::variants * codes;
            weigh<summed>(from, row.anchor, row.multiplier, table, visible(row, at), to + of_plane, sum);
        };
        Sums* sums = sums_.data() + plane * rows_.size();
#if defined(SOFTMAXKIT_TILES)
        const int64_t count = count_;
        const Row* rows = rows_.data();
        for (int64_t at = begin; at < end; ++at) {
            const uint16_t* from = scores(0, at);
            uint8_t* to = weights(0, at - begin);
            for (int64_t row = 0; row < count; ++row, from += panel, to += panel) {
                one(rows[row], at, from, to, sums[row]);
            }
        }
#else
        for (int64_t index = 0; index < count_; ++index) {
            const Row row = rows_[index];
            Sums sum = sums[index];
            for (int64_t at = begin; at < end; ++at) {
                one(row, at, scores(index, at), weights(index, at - begin), sum);
            }
            sums[index] = sum;
        }
#endif
    }

    int64_t power_of(int plane) const { return int64_t{1} << 8 * (of_.weights.planes - 1 - plane); }

    void finish(const PackedValues& values, int64_t index, int64_t batch, int64_t head, int64_t query) {
        const Shape& shape = of_.shape;
        const int64_t count = static_cast<int64_t>(rows_.size());
        double factor = rows_[index].factor;
        if (of_.weights.normalised()) {
            int64_t sum = 0;
            for (int plane = 0; plane < of_.weights.planes; ++plane) {
                const Sums& part = sums_.data()[plane * count + index];
                for (int64_t lane = 0; lane < lanes; ++lane) sum += power_of(plane) * part[lane];
            }
            factor = sum > 0 ? 1.0 / static_cast<double>(sum) : 0.0;
        }
        T* to = of_.result_at(batch, head, query);
        const float* totals = totals_.data() + index * columns_;
        for (int64_t channel = 0; channel < shape.value_channels; channel += width) {
            const int64_t some = std::min(width, shape.value_channels - channel);
            const Vector by = static_cast<float>(factor);
            put(to + channel, load(totals + channel) * by * load(values.steps.data() + channel), some);
        }
    }

#if defined(SOFTMAXKIT_TILES)
    static constexpr int64_t at_once = tile_pair;
    std::unique_ptr<TileSums[]> tile_sums_ = std::make_unique<TileSums[]>(2);
#else
    static constexpr int64_t at_once = tile;
#endif
    const Operands& of_;
    int64_t padded_, columns_, bytes_;
    int64_t count_ = 0;  // rows of this stripe
    int64_t open_ = 0;   // first panel with keys that some row does not attend to
    std::vector<Row> rows_;
    std::vector<float> whole_;
    Buffer<uint8_t> queries_;
    Buffer<uint16_t> scores_, highest_;
    Buffer<uint8_t> panel_weights_;
    Buffer<Sums> sums_;
    Buffer<float> totals_;
};

}  // namespace softmaxkit
