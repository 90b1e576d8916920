// The matrix unit of Sapphire Rapids and later (AMX): eight tile registers of 16 rows of 64 bytes, and products of two
// tiles. SOFTMAXKIT_PORTABLE_TILES emulates it in C++, for tests on processors without AMX.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1 chapter 18, and volume 2 for TDPBUSD
// and TDPBF16PS.
#pragma once

#include <cstdint>

#include "inline.hpp"

#if defined(SOFTMAXKIT_PORTABLE_TILES)
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#endif

// The second spelling is that of clang 14.
#if defined(__AMX_INT8__) || defined(__AMXINT8__) || defined(SOFTMAXKIT_PORTABLE_TILES)
#define SOFTMAXKIT_TILES

namespace softmaxkit::tiles {

constexpr int64_t rows = 16, row_bytes = 64;

#if !defined(SOFTMAXKIT_PORTABLE_TILES)

// The operand of LDTILECFG.
struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes_of[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows_of[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Configuration) == 64);

// While a session exists, its thread has all tiles configured to full size.
class Session {
public:
    Session() {
        const Configuration whole;
        asm volatile("ldtilecfg %0" : : "m"(whole));
    }
    ~Session() { asm volatile("tilerelease"); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
};

// GCC's intrinsics do not accept a template parameter as the tile number, and its _tile_loadd lets stores sink below
// the load.
template <int tile>
SOFTMAXKIT_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}

template <int tile>
SOFTMAXKIT_INLINE void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(tile) : "memory");
}

template <int tile>
SOFTMAXKIT_INLINE void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(tile) : "memory");
}

// Adds to 32-bit integers the dot products of four unsigned bytes with four signed bytes.
template <int sums, int left, int right>
SOFTMAXKIT_INLINE void dot_bytes() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(left), "i"(right));
}

// Adds to float32 sums the dot products of pairs of bfloat16.
template <int sums, int left, int right>
SOFTMAXKIT_INLINE void dot_bfloat16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(left), "i"(right));
}

#else

struct alignas(64) Register {
    uint8_t bytes[rows][row_bytes];
};
inline thread_local Register registers[8];
inline thread_local bool configured = false;

class Session {
public:
    Session() {
        configured = true;
        std::memset(registers, 0, sizeof registers);
    }
    ~Session() { configured = false; }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
};

// Without a configuration, the processor faults on every tile instruction.
inline Register& at(int tile) {
    if (!configured) std::abort();
    return registers[tile];
}

template <int tile>
void zero() {
    std::memset(&at(tile), 0, sizeof(Register));
}

template <int tile>
void load(const void* from, int64_t stride) {
    for (int64_t row = 0; row < rows; ++row) {
        std::memcpy(at(tile).bytes[row], static_cast<const uint8_t*>(from) + row * stride, row_bytes);
    }
}

template <int tile>
void store(void* to, int64_t stride) {
    for (int64_t row = 0; row < rows; ++row) {
        std::memcpy(static_cast<uint8_t*>(to) + row * stride, at(tile).bytes[row], row_bytes);
    }
}

template <int sums, int left, int right>
void dot_bytes() {
    constexpr int64_t columns = row_bytes / 4;
    const Register &a = at(left), &b = at(right);
    for (int64_t row = 0; row < rows; ++row) {
        uint32_t total[columns];  // unsigned, since sums may wrap
        std::memcpy(total, at(sums).bytes[row], sizeof total);
        for (int64_t step = 0; step < rows; ++step) {
            int8_t with[row_bytes];
            std::memcpy(with, b.bytes[step], sizeof with);
            for (int64_t column = 0; column < columns; ++column) {
                for (int64_t byte = 0; byte < 4; ++byte) {
                    total[column] += static_cast<uint32_t>(a.bytes[row][4 * step + byte] * with[4 * column + byte]);
                }
            }
        }
        std::memcpy(at(sums).bytes[row], total, sizeof total);
    }
}

// Subnormal inputs and results are flushed to 0.
inline float normal(float value) {
    return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}
inline float widened(uint16_t bits) { return normal(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16)); }

// The products of the first and the second elements of the pairs are accumulated separately, starting from 0; their sum
// is then added to the previous content.
template <int sums, int left, int right>
void dot_bfloat16() {
    constexpr int64_t columns = row_bytes / 4;
    for (int64_t row = 0; row < rows; ++row) {
        uint16_t a[2 * rows];
        std::memcpy(a, at(left).bytes[row], sizeof a);
        float total[columns], first[columns] = {}, second[columns] = {};
        for (int64_t step = 0; step < rows; ++step) {
            uint16_t b[2 * columns];
            std::memcpy(b, at(right).bytes[step], sizeof b);
            for (int64_t column = 0; column < columns; ++column) {
                first[column] = normal(std::fma(widened(a[2 * step]), widened(b[2 * column]), first[column]));
                second[column] = normal(std::fma(widened(a[2 * step + 1]), widened(b[2 * column + 1]), second[column]));
            }
        }
        std::memcpy(total, at(sums).bytes[row], sizeof total);
        for (int64_t column = 0; column < columns; ++column) {
            total[column] = normal(normal(total[column]) + normal(first[column] + second[column]));
        }
        std::memcpy(at(sums).bytes[row], total, sizeof total);
    }
}

#endif

}  // namespace softmaxkit::tiles

#endif
