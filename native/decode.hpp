// Attention of a few queries over many keys. Keys and values are read once, in chunks distributed over the threads; the
// partial results are then merged. Tokens beyond a sequence's length, and tokens at either end of a chunk that the mask
// hides from all queries, are not read.
#pragma once

#include <atomic>
#include <cmath>
#include <vector>

#include "exponential.hpp"
#include "few_queries.hpp"
#include "level_table.hpp"
#include "levels.hpp"
#include "logistic.hpp"
#include "pool.hpp"
#include "quantise.hpp"

namespace softmaxkit {

// How scores become weights: by levels, a few or a table of many, one set for all heads or one for each; by softmax; or
// where there are offsets, as exp(min(score - offset, limit)) or the logistic function of score - offset.
struct Normalisation {
    std::vector<Levels> few{};
    std::vector<LevelTable> tables{};
    const float* offsets = nullptr;  // per head
    float limit = 0.0f;              // upper bound of score - offset
    bool logistic = false;
    float rate = 0.0f;               // of softmax: binary logarithm of its base; or 0

    bool is_relative() const { return offsets == nullptr; }  // to the maximum, and divided by the sum
    static const auto& of_head(const auto& sets, int64_t head) { return sets[sets.size() > 1 ? head : 0]; }
};

// `Keys` computes the scores of a span, `Values` adds up values times weights: PlainKeys and PlainValues, or CodedKeys
// and CodedValues.
template <class Keys, class Values>
class Decode {
public:
    Decode(const FewQueries& queries, const Normalisation& how, const Keys& keys, const Values& values,
           const float* shifts, const int64_t* lengths, const uint8_t* mask, float* result)
        : queries_(queries), shape_(queries.shape), how_(how), keys_(keys), values_(values), shifts_(shifts),
          lengths_(lengths), mask_(mask), result_(result), rows_(queries.rows()),
          chunks_((shape_.keys + chunk - 1) / chunk),
          parts_(shape_.batch * shape_.key_heads * chunks_), columns_(values.columns()),
          spans_(parts_), scores_(parts_ * rows_ * chunk), highest_(parts_ * rows_), sums_(parts_ * rows_),
          totals_(parts_ * rows_ * columns_) {}

    // Returns false if a score is NaN or +infinity; the result is then invalid.
    bool run(int threads) {
        const auto all_parts = [&](auto&& work) {
            parallel_for(parts_, 1, threads, [&](int64_t first, int64_t last) {
                for (int64_t part = first; part < last; ++part) work(part);
            });
        };
        if (!how_.is_relative()) {  // one pass per part is enough
            all_parts([this](int64_t part) {
                score(part);
                if (finite_) add(part);
            });
        } else {
            all_parts([this](int64_t part) { score(part); });
            if (finite_) all_parts([this](int64_t part) { add(part); });
        }
        if (!finite_) return false;
        for (int64_t head = 0; head < shape_.batch * shape_.key_heads; ++head) {
            for (int64_t row = 0; row < rows_; ++row) merge(head, row);
        }
        return true;
    }

private:
    static constexpr int64_t chunk = 1024;  // keys

    float* scores(int64_t part, int64_t row) { return scores_.data() + (part * rows_ + row) * chunk; }

    const uint8_t* mask_of(const Span& at, int64_t row) const {
        return token(mask_, shape_.mask, at.batch, queries_.head_of(at.key_head, row), row % shape_.queries);
    }

    // The keys of a part from the first to the last that any row attends to.
    Span seen(int64_t part) const {
        const int64_t head = part / chunks_, first = part % chunks_ * chunk;
        Span at{head / shape_.key_heads, head % shape_.key_heads, first, 0};
        int64_t last = std::min(first + chunk, shape_.seen(shape_.queries - 1));
        if (lengths_ != nullptr) last = std::min(last, lengths_[at.batch]);
        if (shape_.masked) {
            const auto hidden = [&](int64_t key) {
                for (int64_t row = 0; row < rows_; ++row) {
                    if (mask_of(at, row)[key * shape_.mask[3]]) return false;
                }
                return true;
            };
            while (at.first < last && hidden(at.first)) ++at.first;
            while (at.first < last && hidden(last - 1)) --last;
        }
        at.count = std::max<int64_t>(last - at.first, 0);
        return at;
    }

