// Softmax of a row to any base: exponentials and their sum, block by block, relative to the maximum so far (online
// softmax), and their quotients; and its gradient.
#pragma once

#include <array>
#include <cmath>

#include "row_blocks.hpp"
#include "rows.hpp"

namespace softmaxkit {

// The exponentials of a row of T before their division by their sum, those of a block relative to the largest score up
// to its end.
template <class T>
struct Exponentials {
    static constexpr int64_t block = 4096 / sizeof(T);  // keys; a block stays in the first-level cache

    struct Maximum {  // has scratch memory of its own, by its type
        float score;
    };
    float* values;
    Maximum* maxima;  // one for each block
    int64_t keys = 0;
    float maximum = -infinity;
    double sum = 0.0;

    float factor(int64_t begin, float log2_base) const {
        if (keys <= block) return static_cast<float>(1.0 / sum);
        return static_cast<float>(std::exp2((maxima[begin / block].score - maximum) * log2_base) / sum);
    }
};

// The rows of a thread, one after the other. Results that are streamed are written while the exponentials of the next
// row are computed, so that the processor calculates while it waits for memory; `flush` writes the last one.
template <class T>
class SoftmaxRows {
public:
    SoftmaxRows(int64_t longest, float log2_base) : longest_(longest), log2_base_(log2_base) {}

    template <class Row>
    void operator()(const Row& scores, T* to, int64_t keys, const Place&) {
        constexpr bool in_place = std::is_same_v<T, float>;  // 16 bits are too coarse for the sum
        if (keys <= block) {                                 // the same in fewer steps, for short rows
            float* values;
            if constexpr (in_place) {
                values = to;
            } else {
                values = memory(0, keys).values;
            }
            const float less = finite(row_maximum(scores, keys));
            const int64_t further = std::max<int64_t>(keys, 1024);  // in the next row, or in a later one
            const auto also = prefetching(in_place ? to + further : to);
            const float sum = Of::total(Of::weigh(scores, exponential(less), values, keys, Of::zero(), further, also));
            if (is_valid(sum, scores, to, keys)) Of::scale_all(values, 1.0f / sum, to, keys);
            return;
        }
        Exponentials<T> row = memory(0, keys);
        if constexpr (in_place) row.values = to;
        for (int64_t begin = 0; begin < keys; begin += block) {
            add(scores, row, begin, begin, prefetching(to + begin + (in_place ? block : 0)));
        }
        if (is_valid(row.sum, scores, to, keys)) divide(row, to, 0, keys);
    }

    template <class Row>
    void operator()(const Row& scores, Streamed<T> to, int64_t keys, const Place&) {
        Exponentials<T> row = memory(1 - held_at_, keys);
        int64_t begin = 0;
        for (; begin < keys; begin += block) {
            const int64_t common = std::min({block, keys - begin, std::max<int64_t>(held_.keys - begin, 0)});
            const int64_t both = begin + common / vectors * vectors;
            add(scores, row, begin, both, nothing);
            divide(held_, held_to_, both, std::min(begin + block, held_.keys));
        }
        divide(held_, held_to_, begin, held_.keys);
        held_ = row;
        held_to_ = to;
        held_at_ = 1 - held_at_;
        if (!is_valid(row.sum, scores, to, keys)) held_.keys = 0;
    }

    void flush() {
        divide(held_, held_to_, 0, held_.keys);
        held_.keys = 0;
    }

private:
    using Of = Blocks<T>;
    static constexpr int64_t block = Exponentials<T>::block;
    static constexpr int64_t vectors = chains * width;
    static constexpr auto nothing = [](auto, auto) {};

    // Prefetches memory of results while exponentials are computed.
    static auto prefetching(T* results) {
        return [results](int64_t key, auto) { prefetch_results(results + key, width); };
    }

    auto exponential(float less) const {
        return [less, rate = log2_base_](const Vector& score, auto) __attribute__((always_inline)) {
            return exp2<exp2_degree<T>>((score - less) * rate);
        };
    }

