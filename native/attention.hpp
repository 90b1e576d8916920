// Attention with 8-bit products, one stripe of queries at a time: their 16-bit scores with all keys; 8-bit weights from
// a table, indexed by a score's distance below its row's maximum; and the products of the weights with the values.
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <numeric>
#include <type_traits>

#include "attention_shape.hpp"
#include "packed_operands.hpp"
#include "pool.hpp"
#include "seen.hpp"
#include "tile_matrix.hpp"

namespace softmaxkit {

// How the 16-bit scores of a query are interpreted and turned into weights.
struct Row {
    double unit = 0, zero = 0;  // score = unit * (16-bit score - middle) + zero
    double factor = 0;          // scales the result if weights are not normalised
    Words anchor = {}, multiplier = {};
    int resolution = 0;
    int64_t seen = 0;           // number of keys that causality lets the query attend to; 0 for a fully masked row
    const uint8_t* mask = nullptr;
};

// The expected error of 8-bit products.
struct Precision {
    bool finite = true;  // whether all inputs are finite; if not, the errors are invalid
    double scores = 0;   // root mean square error of the scores, of the worst head
    double values = 0;   // root mean square error of the values relative to their size, of the worst head
};

template <class T>
class Attention {
public:
    // Quantises keys and values to 8 bits.
    Attention(const Shape& shape, const Weights& weights, double scale, const T* query, const T* key, const T* value,
              const uint8_t* mask, T* result, int threads)
        : shape_(shape), weights_(weights), scale_(scale), query_(query), key_(key), value_(value), mask_(mask),
          result_(result), threads_(threads), seen_(shape, mask) {
        for (int64_t head = 0; head < shape_.batch * shape_.key_heads; ++head) {
            keys_.emplace_back(seen_.count(), shape_.channels);
            values_.emplace_back(seen_.count(), shape_.value_channels);
        }
        parallel_for(static_cast<int64_t>(keys_.size()), 1, threads_, [this](int64_t first, int64_t last) {
            for (int64_t head = first; head < last; ++head) pack(head);
        });
    }

    Precision precision() const {
        Precision found;
        for (size_t head = 0; head < keys_.size(); ++head) {
            found.finite = found.finite && keys_[head].finite && values_[head].finite;
            found.values = std::max(found.values, values_[head].error);
        }
        if (!found.finite) return found;
        for (int64_t index = 0; index < shape_.batch * shape_.heads; ++index) {
            found.scores = std::max(found.scores, noise(index / shape_.heads, index % shape_.heads, found.finite));
        }
        return found;
    }

    // Returns false if a query is not finite; the result is then invalid.
    bool run() {
        rows_ = stripe_rows(seen_.count());
        const int64_t stripes = (shape_.queries + rows_ - 1) / rows_;
        parallel_for(shape_.batch * shape_.heads * stripes, 1, threads_, [this, stripes](int64_t first, int64_t last) {
#if defined(SOFTMAXKIT_TILES)
            const tiles::Session session;
#endif
            Stripe stripe(*this);
            for (int64_t index = first; index < last; ++index) {
                const int64_t head = index / stripes, begin = index % stripes * rows_;
                stripe.run(head / shape_.heads, head % shape_.heads, begin, std::min(begin + rows_, shape_.queries));
            }
        });
        return finite_;
    }

private:
    static constexpr int64_t block = 8;     // panels of keys whose weights are in memory at a time
    static constexpr int64_t sampled = 32;  // queries per head from which the error of the scores is estimated

    static int64_t stripe_rows([[maybe_unused]] int64_t keys) {
#if defined(SOFTMAXKIT_TILES)
        return tile_pair;
#else
        // Several tiles, so that a loaded panel of keys is reused, as long as their scores fit the second-level cache.
        constexpr int64_t cache_bytes = int64_t{1} << 18, most_tiles = 4;
        return tile * std::clamp<int64_t>(cache_bytes / (2 * tile * std::max<int64_t>(keys, 1)), 1, most_tiles);
#endif
    }

