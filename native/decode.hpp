// Attention of a few queries over many keys, in float32: keys and values are read once, in chunks that threads share,
// whose parts are then merged.
#pragma once

#include <array>
#include <atomic>
#include <cmath>

#include "attention_shape.hpp"
#include "levels.hpp"
#include "pool.hpp"
#include "quantise.hpp"

namespace softmaxkit {

// How scores become probabilities: by levels, or, where there are none, as exp(score - offset).
struct Normalisation {
    Levels levels;
    const float* offsets;  // of each head
    float limit;           // of score - offset
};

// Element is float, bfloat16, or int8_t with a step for each key and value.
template <class Element>
class Decode {
public:
    Decode(const Shape& shape, const Normalisation& how, float scale, const float* query, const Element* key,
           const Element* value, const float* key_steps, const float* value_steps, const uint8_t* mask, float* result)
        : shape_(shape), how_(how), scale_(scale), query_(query), key_(key), value_(value), key_steps_(key_steps),
          value_steps_(value_steps), mask_(mask), result_(result), group_(shape.heads / shape.key_heads),
          rows_(group_ * shape.queries), chunks_((shape.keys + chunk - 1) / chunk),
          parts_(shape.batch * shape.key_heads * chunks_), columns_(rounded_up(shape.value_channels, width)),
          scores_(parts_ * rows_ * chunk), highest_(parts_ * rows_),
          sums_(parts_ * rows_), totals_(parts_ * rows_ * columns_) {}

    // False where a score is NaN or infinite: the result then means nothing.
    bool run(int threads) {
        const auto all_parts = [&](auto&& work) {
            parallel_for(parts_, 1, threads, [&](int64_t first, int64_t last) {
                for (int64_t part = first; part < last; ++part) work(part);
            });
        };
        all_parts([this](int64_t part) { score(part); });
        if (!finite_) return false;
        all_parts([this](int64_t part) { add(part); });
        for (int64_t head = 0; head < shape_.batch * shape_.key_heads; ++head) {
            for (int64_t row = 0; row < rows_; ++row) merge(head, row);
        }
        return true;
    }

private:
    static constexpr int64_t chunk = 1024;   // keys
    static constexpr int64_t together = 4;   // keys, so that one sum does not wait for the one before
    static constexpr int64_t ahead = 16;     // keys: so early memory is asked for
    static constexpr int64_t line = 64 / sizeof(Element);  // elements of a cache line

    struct Place {
        int64_t batch, key_head, first, count;
    };

    Place place(int64_t part) const {
        const int64_t head = part / chunks_, first = part % chunks_ * chunk;
        return {head / shape_.key_heads, head % shape_.key_heads, first, std::min(chunk, shape_.keys - first)};
    }

    int64_t head_of(int64_t key_head, int64_t row) const { return key_head * group_ + row / shape_.queries; }
    float* scores(int64_t part, int64_t row) { return scores_.data() + (part * rows_ + row) * chunk; }

    const float* query_of(const Place& at, int64_t row) const {
        return token(query_, shape_.query, at.batch, head_of(at.key_head, row), row % shape_.queries);
    }

    void score(int64_t part) {
        const Place at = place(part);
        const Element* keys = token(key_, shape_.key, at.batch, at.key_head, at.first);
        std::vector<const float*> queries(rows_);
        for (int64_t row = 0; row < rows_; ++row) queries[row] = query_of(at, row);
        for (int64_t first = 0; first < at.count; first += together) {
            const Tokens from = tokens(keys, shape_.key[2], first, at.count, shape_.channels);
            for (int64_t row = 0; row < rows_; ++row) {
                std::array<Vector, together> sums;
                sums.fill(0.0f);
                for_vectors(shape_.channels, [&](int64_t channel, auto read) {
                    const Vector query = read(queries[row] + channel);
                    for (int64_t key = 0; key < together; ++key) sums[key] += read(from[key] + channel) * query;
                });
                float* products = scores(part, row) + first;
                for (int64_t key = 0; key < together; ++key) products[key] = scale_ * stdx::reduce(sums[key]);
            }
        }
        for (int64_t row = 0; row < rows_; ++row) times_steps(key_steps_, at, scores(part, row));
        for (int64_t row = 0; row < rows_; ++row) {
            float* row_scores = scores(part, row);
            std::fill(row_scores + at.count, row_scores + chunk, -infinity);
            hide(at, row, row_scores);
            Vector highest = -infinity;
            bool finite = true;
            for (int64_t key = 0; key < at.count; key += width) {
                const Vector score = load(row_scores + key);
                finite = finite && stdx::all_of(score < infinity);
                highest = stdx::max(highest, score);
            }
            if (!finite) finite_ = false;
            highest_.data()[part * rows_ + row] = stdx::hmax(highest);
        }
    }

    using Tokens = std::array<const Element*, together>;

    // The next few tokens, the last one again where there are fewer; those far ahead are asked for.
    static Tokens tokens(const Element* from, int64_t stride, int64_t first, int64_t count, int64_t channels) {
        Tokens next;
        for (int64_t index = 0; index < together; ++index) {
            next[index] = from + std::min(first + index, count - 1) * stride;
            for (int64_t channel = 0; channel < channels; channel += line) {
                __builtin_prefetch(next[index] + ahead * stride + channel);
            }
        }
        return next;
    }

