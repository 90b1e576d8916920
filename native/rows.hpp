// The layout of rows of scores: any strides between rows, contiguous keys, an optional mask.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace softmaxkit {

constexpr int outer = 4;  // axes before the keys

struct Layout {
    std::array<int64_t, outer> sizes;
    std::array<int64_t, outer> from, to, mask;  // strides in elements; 0 where the mask is broadcast
    int64_t keys;
    int64_t mask_key;   // stride of the mask along the keys: 0 or 1
    bool causal;        // keys after a query are masked, with the last query aligned to the last key
    bool masked;

    Layout(std::array<int64_t, outer> sizes, std::array<int64_t, outer> from, std::array<int64_t, outer> to,
           std::array<int64_t, outer> mask, int64_t keys, int64_t mask_key, bool causal, bool masked)
        : sizes(sizes), from(from), to(to), mask(mask), keys(keys), mask_key(mask_key), causal(causal),
          masked(masked) {}

    int64_t rows() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3]; }
};

// A row: offsets of its scores, result and mask, the number of keys that causality leaves it, its head and its index.
struct Place {
    int64_t from, to, mask, seen, head, row;
};

// Numbers that are subtracted from the scores or added to them: one for all heads, or one per head.
struct Offsets {
    const float* values;
    bool per_head;

    float at(const Place& place) const { return values[per_head ? place.head : 0]; }
};

// Calls visit(place) for rows `begin` to `end` of a layout.
template <class Visit>
void walk(const Layout& layout, int64_t begin, int64_t end, const Visit& visit) {
    constexpr int query = outer - 1;
    std::array<int64_t, outer> at;
    int64_t rest = begin;
    for (int axis = query; axis >= 0; --axis) {
        at[axis] = rest % layout.sizes[axis];
        rest /= layout.sizes[axis];
    }
    while (begin < end) {
        const auto offset = [&](const std::array<int64_t, outer>& strides) {
            int64_t sum = 0;
            for (int axis = 0; axis < outer; ++axis) sum += at[axis] * strides[axis];
            return sum;
        };
        Place place{offset(layout.from), offset(layout.to), offset(layout.mask), layout.keys, at[query - 1], begin};
        const int64_t last = std::min(layout.sizes[query], at[query] + end - begin);
        for (int64_t row = at[query]; row < last; ++row, ++begin) {
            if (layout.causal) {
                place.seen = std::clamp<int64_t>(layout.keys - layout.sizes[query] + row + 1, 0, layout.keys);
            }
            place.row = begin;
            visit(place);
            place.from += layout.from[query];
            place.to += layout.to[query];
            place.mask += layout.mask[query];
        }
        at[query] = 0;
        for (int axis = query - 1; axis >= 0 && ++at[axis] == layout.sizes[axis]; --axis) at[axis] = 0;
    }
}

// Calls visit(scores, to, mask, keys, place) for rows `begin` to `end` of a layout. The mask, a byte per key, is null
// if all `keys` are attended; results of the keys after them are set to zero.
template <class T, class Visit>
void visit_rows(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int64_t begin, int64_t end,
                const Visit& visit) {
    walk(layout, begin, end, [&](const Place& place) {
        T* result = reinterpret_cast<T*>(to) + place.to;
        const uint8_t* bits = layout.masked ? reinterpret_cast<const uint8_t*>(mask) + place.mask : nullptr;
        int64_t keys = place.seen;
        if (bits != nullptr && layout.mask_key == 0) {  // one byte for all keys
            if (*bits == 0) keys = 0;
            bits = nullptr;
        }
        visit(reinterpret_cast<const T*>(from) + place.from, result, bits, keys, place);
        std::fill_n(result + keys, layout.keys - keys, T{});
    });
}

}  // namespace softmaxkit
