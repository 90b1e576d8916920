// The widest vectors of the instruction set: loads and stores, minimum and maximum, and exp2.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "inline.hpp"
#include "simd.hpp"

namespace softmaxkit {

using Vector = stdx::native_simd<float>;
using Integers = stdx::rebind_simd_t<int32_t, Vector>;
using Mask = Vector::mask_type;
constexpr int64_t width = static_cast<int64_t>(Vector::size());
constexpr float infinity = std::numeric_limits<float>::infinity();

SOFTMAXKIT_INLINE Vector load(const float* from) { return Vector(from, stdx::element_aligned); }
SOFTMAXKIT_INLINE void store(float* to, const Vector& value) { value.copy_to(to, stdx::element_aligned); }

#if defined(__AVX512F__)

// Non-temporal store; `to` is aligned to the vector.
SOFTMAXKIT_INLINE void stream(float* to, const Vector& value) { _mm512_stream_ps(to, static_cast<__m512>(value)); }

// Replaces lanes of `value`. stdx::where is wrong here if clang compiles it: libstdc++ then chooses one whole vector,
// as a comment in its bits/simd_x86.h says.
SOFTMAXKIT_INLINE void replace(Vector& value, const Mask& where, const Vector& with) {
    const __mmask16 lanes = std::bit_cast<__mmask16>(where);
    value = Vector(_mm512_mask_mov_ps(static_cast<__m512>(value), lanes, static_cast<__m512>(with)));
}

inline __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

SOFTMAXKIT_INLINE Vector load_some(const float* from, int64_t count, float rest) {
    return Vector(_mm512_mask_loadu_ps(_mm512_set1_ps(rest), first(count), from));
}
SOFTMAXKIT_INLINE void store_some(float* to, const Vector& value, int64_t count) {
    _mm512_mask_storeu_ps(to, first(count), static_cast<__m512>(value));
}

// Replaces scores by -infinity where `keep` is 0.
SOFTMAXKIT_INLINE Vector masked(const Vector& scores, const uint8_t* keep, int64_t count) {
    const __m128i bytes = _mm_maskz_loadu_epi8(first(count), keep);
    const __mmask16 kept = _mm_test_epi8_mask(bytes, bytes);
    return Vector(_mm512_mask_mov_ps(_mm512_set1_ps(-infinity), kept, static_cast<__m512>(scores)));
}

// Maximum and minimum; the second operand if either is NaN.
SOFTMAXKIT_INLINE Vector larger(const Vector& one, const Vector& other) {
    return Vector(_mm512_max_ps(static_cast<__m512>(one), static_cast<__m512>(other)));
}
SOFTMAXKIT_INLINE Vector smaller(const Vector& one, const Vector& other) {
    return Vector(_mm512_min_ps(static_cast<__m512>(one), static_cast<__m512>(other)));
}

#else

template <class V>
SOFTMAXKIT_INLINE void replace(V& value, const typename V::mask_type& where, const std::type_identity_t<V>& with) {
    stdx::where(where, value) = with;
}

template <class T>
SOFTMAXKIT_INLINE Vector load_some(const T* from, int64_t count, float rest) {
    alignas(64) T lanes[width];
    store(lanes, Vector(rest));
    std::memcpy(lanes, from, static_cast<size_t>(count) * sizeof(T));
    return load(lanes);
}
template <class T>
SOFTMAXKIT_INLINE void store_some(T* to, const Vector& value, int64_t count) {
    alignas(64) T lanes[width];
    store(lanes, value);
    std::memcpy(to, lanes, static_cast<size_t>(count) * sizeof(T));
}

#if defined(__AVX2__)
SOFTMAXKIT_INLINE Vector masked(const Vector& scores, const uint8_t* keep, int64_t count) {
    int64_t bytes = 0;
    std::memcpy(&bytes, keep, static_cast<size_t>(count));
    const __m256i kept = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes));
    const __m256 hidden = _mm256_castsi256_ps(_mm256_cmpeq_epi32(kept, _mm256_setzero_si256()));
    return Vector(_mm256_blendv_ps(static_cast<__m256>(scores), _mm256_set1_ps(-infinity), hidden));
}
#elif defined(__aarch64__)
SOFTMAXKIT_INLINE Vector masked(const Vector& scores, const uint8_t* keep, int64_t count) {
    uint32_t bytes = 0;
    std::memcpy(&bytes, keep, static_cast<size_t>(count));
    const uint32x4_t kept = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
    const float32x4_t shown = static_cast<float32x4_t>(scores);
    return Vector(vbslq_f32(vceqzq_u32(kept), vdupq_n_f32(-infinity), shown));
}
#else
SOFTMAXKIT_INLINE Vector masked(const Vector& scores, const uint8_t* keep, int64_t count) {
    uint8_t bytes[width] = {};
    std::memcpy(bytes, keep, static_cast<size_t>(count));
    const Vector kept([&](auto lane) { return static_cast<float>(bytes[lane]); });
    Vector result = scores;
    replace(result, kept == 0.0f, -infinity);
    return result;
}
#endif

