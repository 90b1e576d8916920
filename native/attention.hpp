// Attention with 8-bit products: keys and values are quantised, the expected error of the products is estimated, and
// the queries are processed one stripe at a time.
#pragma once

#include <cmath>
#include <numeric>
#include <vector>

#include "attention_stripe.hpp"
#include "pool.hpp"

namespace softmaxkit {

// The expected error of 8-bit products.
struct Precision {
    bool finite = true;  // whether all inputs are finite; if not, the errors are invalid
    double scores = 0;   // root mean square error of the scores, of the worst head
    double values = 0;   // root mean square error of the values relative to their size, of the worst head

    // Takes the errors of the scores of all heads.
    void add_scores(const std::vector<double>& errors) {
        for (const double error : errors) {
            finite = finite && std::isfinite(error);
            scores = std::max(scores, error);
        }
    }
};

template <class T>
class Attention {
public:
    // Quantises keys and values to 8 bits.
    Attention(const Shape& shape, const Weights& weights, double scale, const T* query, const T* key, const T* value,
              const uint8_t* mask, T* result, int threads)
        : of_{shape, weights, scale, query, key, value, mask, result}, threads_(threads) {
        const int64_t heads = shape.batch * shape.key_heads;
        for (int64_t head = 0; head < heads; ++head) {
            of_.keys.emplace_back(of_.seen.count(), shape.channels);
            of_.values.emplace_back(of_.seen.count(), shape.value_channels);
        }
        parallel_for(heads, 1, threads_, [this](int64_t first, int64_t last) {
            for (int64_t head = first; head < last; ++head) pack(head);
        });
    }

    Attention(const Attention&) = delete;

    // What is expected before anything is multiplied, from every `stride`-th query of a head.
    Precision precision(int64_t stride) const {
        Precision expected;
        for (size_t head = 0; head < of_.keys.size(); ++head) {
            expected.finite = expected.finite && of_.keys[head].finite && of_.values[head].finite;
            expected.values = std::max(expected.values, of_.values[head].error);
        }
        if (!expected.finite) return expected;
        std::vector<double> errors(of_.shape.batch * of_.shape.heads);
        parallel_for(static_cast<int64_t>(errors.size()), 1, threads_, [&](int64_t first, int64_t last) {
            for (int64_t index = first; index < last; ++index) {
                const int64_t batch = index / of_.shape.heads, head = index % of_.shape.heads;
                const Tokens<T> queries{token(of_.query, of_.shape.query, batch, head, 0), of_.shape.query[2],
                                        of_.shape.queries, of_.shape.channels, nullptr};
                errors[index] = score_error(queries, stride, of_.scale, of_.keys[of_.key_head(batch, head)]);
            }
        });
        expected.add_scores(errors);
        return expected;
    }

    // Computes the results, which are invalid if a query is not finite. The error of the scores is that of all queries.
    Precision run() {
        const Shape& shape = of_.shape;
        const int64_t rows = stripe_rows(of_.seen.count()), heads = shape.batch * shape.heads;
        const int64_t stripes = (shape.queries + rows - 1) / rows;
        std::vector<double> noise(heads * stripes);
        parallel_for(heads * stripes, 1, threads_, [&](int64_t first, int64_t last) {
#if defined(SOFTMAXKIT_TILES)
            const tiles::Session session;
#endif
            AttentionStripe<T> stripe(of_, rows);
            for (int64_t index = first; index < last; ++index) {
                const int64_t head = index / stripes, begin = index % stripes * rows;
                const int64_t end = std::min(begin + rows, shape.queries);
                noise[index] = stripe.run(head / shape.heads, head % shape.heads, begin, end);
            }
        });
        std::vector<double> errors(heads);
        for (int64_t head = 0; head < heads; ++head) {
            const auto first = noise.begin() + head * stripes;
            errors[head] = std::sqrt(std::accumulate(first, first + stripes, 0.0) / static_cast<double>(shape.queries));
        }
        Precision reached;
        reached.add_scores(errors);
        return reached;
    }

private:
    static int64_t stripe_rows([[maybe_unused]] int64_t keys) {
#if defined(SOFTMAXKIT_TILES)
        return tile_pair;
#else
        // Several tiles, so that a loaded panel of keys is reused, as long as their scores fit the second-level cache.
        constexpr int64_t cache_bytes = int64_t{1} << 18, most_tiles = 4;
        return tile * std::clamp<int64_t>(cache_bytes / (2 * tile * std::max<int64_t>(keys, 1)), 1, most_tiles);
#endif
    }

    void pack(int64_t index) {
        const Shape& shape = of_.shape;
        const int64_t batch = index / shape.key_heads, head = index % shape.key_heads, count = of_.seen.count();
        const uint8_t* seen = of_.seen.of(batch, head);
        pack_keys(Tokens<T>{token(of_.key, shape.key, batch, head, 0), shape.key[2], count, shape.channels, seen},
                  of_.keys[index]);
        pack_values(Tokens<T>{token(of_.value, shape.value, batch, head, 0), shape.value[2], count,
                              shape.value_channels, seen},
                    of_.values[index]);
    }

    AttentionOperands<T> of_;
    const int threads_;
};

}  // namespace softmaxkit
