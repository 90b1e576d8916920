// Numbers of 16 bits: bfloat16 and float16. They become float32 when they are loaded, and are rounded to nearest, ties to
// even, when they are stored; NaN stays NaN.
#pragma once

#include <concepts>

#include "vector.hpp"

namespace softmaxkit {

// The upper half of a float32.
struct bfloat16 {
    uint16_t bits;
};

// IEEE 754's format of 5 bits of exponent and 10 of mantissa.
struct float16 {
    uint16_t bits;
};

template <class T>
concept Half = std::same_as<T, bfloat16> || std::same_as<T, float16>;

// The degree of exp2's polynomial that T has digits for.
template <class T>
constexpr int exp2_degree = Half<T> ? 4 : 6;

inline float to_float(float value) { return value; }
inline float to_float(bfloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }
inline float to_float(float16 value) {
    const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    const uint32_t exponent = magnitude < 0x7c00 ? 127 - 15 : 255 - 31;  // what its bias lacks; infinity stays infinite
    const uint32_t bits = (magnitude << 13) + (exponent << 23);
    return std::bit_cast<float>(sign | (magnitude < 0x400 ? std::bit_cast<uint32_t>(subnormal) : bits));
}

#if defined(__AVX512F__)

template <Half T>
SOFTMAXKIT_INLINE Vector widened(__m256i halves) {
    if constexpr (std::same_as<T, float16>) return Vector(_mm512_cvtph_ps(halves));
    return Vector(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)));
}
template <Half T>
SOFTMAXKIT_INLINE __m256i narrowed(const Vector& value) {
    const __m512 wide = static_cast<__m512>(value);
    if constexpr (std::same_as<T, float16>) return _mm512_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT);
    const __m512i bits = _mm512_castps_si512(wide);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(wide, wide, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
template <Half T>
SOFTMAXKIT_INLINE Vector load(const T* from) {
    return widened<T>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
template <Half T>
SOFTMAXKIT_INLINE void store(T* to, const Vector& value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrowed<T>(value));
}
template <Half T>
SOFTMAXKIT_INLINE void stream(T* to, const Vector& value) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), narrowed<T>(value));
}
template <Half T>
SOFTMAXKIT_INLINE Vector load_some(const T* from, int64_t count, float rest) {
    const Vector halves = widened<T>(_mm256_maskz_loadu_epi16(first(count), from));
    return Vector(_mm512_mask_mov_ps(_mm512_set1_ps(rest), first(count), static_cast<__m512>(halves)));
}
template <Half T>
SOFTMAXKIT_INLINE void store_some(T* to, const Vector& value, int64_t count) {
    _mm256_mask_storeu_epi16(to, first(count), narrowed<T>(value));
}

#else

// Rounds to bfloat16, left in the upper halves of the lanes.
SOFTMAXKIT_INLINE Integers rounded_halves(const Vector& value) {
    const Integers bits = std::bit_cast<Integers>(value);
    Integers rounded = bits + 0x7fff + ((bits >> 16) & 1);
    replace(rounded, (bits & 0x7fffffff) > 0x7f800000, 0x7fc00000);
    return rounded;
}

#if defined(__AVX2__)
SOFTMAXKIT_INLINE Vector load(const bfloat16* from) {
    const __m256i halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return Vector(_mm256_castsi256_ps(_mm256_slli_epi32(halves, 16)));
}
SOFTMAXKIT_INLINE void store(bfloat16* to, const Vector& value) {
    const __m256i halves = _mm256_srli_epi32(static_cast<__m256i>(rounded_halves(value)), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(halves, halves), 0b1000);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}
SOFTMAXKIT_INLINE Vector load(const float16* from) {
    return Vector(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
SOFTMAXKIT_INLINE void store(float16* to, const Vector& value) {
    const __m128i halves = _mm256_cvtps_ph(static_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), halves);
}
#elif defined(__aarch64__)
SOFTMAXKIT_INLINE Vector load(const bfloat16* from) {
    return Vector(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&from->bits), 16)));
}
SOFTMAXKIT_INLINE void store(bfloat16* to, const Vector& value) {
    const int32x4_t halves = static_cast<int32x4_t>(rounded_halves(value));
    vst1_u16(&to->bits, vshrn_n_u32(vreinterpretq_u32_s32(halves), 16));
}
SOFTMAXKIT_INLINE Vector load(const float16* from) {
    return Vector(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits))));
}
SOFTMAXKIT_INLINE void store(float16* to, const Vector& value) {
    vst1_u16(&to->bits, vreinterpret_u16_f16(vcvt_f16_f32(static_cast<float32x4_t>(value))));
}
#else
template <Half T>
SOFTMAXKIT_INLINE Vector load(const T* from) {
    return Vector([from](auto lane) { return to_float(from[lane]); });
}
SOFTMAXKIT_INLINE void store(bfloat16* to, const Vector& value) {
    alignas(64) int32_t lanes[width];
    rounded_halves(value).copy_to(lanes, stdx::vector_aligned);
    for (int64_t lane = 0; lane < width; ++lane) {
        to[lane].bits = static_cast<uint16_t>(static_cast<uint32_t>(lanes[lane]) >> 16);
    }
}
SOFTMAXKIT_INLINE void store(float16* to, const Vector& value) {
    const Integers bits = std::bit_cast<Integers>(value), magnitude = bits & 0x7fffffff;
    Integers rounded = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    replace(rounded, magnitude >= 0x47800000, 0x7c00);  // from 2^16
    replace(rounded, magnitude > 0x7f800000, 0x7e00);
    // In units of 2^-24, to which an addition to 1/2 rounds.
    const Integers subnormal = std::bit_cast<Integers>(std::bit_cast<Vector>(magnitude) + 0.5f) - 0x3f000000;
    replace(rounded, magnitude < 0x38800000, subnormal);  // below 2^-14
    alignas(64) int32_t lanes[width];
    (rounded | ((bits >> 16) & 0x8000)).copy_to(lanes, stdx::vector_aligned);
    for (int64_t lane = 0; lane < width; ++lane) to[lane].bits = static_cast<uint16_t>(lanes[lane]);
}
#endif

#endif

}  // namespace softmaxkit
