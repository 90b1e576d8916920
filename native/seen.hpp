// Which keys any query sees: the others count for nothing where keys and values take 8 bits.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "attention_shape.hpp"

namespace softmaxkit {

// Which keys of a panel a query sees, a bit each: of the first so many, those that its row of a mask, if any, leaves.
inline uint64_t seen_of_panel(int64_t seen, const uint8_t* mask, int64_t stride, int64_t at) {
    const int64_t count = std::min(seen - at * panel, panel);
    if (count <= 0) return 0;
    const uint64_t some = count == panel ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    if (mask == nullptr) return some;
    if (stride == 0) return *mask ? some : 0;
    return some & true_bits(mask + at * panel, some, count);
}

// One list of bytes for the keys, 0 where no query sees them, for each batch and key head that the mask tells apart.
class SeenKeys {
public:
    SeenKeys(const Shape& shape, const uint8_t* mask)
        : count_(shape.seen(shape.queries - 1)), heads_(shape.mask[1] != 0 ? shape.key_heads : 1) {
        if (!shape.masked) return;
        lists_.resize((shape.mask[0] != 0 ? shape.batch : 1) * heads_);
        int64_t index = 0;
        for (auto& list : lists_) {
            look(shape, mask, index / heads_, index % heads_, list);
            ++index;
        }
    }

    // Keys up to the last that causality lets any query see.
    int64_t count() const { return count_; }

    // Null where all of these are seen.
    const uint8_t* of(int64_t batch, int64_t key_head) const {
        if (lists_.empty()) return nullptr;
        const auto& list = lists_[batch * heads_ % static_cast<int64_t>(lists_.size()) + key_head % heads_];
        return list.empty() ? nullptr : list.data();
    }

private:
    // The last queries come first: under causality they see most, and what all see needs no further look.
    void look(const Shape& shape, const uint8_t* mask, int64_t batch, int64_t key_head, std::vector<uint8_t>& seen) {
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