    int64_t key_head(int64_t head) const { return head / (shape_.heads / shape_.key_heads); }

    void pack(int64_t index) {
        const int64_t batch = index / shape_.key_heads, head = index % shape_.key_heads, count = seen_.count();
        const uint8_t* seen = seen_.of(batch, head);
        pack_keys(Tokens<T>{token(key_, shape_.key, batch, head, 0), shape_.key[2], count, shape_.channels, seen},
                  keys_[index]);
        pack_values(Tokens<T>{token(value_, shape_.value, batch, head, 0), shape_.value[2], count,
                              shape_.value_channels, seen},
                    values_[index]);
    }

    // The expected root mean square error of the scores of a head.
    double noise(int64_t batch, int64_t head, bool& finite) const {
        const PackedKeys& keys = keys_[batch * shape_.key_heads + key_head(head)];
        std::vector<float> whole(rounded_up(shape_.channels, width));
        std::vector<uint8_t> to(rounded_up(shape_.channels, 4));
        double sum = 0;
        const int64_t step = (shape_.queries + sampled - 1) / sampled;
        for (int64_t index = 0; index < shape_.queries; index += step) {
            const T* from = token(query_, shape_.query, batch, head, index);
            const PackedQuery query =
                pack_query(from, shape_.channels, scale_, keys, whole.data(), to.data(), finite);
            int64_t squares = 0;
            for (int64_t channel = 0; channel < shape_.channels; ++channel) {
                squares += (to[channel] - 128) * (to[channel] - 128);
            }
            // Rounding errors of the codes of queries and keys are uniform: their root mean square is 1/sqrt(12).
            sum += double{query.step} * query.step * (static_cast<double>(squares) + keys.spread) / 12;
        }
        return std::sqrt(sum / static_cast<double>((shape_.queries + step - 1) / step));
    }

    // The working memory of one thread.
    class Stripe {
    public:
        explicit Stripe(Attention& of)
            : of_(of), padded_(rounded_up(of.seen_.count(), panel)),
              columns_(rounded_up(of.shape_.value_channels, lanes)), bytes_(4 * key_steps(of.shape_.channels)),
              rows_(of.rows_), whole_(rounded_up(of.shape_.channels, width)), queries_(of.rows_ * bytes_),
              scores_(of.rows_ * padded_), highest_(of.rows_ * panel), panel_weights_(of.rows_ * block * panel),
              sums_(of.rows_ * of.weights_.planes), totals_(of.rows_ * columns_) {}

        void run(int64_t batch, int64_t head, int64_t first, int64_t last) {
            const int64_t key_head = batch * of_.shape_.key_heads + of_.key_head(head);
            const PackedKeys& keys = of_.keys_[key_head];
            const PackedValues& values = of_.values_[key_head];
            const int64_t panels = (of_.shape_.seen(last - 1) + panel - 1) / panel;
            count_ = last - first;
            open_ = of_.shape_.masked ? 0 : of_.shape_.seen(first) / panel;
            pack_queries(batch, head, first, last, keys);
            score(keys, panels);
            for (int64_t row = 0; row < count_; ++row) anchor(rows_[row], row, head);
            std::fill_n(sums_.data(), rows_.size() * of_.weights_.planes, Sums{});
            std::fill_n(totals_.data(), static_cast<int64_t>(rows_.size()) * columns_, 0.0f);
            for (int64_t begin = 0; begin < panels; begin += block) add(values, begin, std::min(begin + block, panels));
            for (int64_t row = 0; row < count_; ++row) finish(values, row, batch, head, first + row);
        }

