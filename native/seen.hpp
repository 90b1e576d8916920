// Keys that at least one query attends to; others are excluded when the steps of keys and values are computed.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "attention_shape.hpp"

namespace softmaxkit {

// The keys of panel `at` that a query attends to, one bit each: those among the first `seen` keys that its row of the
// mask, which may be null, permits.
inline uint64_t seen_of_panel(int64_t seen, const uint8_t* mask, int64_t stride, int64_t at) {
    const int64_t count = std::min(seen - at * panel, panel);
    if (count <= 0) return 0;
    const uint64_t some = count == panel ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    if (mask == nullptr) return some;
    if (stride == 0) return *mask ? some : 0;
    return some & true_bits(mask + at * panel, some, count);
}

// For each sequence and key head that the mask distinguishes, one byte per key: 0 if no query attends to it.
class SeenKeys {
public:
    SeenKeys(const Shape& shape, const uint8_t* mask)
        : count_(shape.seen(shape.queries - 1)), heads_(shape.mask[1] != 0 ? shape.key_heads : 1) {
        if (!shape.masked) return;
        lists_.resize((shape.mask[0] != 0 ? shape.batch : 1) * heads_);
        int64_t index = 0;
        for (auto& list : lists_) {
            collect(shape, mask, index / heads_, index % heads_, list);
            ++index;
        }
    }

    // The number of keys that causality lets the last query attend to.
    int64_t count() const { return count_; }

    // The bytes of a key head; null if all keys are attended.
    const uint8_t* of(int64_t batch, int64_t key_head) const {
        if (lists_.empty()) return nullptr;
        const auto& list = lists_[batch * heads_ % static_cast<int64_t>(lists_.size()) + key_head % heads_];
        return list.empty() ? nullptr : list.data();
    }

private:
    // Starts with the last query, which sees the most keys under causality, and stops once all keys are attended.
    void collect(const Shape& shape, const uint8_t* mask, int64_t batch, int64_t key_head, std::vector<uint8_t>& seen) {
        seen.assign(count_, 0);
        const int64_t group = shape.mask[1] != 0 ? shape.heads / shape.key_heads : 1;
        const int64_t queries = shape.mask[2] != 0 || shape.causal ? shape.queries : 1;
        for (int64_t query = queries; query-- > 0;) {
            const int64_t some = queries == 1 ? count_ : shape.seen(query);
            for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
                const uint8_t* row = token(mask, shape.mask, batch, head, query);
                if (shape.mask[3] != 0) {
                    std::transform(row, row + some, seen.begin(), seen.begin(), std::bit_or{});
                } else if (*row != 0) {
                    std::fill_n(seen.begin(), some, uint8_t(1));
                }
            }
            if (std::memchr(seen.data(), 0, seen.size()) == nullptr) {
                seen.clear();
                return;
            }
        }
    }

    const int64_t count_, heads_;
    std::vector<std::vector<uint8_t>> lists_;
};

}  // namespace softmaxkit
