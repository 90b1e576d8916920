// Softmax of a row whose distances from the maximum are rounded to a few evenly spaced levels. The sum is computed from
// a histogram or from the levels' exponentials, and there is a single quotient per level.
#pragma once

#include <algorithm>
#include <bit>

#include "row_blocks.hpp"

namespace softmaxkit {

struct Levels {
    int count;
    float per_step;  // reciprocal of the distance between two levels
    std::array<float, 16> exponentials{};

    static bool are_few(size_t number) { return number == 4 || number == 8 || number == 16; }

    Levels(float clip, const std::vector<float>& exponentials_of)
        : count(static_cast<int>(exponentials_of.size())), per_step(static_cast<float>(1 - count) / clip) {
        std::copy(exponentials_of.begin(), exponentials_of.end(), exponentials.begin());
    }
};

// Added to a level before rounding. It absorbs the rounding error of the step, so that ties remain ties, and preserves
// the level's four lowest bits, which index tables.
constexpr int level_bias = 32;

// level_bias + the level of score - maximum, not yet rounded. NaN stays NaN.
template <int count>
SOFTMAXKIT_INLINE Vector place_of(const Vector& distance, const Levels& levels) {
    constexpr float lowest = level_bias, highest = level_bias + count - 1;
    return larger(Vector(lowest), distance * levels.per_step + highest);
}

// The value of a level, given its place, which is rounded to nearest with ties to even.
template <int count>
SOFTMAXKIT_INLINE Vector pick(const Vector& place, const std::array<float, 16>& values) {
#if defined(__AVX512F__)
    const __m512i index = _mm512_cvtps_epi32(static_cast<__m512>(place));
    return Vector(_mm512_permutexvar_ps(index, _mm512_loadu_ps(values.data())));
#elif defined(__AVX2__)
    const __m256i index = _mm256_cvtps_epi32(static_cast<__m256>(place));
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values.data()), index);
    if constexpr (count <= 8) return Vector(low);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values.data() + 8), index);
    return Vector(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));  // by bit 3
#elif defined(__aarch64__)
    const uint32x4_t index = vreinterpretq_u32_s32(vcvtnq_s32_f32(static_cast<float32x4_t>(place)));
    static_assert(level_bias == 32);
    const uint32x4_t first_byte = vdupq_n_u32(0x03020100u - 32 * 0x04040404u);
    const uint8x16_t bytes = vreinterpretq_u8_u32(vmlaq_n_u32(first_byte, index, 0x04040404));
    const auto* from = reinterpret_cast<const uint8_t*>(values.data());
    uint8x16_t picked;
    if constexpr (count <= 4) picked = vqtbl1q_u8(vld1q_u8(from), bytes);
    if constexpr (count == 8) picked = vqtbl2q_u8(vld1q_u8_x2(from), bytes);
    if constexpr (count == 16) picked = vqtbl4q_u8(vld1q_u8_x4(from), bytes);
    return Vector(vreinterpretq_f32_u8(picked));
#else
    const Vector level = place + rounder - (rounder + static_cast<float>(level_bias));
    Vector picked = values[0];
    for (int index = 1; index < count; ++index) replace(picked, level >= static_cast<float>(index), values[index]);
    return picked;
#endif
}

inline std::array<float, 16> quotients(const std::array<float, 16>& exponentials, double sum) {
    std::array<float, 16> values;
    const float scale = 1.0f / static_cast<float>(sum);
    for (int level = 0; level < 16; ++level) values[level] = exponentials[level] * scale;
    return values;
}

// The value of a score's level; 0 if it is masked.
template <int count>
SOFTMAXKIT_INLINE Vector value_of(const Vector& score, float maximum, const Levels& levels,
                                  const std::array<float, 16>& values) {
    Vector result = pick<count>(place_of<count>(score - maximum, levels), values);
    replace(result, score == -infinity, 0.0f);
    return result;
}

// A row in which some scores are masked, infinite or NaN.
template <int count, class To, class Row>
void levels_careful_row(const Row& scores, To to, int64_t keys, float maximum, const Levels& levels) {
    const double sum = row_sum(keys, [&](int64_t key, auto size) {
        const Vector score = scores(key, size), distance = score - maximum;
        Vector value = value_of<count>(score, maximum, levels, levels.exponentials);
        replace(value, distance != distance, distance);
        return value;
    });
    if (sum != sum) return fill_invalid(scores, to, keys);
    const auto values = quotients(levels.exponentials, sum);
    sweep(keys, [&](int64_t key, auto, auto size) {
        put(to + key, value_of<count>(scores(key, size), maximum, levels, values), size);
    });
}

