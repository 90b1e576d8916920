// The k largest probabilities of a row's softmax in one pass: the running maximum and sum of online softmax (Milakov
// and Gimelshein, section 4), and the best logits so far.
#pragma once

#include <algorithm>

#include "reductions.hpp"

namespace softmaxkit {

struct Candidate {
    float logit;
    int64_t index;
    bool operator<(const Candidate& other) const {  // the better one first, and of equals the earlier
        return logit > other.logit || (logit == other.logit && index < other.index);
    }
};

// The k best of all that were offered. A logit not above `least` is not among them.
class Best {
public:
    explicit Best(int64_t k) : k_(static_cast<size_t>(k)) { kept_.reserve(room()); }

    float least = -infinity;

    void offer(float logit, int64_t index) {
        kept_.push_back({logit, index});
        if (kept_.size() == room()) shrink();
    }

    // Call once, at the end.
    const std::vector<Candidate>& sorted() {
        shrink();
        std::sort(kept_.begin(), kept_.end());
        return kept_;
    }

private:
    size_t room() const { return 2 * k_ + 64; }

    void shrink() {
        if (kept_.size() <= k_) return;
        std::nth_element(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(k_ - 1), kept_.end());
        kept_.resize(k_);
        least = kept_.back().logit;
    }

    size_t k_;
    std::vector<Candidate> kept_;
};

// Returns whether the row could be done: not where NaN or +infinity is in it, or fewer than k are above -infinity.
template <class T>
bool topk_row(const T* logits, T* values, int64_t* indices, int64_t size, int64_t k) {
    constexpr int64_t block = 2048;  // stays in the first cache between its maximum and its sum
    Best best(k);
    float maximum = -infinity;
    Chains sums = all_chains(0.0f);
    for (int64_t start = 0; start < size; start += block) {
        const int64_t length = std::min(block, size - start);
        const Scores<T, false> part{logits + start, nullptr};
        const float highest = row_maximum(part, length);
        if (highest > maximum) {
            const Vector shrinks = exp2(Vector((maximum - highest) * log2e));
            for (Vector& sum : sums) sum *= shrinks;
            maximum = highest;
        }
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
    }
    const float sum = total(sums);
    if (!(sum > 0.0f && sum < infinity && maximum < infinity)) return false;
    const std::vector<Candidate>& kept = best.sorted();
    if (static_cast<int64_t>(kept.size()) < k) return false;
    std::vector<float> logits_kept(static_cast<size_t>(k));
    for (size_t place = 0; place < logits_kept.size(); ++place) {
        logits_kept[place] = kept[place].logit;
        indices[place] = kept[place].index;
    }
    const Scores<float, false> best_logits{logits_kept.data(), nullptr};
    sweep(k, [&](int64_t key, auto, auto count) {
        put(values + key, exp2((best_logits(key, count) - maximum) * log2e) / sum, count);
    });
    return true;
}

}  // namespace softmaxkit