    void score(int64_t part) {
        const Span at = spans_[part] = seen(part);
        if (at.count > 0) keys_.score(at, scores(part, 0), chunk);
        for (int64_t row = 0; row < rows_; ++row) {
            float* row_scores = scores(part, row);
            if (shifts_ != nullptr) {
                const int64_t head = at.batch * shape_.heads + queries_.head_of(at.key_head, row);
                const float shift = shifts_[head * shape_.queries + row % shape_.queries];
                for (int64_t key = 0; key < at.count; ++key) row_scores[key] += shift;
            }
            std::fill(row_scores + at.count, row_scores + rounded_up(at.count, width), -infinity);
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

    void hide(const Span& at, int64_t row, float* scores) const {
        const int64_t seen = shape_.seen(row % shape_.queries) - at.first;
        for (int64_t key = std::max<int64_t>(seen, 0); key < at.count; ++key) scores[key] = -infinity;
        if (!shape_.masked) return;
        const uint8_t* mask = mask_of(at, row);
        for (int64_t key = 0; key < at.count; ++key) {
            if (!mask[(at.first + key) * shape_.mask[3]]) scores[key] = -infinity;
        }
    }

    void add(int64_t part) {
        const Span& at = spans_[part];
        if (at.count == 0) return;
        float* totals = totals_.data() + part * rows_ * columns_;
        std::fill_n(totals, rows_ * columns_, 0.0f);
        for (int64_t row = 0; row < rows_; ++row) sums_.data()[part * rows_ + row] = weigh(at, part, row);
        values_.add(at, scores(part, 0), chunk, totals, columns_);
    }

    // Replaces a row's scores in a part by weights and returns their sum.
    double weigh(const Span& at, int64_t part, int64_t row) {
        float* weights = scores(part, row);
        const int64_t query_head = queries_.head_of(at.key_head, row);
        const auto all = [&](auto&& weight) {
            Vector sum = 0.0f;
            for (int64_t key = 0; key < at.count; key += width) {
                const Vector score = load(weights + key);
                Vector result = weight(score);
                replace(result, !(score > -infinity), 0.0f);
                store(weights + key, result);
                sum += result;
            }
            return static_cast<double>(stdx::reduce(sum));
        };
        if (!how_.is_relative()) {
            const float offset = how_.offsets[query_head];
            if (how_.logistic) return all([&](const Vector& score) { return logistic<6>(score, -offset); });
            const Exponential of{offset, how_.limit, log2e};
            const Vector highest = of.highest_power();
            return all([&](const Vector& score) { return exp2(smaller(highest, (score - of.offset) * log2e)); });
        }
        float highest = highest_of(part - part % chunks_, row);
        if (highest == -infinity) highest = 0.0f;  // fully masked: all weights are 0
        if (how_.rate > 0.0f) return all([&](const Vector& score) { return exp2((score - highest) * how_.rate); });
        if (!how_.tables.empty()) {
            return how_.of_head(how_.tables, query_head).with_lookup([&](const auto& entry_of) {
                return all([&](const Vector& score) { return entry_of(score - highest); });
            });
        }
        const Levels& levels = how_.of_head(how_.few, query_head);
        double sum = 0.0;
        with_count(levels, [&](auto count) {
            sum = all([&](const Vector& score) {
                return pick<count>(place_of<count>(score - highest, levels), levels.exponentials);
            });
        });
        return sum;
    }

    // The largest score of a row in all parts of its key head; -infinity if it is fully masked.
    float highest_of(int64_t first_part, int64_t row) const {
        float highest = -infinity;
        for (int64_t part = first_part; part < first_part + chunks_; ++part) {
            highest = std::max(highest, highest_.data()[part * rows_ + row]);
        }
        return highest;
    }

    void merge(int64_t head, int64_t row) {
        const int64_t batch = head / shape_.key_heads, key_head = head % shape_.key_heads;
        float* to = token(result_, shape_.result, batch, queries_.head_of(key_head, row), row % shape_.queries);
        const int64_t first = head * chunks_, last = first + chunks_;
        if (highest_of(first, row) == -infinity) {  // its totals may be NaN: other rows' values, infinite, times 0
            std::fill_n(to, shape_.value_channels, 0.0f);
            return;
        }
        double sum = 0;
        for (int64_t part = first; part < last; ++part) {
            if (spans_[part].count > 0) sum += sums_.data()[part * rows_ + row];
        }
        const double factor = how_.is_relative() ? 1.0 / sum : 1.0;
        for (int64_t channel = 0; channel < shape_.value_channels; ++channel) {
            double total = 0;
            for (int64_t part = first; part < last; ++part) {
                if (spans_[part].count == 0) continue;
                total += totals_.data()[(part * rows_ + row) * columns_ + values_.place(channel)];
            }
            to[channel] = static_cast<float>(total * factor);
        }
    }

    const FewQueries& queries_;
    const Shape& shape_;
    const Normalisation& how_;
    const Keys& keys_;
    const Values& values_;
    const float* shifts_;     // (batch, heads, queries), added to all scores of a query; or null
    const int64_t* lengths_;  // per sequence, the number of leading keys to attend to; or null
    const uint8_t* mask_;
    float* result_;
    const int64_t rows_, chunks_, parts_, columns_;
    std::vector<Span> spans_;
    Buffer<float> scores_, highest_;
    Buffer<double> sums_;
    Buffer<float> totals_;
    std::atomic<bool> finite_{true};
};

}  // namespace softmaxkit