#if defined(__AVX512BW__)

// level_bias + the levels of 16 finite scores, as integers.
template <int count>
SOFTMAXKIT_INLINE __m512i places_of(const Vector& scores, float maximum, const Levels& levels) {
    return _mm512_cvtps_epi32(static_cast<__m512>(place_of<count>(scores - maximum, levels)));
}

// The levels of 64 finite scores: as integers, in `whole`, and as bytes, in the order that `write_64` expects.
template <int count, class Row>
SOFTMAXKIT_INLINE __m512i places_of_64(const Row& scores, int64_t key, float maximum, const Levels& levels,
                                       __m512i (&whole)[4]) {
    for (int part = 0; part < 4; ++part) {
        whole[part] = places_of<count>(scores(key + part * width, Full{}), maximum, levels);
    }
    // Each 128-bit lane has four bytes of each of the four vectors.
    return _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]), _mm512_packs_epi32(whole[2], whole[3]));
}

template <int count>
SOFTMAXKIT_INLINE __m512i places_of_64(const Scores<bfloat16, false>& scores, int64_t key, float maximum,
                                       const Levels& levels, __m512i (&whole)[4]) {
    __m512i words[2];
    for (int part = 0; part < 2; ++part) {
        const __m512i pairs = load_pairs(scores, key + part * pairs_width, all_pairs());
        whole[2 * part] = places_of<count>(even(pairs), maximum, levels);
        whole[2 * part + 1] = places_of<count>(odd(pairs), maximum, levels);
        words[part] = _mm512_or_si512(whole[2 * part], _mm512_slli_epi32(whole[2 * part + 1], 16));
    }
    return _mm512_packus_epi16(words[0], words[1]);  // each 128-bit lane has eight bytes of each half
}

// Writes the result of 64 levels, from a table with the result of each level.
template <class To>
void write_64(__m512i bytes, const std::array<float, 16>& values, To to) {
    const __m512 table = _mm512_loadu_ps(values.data());
    for (int part = 0; part < 4; ++part) {
        const int none = static_cast<int>(0x80808000u), from = none + 4 * part;
        const __m512i spread = _mm512_set4_epi32(from + 3, from + 2, from + 1, from);
        const __m512i whole = _mm512_shuffle_epi8(bytes, spread);
        put(to + part * width, Vector(_mm512_permutexvar_ps(whole, table)), Full{});
    }
}

template <class To>
void write_64_pairs(__m512i bytes, const std::array<float, 16>& values, To to) {
    static_assert(level_bias % 32 == 0);  // the index has five bits
    const __m512i table = _mm512_castsi256_si512(narrowed<bfloat16>(load(values.data())));
    const __m512i zero = _mm512_setzero_si512();
    store_pairs(to, _mm512_permutexvar_epi16(_mm512_unpacklo_epi8(bytes, zero), table), all_pairs());
    store_pairs(to + pairs_width, _mm512_permutexvar_epi16(_mm512_unpackhi_epi8(bytes, zero), table), all_pairs());
}
inline void write_64(__m512i bytes, const std::array<float, 16>& values, bfloat16* to) {
    write_64_pairs(bytes, values, to);
}
inline void write_64(__m512i bytes, const std::array<float, 16>& values, Streamed<bfloat16> to) {
    write_64_pairs(bytes, values, to);
}