#if defined(__AVX2__)
SOFTMAXKIT_INLINE Vector larger(const Vector& one, const Vector& other) {
    return Vector(_mm256_max_ps(static_cast<__m256>(one), static_cast<__m256>(other)));
}
SOFTMAXKIT_INLINE Vector smaller(const Vector& one, const Vector& other) {
    return Vector(_mm256_min_ps(static_cast<__m256>(one), static_cast<__m256>(other)));
}
#else
SOFTMAXKIT_INLINE Vector larger(const Vector& one, const Vector& other) {
    Vector result = other;
    replace(result, one > other, one);
    return result;
}
SOFTMAXKIT_INLINE Vector smaller(const Vector& one, const Vector& other) {
    Vector result = other;
    replace(result, one < other, one);
    return result;
}
#endif

#endif

constexpr float log2e = 1.44269504f;
constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, left in the lowest bits

// The polynomial for 2^r, r from 0 to 1, with the smallest relative error among those that are exactly 1 at 0. Degree 6
// has an error of 2e-9, against a rounding error of 6e-8 in float32; degree 4 of 3e-6, against 2e-4 in float16.
template <int degree>
SOFTMAXKIT_INLINE Vector power_of_fraction(const Vector& r) {
    Vector p;
    if constexpr (degree == 6) {
        p = 2.161291486e-04f;
        p = p * r + 1.246784697e-03f;
        p = p * r + 9.675451554e-03f;
        p = p * r + 5.548528209e-02f;
        p = p * r + 2.402293086e-01f;
        p = p * r + 6.931470633e-01f;
    } else {
        static_assert(degree == 4);
        p = 1.342668553e-02f;
        p = p * r + 5.224247220e-02f;
        p = p * r + 2.412802057e-01f;
        p = p * r + 6.930448448e-01f;
    }
    return p * r + 1.0f;
}

// 2^t for t up to 128, where the result is infinity; 0 for t far below -126, NaN for NaN.
template <int degree = 6>
SOFTMAXKIT_INLINE Vector exp2(const Vector& t) {
#if defined(__AVX512DQ__)
    const Vector r(_mm512_reduce_ps(static_cast<__m512>(t), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    const Vector p = power_of_fraction<degree>(r);
    return Vector(_mm512_scalef_ps(static_cast<__m512>(p), static_cast<__m512>(t)));
#else
    const Vector bounded = larger(-126.75f, t);  // below -126 the biased exponent is 0, and so is the power of 2
    const Vector exponent = bounded - 0.5f + rounder;
    const Vector p = power_of_fraction<degree>(bounded - (exponent - rounder));
    return p * std::bit_cast<Vector>((std::bit_cast<Integers>(exponent) + 127) << 23);
#endif
}

}  // namespace softmaxkit