    template <class Body>
    static void for_vectors(int64_t channels, const Body& body) {
        int64_t channel = 0;
        for (; channel + width <= channels; channel += width) body(channel, [](auto* from) { return load(from); });
        const int64_t rest = channels - channel;
        if (rest > 0) body(channel, [rest](auto* from) { return load_upto(from, rest); });
    }

    void times_steps(const float* steps, const Place& at, float* values) const {
        if (steps == nullptr) return;
        steps += (at.batch * shape_.key_heads + at.key_head) * shape_.step + at.first;
        for (int64_t key = 0; key < at.count; ++key) values[key] *= steps[key];
    }

    void hide(const Place& at, int64_t row, float* scores) const {
        const int64_t query = row % shape_.queries, seen = shape_.seen(query) - at.first;
        for (int64_t key = std::max<int64_t>(seen, 0); key < at.count; ++key) scores[key] = -infinity;
        if (!shape_.masked) return;
        const uint8_t* mask = token(mask_, shape_.mask, at.batch, head_of(at.key_head, row), query);
        for (int64_t key = 0; key < at.count; ++key) {
            if (!mask[(at.first + key) * shape_.mask[3]]) scores[key] = -infinity;
        }
    }

    void add(int64_t part) {
        const Place at = place(part);
        std::fill_n(totals_.data() + part * rows_ * columns_, rows_ * columns_, 0.0f);
        for (int64_t row = 0; row < rows_; ++row) sums_.data()[part * rows_ + row] = weigh(at, part, row);
        const Element* values = token(value_, shape_.value, at.batch, at.key_head, at.first);
        for (int64_t first = 0; first < at.count; first += together) {  // beyond the end weights are 0
            const Tokens from = tokens(values, shape_.value[2], first, at.count, shape_.value_channels);
            for (int64_t row = 0; row < rows_; ++row) {
                const float* weights = scores(part, row) + first;
                float* totals = totals_.data() + (part * rows_ + row) * columns_;
                for_vectors(shape_.value_channels, [&](int64_t channel, auto read) {
                    Vector total = load(totals + channel);
                    for (int64_t key = 0; key < together; ++key) total += weights[key] * read(from[key] + channel);
                    store(totals + channel, total);
                });
            }
        }
    }

    // Turns a part's scores of a row into weights, times the steps of the values; returns the sum of the weights.
    double weigh(const Place& at, int64_t part, int64_t row) {
        float* weights = scores(part, row);
        float highest = -infinity;
        const int64_t first = part - part % chunks_;
        for (int64_t other = first; other < first + chunks_; ++other) {
            highest = std::max(highest, highest_.data()[other * rows_ + row]);
        }
        if (highest == -infinity) {
            std::fill_n(weights, chunk, 0.0f);
            return 0.0;
        }
        const auto all = [&](auto&& weight) {
            Vector sum = 0.0f;
            for (int64_t key = 0; key < chunk; key += width) {
                const Vector score = load(weights + key);
                Vector result = weight(score);
                stdx::where(!(score > -infinity), result) = 0.0f;
                store(weights + key, result);
                sum += result;
            }
            return static_cast<double>(stdx::reduce(sum));
        };
        const auto by_levels = [&](auto count) {
            return all([&](const Vector& score) {
                return pick<count>(level_of<count>(score - highest, how_.levels), how_.levels.exponentials);
            });
        };
        double sum = 1.0;
        if (how_.levels.count == 0) {
            const float offset = how_.offsets[head_of(at.key_head, row)];
            all([&](const Vector& score) { return exp2(smaller(Vector(how_.limit), score - offset) * log2e); });
        }
        if (how_.levels.count == 4) sum = by_levels(std::integral_constant<int, 4>{});
        if (how_.levels.count == 8) sum = by_levels(std::integral_constant<int, 8>{});
        if (how_.levels.count == 16) sum = by_levels(std::integral_constant<int, 16>{});
        times_steps(value_steps_, at, weights);
        return sum;
    }

    void merge(int64_t head, int64_t row) {
        const Place at = place(head * chunks_);
        float* to = token(result_, shape_.result, at.batch, head_of(at.key_head, row), row % shape_.queries);
        const int64_t first = head * chunks_, last = first + chunks_;
        double sum = 0;
        for (int64_t part = first; part < last; ++part) sum += sums_.data()[part * rows_ + row];
        const double factor = how_.levels.count == 0 ? 1.0 : sum > 0 ? 1.0 / sum : 0.0;
        for (int64_t channel = 0; channel < shape_.value_channels; ++channel) {
            double total = 0;
            for (int64_t part = first; part < last; ++part) {
                total += totals_.data()[(part * rows_ + row) * columns_ + channel];
            }
            to[channel] = static_cast<float>(total * factor);
        }
    }

    const Shape& shape_;
    const Normalisation& how_;
    const float scale_;
    const float* query_;
    const Element *key_, *value_;
    const float *key_steps_, *value_steps_;
    const uint8_t* mask_;
    float* result_;
    const int64_t group_, rows_, chunks_, parts_, columns_;
    Buffer<float> scores_, highest_;
    Buffer<double> sums_;
    Buffer<float> totals_;
    std::atomic<bool> finite_{true};
};

}  // namespace softmaxkit