// The sum of a row of finite scores. Calls keep(key, places) for every 64 keys, with their levels as bytes.
template <int count, class Row, class Keep>
double finite_sum(const Row& scores, int64_t keys, float maximum, const Levels& levels, const Keep& keep) {
    const __m512 table = _mm512_loadu_ps(levels.exponentials.data());
    const int64_t whole_keys = keys / 64 * 64;
    int64_t odd = 0, upper = 0, both = 0;
    double sum = 0.0;
    for (int64_t begin = 0; begin < whole_keys; begin += summed_together) {
        Vector sums = 0.0f;
        const int64_t end = std::min(begin + summed_together, whole_keys);
        for (int64_t key = begin; key < end; key += 64) {
            __m512i whole[4];
            const __m512i bytes = places_of_64<count>(scores, key, maximum, levels, whole);
            prefetch(scores.from + key + keys, 64 * static_cast<int64_t>(sizeof *scores.from));  // of the next row
            keep(key, bytes);
            if constexpr (count == 4) {
                odd += std::popcount(static_cast<uint64_t>(_mm512_test_epi8_mask(bytes, _mm512_set1_epi8(1))));
                upper += std::popcount(static_cast<uint64_t>(_mm512_test_epi8_mask(bytes, _mm512_set1_epi8(2))));
                const __m512i three = _mm512_set1_epi8(level_bias + 3);
                both += std::popcount(static_cast<uint64_t>(_mm512_cmpeq_epi8_mask(bytes, three)));
            } else {
                for (int part = 0; part < 4; ++part) sums += Vector(_mm512_permutexvar_ps(whole[part], table));
            }
        }
        if constexpr (count > 4) sum += stdx::reduce(sums);
    }
    if constexpr (count == 4) {
        const auto times = [&](int64_t number, int level) {
            return static_cast<double>(number) * levels.exponentials[level];
        };
        sum = times(whole_keys - odd - upper + both, 0) + times(odd - both, 1) + times(upper - both, 2) + times(both, 3);
    }
    Vector rest = 0.0f;
    for (int64_t key = whole_keys; key < keys; key += width) {
        const int64_t size = std::min(width, keys - key);
        const __m512i places = places_of<count>(scores(key, size), maximum, levels);
        rest += Vector(_mm512_maskz_permutexvar_ps(first(size), places, table));
    }
    return whole_keys < keys ? sum + stdx::reduce(rest) : sum;
}

// A row of finite scores.
template <int count, class To, class Row>
void levels_finite_row(const Row& scores, To to, int64_t keys, float maximum, const Levels& levels) {
    uint8_t* places = scratch<uint8_t>(keys + 64);
    const double sum = finite_sum<count>(scores, keys, maximum, levels, [&](int64_t key, __m512i bytes) {
        _mm512_storeu_si512(places + key, bytes);
        prefetch_results(to + key, 64);
    });
    const auto values = quotients(levels.exponentials, sum);
    int64_t key = 0;
    for (; key + 64 <= keys; key += 64) write_64(_mm512_loadu_si512(places + key), values, to + key);
    const __m512 result = _mm512_loadu_ps(values.data());
    for (; key < keys; key += width) {
        const int64_t size = std::min(width, keys - key);
        const __m512i some = places_of<count>(scores(key, size), maximum, levels);
        put(to + key, Vector(_mm512_permutexvar_ps(some, result)), size);
    }
}

#else

// Memory for the weights of a row: that of its results, unless these are of 16 bits, which is too coarse.
inline float* weights_of(float* to, int64_t) { return to; }
template <Half T>
float* weights_of(T*, int64_t keys) {
    return scratch<float>(keys + chains * width);
}

// A row of finite scores.
template <int count, class T, class Row>
void levels_finite_row(const Row& scores, T* to, int64_t keys, float maximum, const Levels& levels) {
    const auto weight = [&](const Vector& score, auto some) {
        Vector value = pick<count>(place_of<count>(score - maximum, levels), levels.exponentials);
        if constexpr (std::is_same_v<decltype(some), int64_t>) replace(value, score == -infinity, 0.0f);
        return value;
    };
    float* weights = weights_of(to, keys);
    const double sum = weigh_row<T>(scores, weight, weights, to, keys);
    Blocks<T>::scale_all(weights, 1.0f / static_cast<float>(sum), to, keys);
}

#endif

template <int count, class To, class Row>
void levels_row(const Row& scores, To to, int64_t keys, const Levels& levels) {
    const auto [maximum, finite] = maximum_if_finite(scores, keys);
    if (is_empty(scores, keys, maximum)) return fill_zero(to, keys);
    if (finite) return levels_finite_row<count>(scores, to, keys, maximum, levels);
    levels_careful_row<count>(scores, to, keys, maximum, levels);
}

// Calls body(count) with the number of levels as a compile-time constant.
template <class Body>
void with_count(const Levels& levels, const Body& body) {
    if (levels.count == 4) body(std::integral_constant<int, 4>{});
    if (levels.count == 8) body(std::integral_constant<int, 8>{});
    if (levels.count == 16) body(std::integral_constant<int, 16>{});
}

}  // namespace softmaxkit