    private:
        void pack_queries(int64_t batch, int64_t head, int64_t first, int64_t last, const PackedKeys& keys) {
            const Shape& shape = of_.shape_;
            const int shift = score_shift(shape.channels);
            std::fill(rows_.begin(), rows_.end(), Row{});
            std::fill_n(queries_.data(), static_cast<int64_t>(rows_.size()) * bytes_, uint8_t(128));
            bool finite = true;
            for (int64_t index = first; index < last; ++index) {
                Row& row = rows_[index - first];
                const T* from = token(of_.query_, shape.query, batch, head, index);
                const PackedQuery query = pack_query(from, shape.channels, of_.scale_, keys, whole_.data(),
                                                     queries_.data() + (index - first) * bytes_, finite);
                row.unit = std::ldexp(query.step, shift);
                // The contribution of the keys' mean to the scores is added without quantisation.
                if (!of_.weights_.normalised) {
                    row.zero = of_.scale_ * product(from, keys.mean.data()) - double{query.step} * query.of_mean;
                }
                row.seen = shape.seen(index);
                if (shape.masked) row.mask = token(of_.mask_, shape.mask, batch, head, index);
            }
            if (!finite) of_.finite_ = false;
        }

        double product(const T* query, const float* mean) const {
            constexpr int64_t chains = 8;
            const int64_t channels = of_.shape_.channels;
            std::array<double, chains> sums{};
            int64_t channel = 0;
            for (; channel + chains <= channels; channel += chains) {
                for (int64_t chain = 0; chain < chains; ++chain) {
                    sums[chain] += double{to_float(query[channel + chain])} * double{mean[channel + chain]};
                }
            }
            for (; channel < channels; ++channel) sums[0] += double{to_float(query[channel])} * double{mean[channel]};
            return std::accumulate(sums.begin(), sums.end(), 0.0);
        }

