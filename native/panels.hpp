// The layout of 8-bit matrices in panels of 64 keys. Each 32-bit lane stores codes along the axis that is summed.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

#include "tiles.hpp"

namespace softmaxkit {

constexpr int64_t lanes = 16;                 // 32-bit lanes of a vector, independent of the instruction set
constexpr int64_t panel = 64;                 // keys side by side
constexpr int64_t tile = 6;                   // rows at once: with four vectors of sums each, they fill the registers
constexpr int64_t codes = 128;                // entries of a table of weights
constexpr int64_t middle = 1 << 14;           // the 16-bit score that represents 0; scores reach 127 * 127 either way
using Sums [[gnu::vector_size(64)]] = int32_t;
using Words [[gnu::vector_size(64)]] = uint16_t;

// Codes of 8 bits are stored as words where sums of products of bytes would saturate.
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
#define SOFTMAXKIT_WORDS
using Code = int16_t;
#else
using Code = int8_t;
#endif
constexpr int64_t per_lane = 4 / sizeof(Code);     // codes in a 32-bit lane, whose products are summed at a time
constexpr int64_t panel_steps = panel / per_lane;  // such dot products over the keys of a panel

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

// Dot products of a lane over a key's channels; AMX tiles are padded to full size.
inline int64_t key_steps(int64_t channels) {
#if defined(SOFTMAXKIT_TILES)
    return rounded_up((channels + per_lane - 1) / per_lane, tiles::rows);
#else
    return (channels + per_lane - 1) / per_lane;
#endif
}

// The position of a key's dwords within its panel. Narrowing from 32 to 16 and 8 bits interleaves vectors; this order
// compensates for it, so that narrowed keys are in their natural order.
inline int64_t lane_of(int64_t key) { return key % 16 / 4 * lanes + key / 16 * 4 + key % 4; }

}  // namespace softmaxkit
