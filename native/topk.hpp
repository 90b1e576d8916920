// The k largest probabilities of a row's softmax in one pass, which tracks the running maximum and sum of online
// softmax and the best logits so far (Milakov and Gimelshein, arXiv 1805.02867, section 4).
#pragma once

#include <algorithm>
#include <cmath>

#include "reductions.hpp"

namespace softmaxkit {

struct Candidate {
    float logit;
    int64_t index;
    bool operator<(const Candidate& other) const {  // larger logits first, equal ones by index
        return logit > other.logit || (logit == other.logit && index < other.index);
    }
};

// The k best candidates offered so far. A logit that is not above `least` is not among them.
class Best {
public:
    explicit Best(int64_t k) : k_(static_cast<size_t>(k)) { candidates_.reserve(room()); }

    float least = -infinity;

    void offer(float logit, int64_t index) {
        candidates_.push_back({logit, index});
        if (candidates_.size() == room()) shrink();
    }

    // Call once, at the end.
    const std::vector<Candidate>& sorted() {
        shrink();
        std::sort(candidates_.begin(), candidates_.end());
        return candidates_;
    }

private:
    size_t room() const { return 2 * k_ + 64; }

    void shrink() {
        if (candidates_.size() <= k_) return;
        const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(k_ - 1);
        std::nth_element(candidates_.begin(), last, candidates_.end());
        candidates_.resize(k_);
        least = candidates_.back().logit;
    }

    size_t k_;
    std::vector<Candidate> candidates_;
};

// Returns false, with the results not written, if the row contains NaN or +infinity, or fewer than k logits above
// -infinity.
template <class T>
bool topk_row(const T* logits, T* values, int64_t* indices, int64_t size, int64_t k) {
    constexpr int64_t block = 2048;  // stays in the first-level cache between the passes for its maximum and its sum
    Best best(k);
    float maximum = -infinity;
    double sum = 0.0;  // of blocks
    for (int64_t start = 0; start < size; start += block) {
        const int64_t length = std::min(block, size - start);
        const Scores<T, false> part{logits + start, nullptr};
        const float highest = row_maximum(part, length);
        if (highest > maximum) {
            sum *= std::exp2((maximum - highest) * log2e);
            maximum = highest;
        }
        Chains sums = all_chains(0.0f);
        const bool any_better = highest > best.least;
        sweep(length, [&](int64_t key, auto chain, auto count) {
            const Vector logit = part(key, count);
            sums[chain] += exp2((logit - maximum) * log2e);
            if (any_better && stdx::any_of(logit > best.least)) {
                alignas(64) float lanes[width];
                store(lanes, logit);
                for (int64_t lane = 0; lane < count; ++lane) {
                    if (lanes[lane] > best.least) best.offer(lanes[lane], start + key + lane);
                }
            }
        });
        sum += total(sums);
    }
    if (!(sum > 0.0f && sum < infinity && maximum < infinity)) return false;
    const std::vector<Candidate>& sorted = best.sorted();
    if (static_cast<int64_t>(sorted.size()) < k) return false;
    std::vector<float> best_logits(static_cast<size_t>(k));
    for (size_t rank = 0; rank < best_logits.size(); ++rank) {
        best_logits[rank] = sorted[rank].logit;
        indices[rank] = sorted[rank].index;
    }
    const Scores<float, false> scores{best_logits.data(), nullptr};
    const float scale = 1.0f / static_cast<float>(sum);
    sweep(k, [&](int64_t key, auto, auto count) {
        put(values + key, exp2((scores(key, count) - maximum) * log2e) * scale, count);
    });
    return true;
}

}  // namespace softmaxkit
