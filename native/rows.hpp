// Rows of scores as attention has them: any strides between rows, keys side by side, a mask or none.
#pragma once

#include <array>
#include <cstdint>

constexpr int outer = 4;  // axes before the keys

struct Layout {
    std::array<int64_t, outer> sizes;
    std::array<int64_t, outer> from, to, mask;  // strides in elements; those of the mask may be 0
    int64_t keys;
    int64_t mask_key;   // stride of the mask along the keys: 0 or 1
    bool causal;        // a query sees the keys up to its own place, the last query the last key
    bool masked;

    Layout(std::array<int64_t, outer> sizes, std::array<int64_t, outer> from, std::array<int64_t, outer> to,
           std::array<int64_t, outer> mask, int64_t keys, int64_t mask_key, bool causal, bool masked)
        : sizes(sizes), from(from), to(to), mask(mask), keys(keys), mask_key(mask_key), causal(causal), masked(masked) {}

    int64_t rows() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3]; }
};

struct Place {
    int64_t from, to, mask, seen;  // offsets of a row, and the keys that causality lets it see
};

inline Place place(const Layout& layout, int64_t row) {
    std::array<int64_t, outer> at;
    for (int axis = outer - 1; axis >= 0; --axis) {
        at[axis] = row % layout.sizes[axis];
        row /= layout.sizes[axis];
    }
    Place found{0, 0, 0, layout.keys};
    for (int axis = 0; axis < outer; ++axis) {
        found.from += at[axis] * layout.from[axis];
        found.to += at[axis] * layout.to[axis];
        found.mask += at[axis] * layout.mask[axis];
    }
    if (layout.causal) found.seen = layout.keys - layout.sizes[outer - 1] + at[outer - 1] + 1;
    if (found.seen < 0) found.seen = 0;
    return found;
}