        // Computes the scores of all rows.
        void score(const PackedKeys& keys, int64_t panels) {
            const int64_t count = static_cast<int64_t>(rows_.size());
            std::fill_n(highest_.data(), count * panel, uint16_t(0));
            const int shift = score_shift(of_.shape_.channels);
            Buffer<uint16_t> aside(at_once * panel);
            std::fill_n(aside.data(), at_once * panel, uint16_t(0));
#if defined(SOFTMAXKIT_TILES)
            if (bytes_ == tiles::row_bytes) TileSums::load_rows(queries_.data(), bytes_);
#endif
            for (int64_t at = 0; at < panels; ++at) {
                const auto* with = keys.panels.data() + at * panel * bytes_;
                const int32_t* start = keys.start.data() + at * panel;
#if defined(SOFTMAXKIT_TILES)
                score_panel<int8_t>(queries_.data(), bytes_, reinterpret_cast<const uint8_t*>(with), *tile_sums_);
                narrow_panel(*tile_sums_, count_, start, shift, scores(0, at),
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

        uint64_t visible(const Row& row, int64_t at) const {
            return seen_of_panel(row.seen, row.mask, of_.shape_.mask[3], at);
        }

        // Sets a row's anchor, the step of its distances, and the factor of its weights.
        void anchor(Row& row, int64_t index, int64_t head) {
            const Weights& weights = of_.weights_;
            const uint16_t* top = highest_.data() + index * panel;
            uint16_t highest = 0;
            for (int64_t key = 0; key < panel; ++key) highest = std::max(highest, top[key]);
            if (highest == 0) row.seen = 0;  // fully masked
            row.anchor = Words{} + highest;
            double step = weights.step;
            while (row.unit > step && row.resolution + 1 < weights.resolutions) {
                step *= 2;
                ++row.resolution;
            }
            row.multiplier = Words{} + word(65536.0 * row.unit / step);
            if (weights.normalised) return;
            const double offset = weights.offsets[head] + weights.limit;
            constexpr double zero = static_cast<double>(middle);
            double place = highest;  // 16-bit position of the limit, or of the largest score if that is below it
            if (row.unit > 0) place = std::clamp((offset - row.zero) / row.unit + zero, 0.0, place);
            const double value = row.unit * (place - zero) + row.zero - offset;
            row.factor = std::exp(static_cast<float>(std::min(value, 0.0) + weights.limit)) / weights.one;
            // Half a step more, so that distances are rounded rather than truncated.
            const double half = row.unit > 0 ? step / 2 / row.unit : 0.0;
            row.anchor = Words{} + word(place + half);
        }

        static uint16_t word(double value) {
            return static_cast<uint16_t>(std::min(std::nearbyint(value), 65535.0));
        }

        // Adds the products of the weights and values of a block of panels.
        void add(const PackedValues& values, int64_t begin, int64_t end) {
            for (int plane = 0; plane < of_.weights_.planes; ++plane) {
                of_.weights_.normalised ? weigh_rows<true>(plane, begin, end) : weigh_rows<false>(plane, begin, end);
                const float power = static_cast<float>(power_of(plane));
                const int8_t* from = values.panels.data() + 4 * begin * panel_steps * columns_;
                for (int64_t row = 0; row < count_; row += at_once) {
                    for (int64_t column = 0; column < columns_; column += 4 * lanes) {
                        const auto part = [&](auto vectors) {
                            float* to = totals_.data() + row * columns_ + column;
#if defined(SOFTMAXKIT_TILES)
                            value_block<vectors>(weights(0, 0), count_,
                                                 reinterpret_cast<const uint8_t*>(from + 4 * column), columns_,
                                                 end - begin, power, *tile_sums_, to);
#else
                            value_tile<vectors>(weights(row, 0), block * panel, from + 4 * column, columns_,
                                                (end - begin) * panel_steps, power, to);
#endif
                        };
                        const int64_t vectors = std::min<int64_t>((columns_ - column) / lanes, 4);
                        if (vectors == 1) part(std::integral_constant<int, 1>{});
                        if (vectors == 2) part(std::integral_constant<int, 2>{});
                        if (vectors == 3) part(std::integral_constant<int, 3>{});
                        if (vectors == 4) part(std::integral_constant<int, 4>{});
                    }
                }
            }
        }

        template <bool summed>
        void weigh_rows(int plane, int64_t begin, int64_t end) {
            const Weights weights_of = of_.weights_;
            const auto one = [&](const Row& row, int64_t at, const uint16_t* from, uint8_t* to, Sums& sum) {
                const uint8_t* table = weights_of.of(row.resolution, plane) + at % Weights::variants * codes;
                weigh<summed>(from, row.anchor, row.multiplier, table, visible(row, at), to, sum);
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

        int64_t power_of(int plane) const { return int64_t{1} << 8 * (of_.weights_.planes - 1 - plane); }

        void finish(const PackedValues& values, int64_t index, int64_t batch, int64_t head, int64_t query) {
            const Shape& shape = of_.shape_;
            const int64_t count = static_cast<int64_t>(rows_.size());
            double factor = rows_[index].factor;
            if (of_.weights_.normalised) {
                int64_t sum = 0;
                for (int plane = 0; plane < of_.weights_.planes; ++plane) {
                    const Sums& part = sums_.data()[plane * count + index];
                    for (int64_t lane = 0; lane < lanes; ++lane) sum += power_of(plane) * part[lane];
                }
                factor = sum > 0 ? 1.0 / static_cast<double>(sum) : 0.0;
            }
            T* to = token(of_.result_, shape.result, batch, head, query);
            const float* totals = totals_.data() + index * columns_;
            for (int64_t channel = 0; channel < shape.value_channels; channel += width) {
                const int64_t some = std::min(width, shape.value_channels - channel);
                const Vector by = static_cast<float>(factor);
                put(to + channel, load(totals + channel) * by * load(values.steps.data() + channel), some);
            }
        }

#if defined(SOFTMAXKIT_TILES)
        static constexpr int64_t at_once = tile_pair;
        std::unique_ptr<TileSums> tile_sums_ = std::make_unique<TileSums>();
#else
        static constexpr int64_t at_once = tile;
#endif
        Attention& of_;
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

    const Shape shape_;
    const Weights weights_;
    const double scale_;
    const T *query_, *key_, *value_;
    const uint8_t* mask_;
    T* result_;
    const int threads_;
    const SeenKeys seen_;
    std::vector<PackedKeys> keys_;
    std::vector<PackedValues> values_;
    int64_t rows_ = tile;
    std::atomic<bool> finite_{true};
};

}  // namespace softmaxkit