    // What is subtracted from scores: 0 if all are -infinity, since -infinity less itself is NaN.
    static float finite(float maximum) { return maximum == -infinity ? 0.0f : maximum; }

    // Memory for the exponentials of one of two rows, at different places of a page, since a store to one row would
    // delay loads of the other.
    Exponentials<T> memory(int64_t which, int64_t keys) {
        constexpr int64_t apart = 576;
        const int64_t values = (longest_ + vectors - 1) / vectors * vectors + apart, maxima = longest_ / block + 1;
        if (values_ == nullptr) {
            values_ = scratch<float>(2 * values);
            maxima_ = scratch<typename Exponentials<T>::Maximum>(2 * maxima);
        }
        return {values_ + which * values, maxima_ + which * maxima, keys};
    }

    // Computes the exponentials of the block at `begin`. From there up to `both`, also divides those of the row held;
    // from there on, calls also(key, count).
    template <class Row, class Also>
    [[gnu::always_inline]] void add(const Row& scores, Exponentials<T>& row, int64_t begin, int64_t both,
                                    const Also& also) {
        const int64_t end = std::min(begin + block, row.keys);
        const float largest = row_maximum(scores + begin, end - begin);
        if (largest > row.maximum) {
            if (row.sum > 0.0) row.sum *= std::exp2((row.maximum - largest) * log2_base_);
            row.maximum = largest;
        }
        row.maxima[begin / block].score = row.maximum;
        const float less = finite(row.maximum);
        auto sums = Of::zero();
        if (both > begin) {
            const float factor = held_.factor(begin, log2_base_);
            const auto divide_held = [from = held_.values + begin, factor, to = held_to_ + begin](auto key, auto some) {
                Of::scale(from, factor, to, key, some);
            };
            constexpr int64_t further = 2048;
            sums = Of::weigh(scores + begin, exponential(less), row.values + begin, both - begin, sums, further,
                             divide_held);
        }
        sums = Of::weigh(scores + both, exponential(less), row.values + both, end - both, sums, block, also);
        row.sum += Of::total(sums);
    }

    // Divides the exponentials from `begin` up to `end`.
    template <class To>
    void divide(const Exponentials<T>& row, To to, int64_t begin, int64_t end) const {
        while (begin < end) {
            const int64_t until = std::min(end, (begin / block + 1) * block);
            Of::scale_all(row.values + begin, row.factor(begin, log2_base_), to + begin, until - begin);
            begin = until;
        }
    }

    // Whether a row can be divided by its sum; otherwise writes the result, which is 0 if the row is fully masked.
    template <class To, class Row>
    static bool is_valid(double sum, const Row& scores, To to, int64_t keys) {
        if (sum > 0.0) return true;
        sum == 0.0 ? fill_zero(to, keys) : fill_invalid(scores, to, keys);
        return false;
    }

    const int64_t longest_;  // keys of the longest row
    const float log2_base_;
    float* values_ = nullptr;
    typename Exponentials<T>::Maximum* maxima_ = nullptr;
    Exponentials<T> held_{};  // of the row whose result has not been written yet; without keys if there is none
    Streamed<T> held_to_{};
    int64_t held_at_ = 0;
};

// The gradient of the scores, given probabilities p and their gradient g: p * (g - sum(p * g)) * log(base), and 0 where
// p is 0, whatever g is.
template <class T>
void softmax_backward_row(const T* probabilities, const T* gradient, T* to, int64_t keys, float log_base) {
    const Numbers<T> p(probabilities), g(gradient);
    const float mean = mean_gradient(p, g, to, keys);
    const auto term = [=](const Vector& probability, const Vector& given) __attribute__((always_inline)) {
        Vector result = probability * (given - mean) * log_base;
        replace(result, probability == 0.0f, 0.0f);
        return result;
    };
    map_row<T>(to, keys, term, p, g);
}

}  // namespace softmaxkit
