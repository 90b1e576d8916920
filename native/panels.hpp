// The layout of 8-bit matrices in panels of 64 keys. Each 32-bit lane stores four bytes along the axis that is summed.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

#include "tiles.hpp"

namespace softmaxkit {

constexpr int64_t lanes = 16;                 // 32-bit lanes of a vector, independent of the instruction set
constexpr int64_t panel = 64;                 // keys side by side
constexpr int64_t panel_steps = panel / 4;    // four-byte dot products over the keys of a panel
constexpr int64_t tile = 6;                   // rows at once: with four vectors of sums each, they fill the registers
constexpr int64_t codes = 128;                // entries of a table of weights
constexpr int64_t middle = 1 << 14;           // the 16-bit score that represents 0; scores reach 127 * 127 either way
using Sums [[gnu::vector_size(64)]] = int32_t;
using Floats [[gnu::vector_size(64)]] = float;
using Words [[gnu::vector_size(64)]] = uint16_t;

// A cache line; `Buffer` is memory aligned to cache lines and not initialised.
struct alignas(64) Line {
    uint8_t bytes[64];
};

template <class T>
class Buffer {
public:
    explicit Buffer(int64_t count)
        : lines_(std::make_unique_for_overwrite<Line[]>((count * sizeof(T) + sizeof(Line) - 1) / sizeof(Line))) {}
    T* data() { return reinterpret_cast<T*>(lines_.get()); }
    const T* data() const { return reinterpret_cast<const T*>(lines_.get()); }

private:
    std::unique_ptr<Line[]> lines_;
};

inline int64_t rounded_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Four-byte dot products over a key's channels; AMX tiles are padded to full size.
inline int64_t key_steps(int64_t channels) {
#if defined(SOFTMAXKIT_TILES)
    return rounded_up((channels + 3) / 4, tiles::rows);
#else
    return (channels + 3) / 4;
#endif
}

// The position of a key's dwords within its panel. Narrowing from 32 to 16 and 8 bits interleaves vectors; this order
// compensates for it, so that narrowed keys are in their natural order.
inline int64_t lane_of(int64_t key) { return key % 16 / 4 * lanes + key / 16 * 4 + key % 4; }

}  // namespace softmaxkit
