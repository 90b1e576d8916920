// Vectors of the widest kind that the instruction set has, and exp of them.
#pragma once

#include <experimental/simd>

#include <bit>
#include <cstdint>
#include <limits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace stdx = std::experimental;

using Vector = stdx::native_simd<float>;
using Integers = stdx::rebind_simd_t<int32_t, Vector>;
using Mask = Vector::mask_type;
constexpr int64_t width = static_cast<int64_t>(Vector::size());

inline Vector load(const float* from) { return Vector(from, stdx::element_aligned); }
inline void store(float* to, const Vector& value) { value.copy_to(to, stdx::element_aligned); }

// bfloat16 is the upper half of a float32; back, it is rounded to nearest, ties to even, and NaN stays NaN.
struct bfloat16 {
    uint16_t bits;
};

inline Vector load(const bfloat16* from) {
    Integers wide([from](auto lane) { return static_cast<int32_t>(static_cast<uint32_t>(from[lane].bits) << 16); });
    return std::bit_cast<Vector>(wide);
}

inline void store(bfloat16* to, const Vector& value) {
    const Integers bits = std::bit_cast<Integers>(value);
    const Integers rounded = bits + 0x7fff + ((bits >> 16) & 1);
    alignas(64) int32_t lanes[width];
    alignas(64) float values[width];
    rounded.copy_to(lanes, stdx::vector_aligned);
    value.copy_to(values, stdx::vector_aligned);
    for (int64_t lane = 0; lane < width; ++lane) {
        to[lane].bits = values[lane] != values[lane] ? 0x7fc0 : static_cast<uint16_t>(static_cast<uint32_t>(lanes[lane]) >> 16);
    }
}

// 2^n for whole numbers n from -149 to 127, times a value.
inline Vector scaled(const Vector& value, const Vector& whole) {
#if defined(__AVX512F__)
    return Vector(_mm512_scalef_ps(static_cast<__m512>(value), static_cast<__m512>(whole)));
#else
    const Integers n = stdx::static_simd_cast<Integers>(whole);
    const Integers half = n >> 1;
    const auto power = [](const Integers& of) { return std::bit_cast<Vector>((of + 127) << 23); };
    return value * power(half) * power(n - half);
#endif
}

// exp(x) for x up to 88.7; 0 below -104, NaN of NaN. exp(r) = 1 + r + r^2 p(r) for |r| <= ln2/2, where p interpolates at
// Chebyshev's points: 1e-8 off at most, beside 6e-8 that float32 rounds by.
inline Vector exp(Vector x) {
    constexpr float lowest = -104.0f, log2e = 1.44269504f;
    constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;  // their sum is ln 2, and n * ln2_high is exact
    stdx::where(x < lowest, x) = lowest;
    const Vector n = stdx::nearbyint(x * log2e);
    const Vector r = (x - n * ln2_high) - n * ln2_low;
    Vector p = 1.392625083e-3f;
    p = p * r + 8.363232884e-3f;
    p = p * r + 4.166655421e-2f;
    p = p * r + 1.666657667e-1f;
    p = p * r + 0.5f;
    return scaled(p * (r * r) + r + 1.0f, n);
}
