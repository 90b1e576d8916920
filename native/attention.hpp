// Attention with 8-bit products: keys and values are quantised, the expected error of the products is estimated, and the
// queries are processed one stripe at a time.
#pragma once

#include <atomic>
#include <cmath>

#include "attention_stripe.hpp"
#include "pool.hpp"

namespace softmaxkit {

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

    Precision precision() const {
        Precision found;
        for (size_t head = 0; head < of_.keys.size(); ++head) {
            found.finite = found.finite && of_.keys[head].finite && of_.values[head].finite;
            found.values = std::max(found.values, of_.values[head].error);
        }
        if (!found.finite) return found;
        const int64_t heads = of_.shape.batch * of_.shape.heads;
        std::vector<double> errors(heads);
        parallel_for(heads, 1, threads_, [&](int64_t first, int64_t last) {
            for (int64_t head = first; head < last; ++head) {
                const int64_t batch = head / of_.shape.heads, of_batch = head % of_.shape.heads;
                const Tokens<T> queries{token(of_.query, of_.shape.query, batch, of_batch, 0), of_.shape.query[2],
                                        of_.shape.queries, of_.shape.channels, nullptr};
                errors[head] = score_error(queries, of_.scale, of_.keys[of_.key_head(batch, of_batch)]);
            }
        });
        for (const double error : errors) {
            found.finite = found.finite && std::isfinite(error);
            found.scores = std::max(found.scores, error);
        }
        return found;
    }

    // Returns false if a query is not finite; the result is then invalid.
    bool run() {
        const Shape& shape = of_.shape;
        const int64_t rows = stripe_rows(of_.seen.count());
        const int64_t stripes = (shape.queries + rows - 1) / rows;
        std::atomic<bool> finite = true;
        parallel_for(shape.batch * shape.heads * stripes, 1, threads_, [&](int64_t first, int64_t last) {
#if defined(SOFTMAXKIT_TILES)
            const tiles::Session session;
#endif
            AttentionStripe<T> stripe(of_, rows);
            for (int64_t index = first; index < last; ++index) {
                const int64_t head = index / stripes, begin = index % stripes * rows;
                const int64_t end = std::min(begin + rows, shape.queries);
                if (!stripe.run(head / shape.heads, head % shape.heads, begin, end)) finite = false;
            }
        });
        return finite;
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
