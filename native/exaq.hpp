// EXAQ of a row: score - maximum rounded to a few even levels, the sum from a histogram or the levels' exponentials, and
// one quotient for each level.
#pragma once

#include <algorithm>
#include <bit>

#include "exact.hpp"

struct Levels {
    int count = 0;
    float per_step = 0.0f;  // 1 / the step between two
    std::array<float, 16> exponentials{};

    Levels(float clip, const std::vector<float>& exponentials_of)
        : count(static_cast<int>(exponentials_of.size())), per_step(static_cast<float>(1 - count) / clip) {
        std::copy(exponentials_of.begin(), exponentials_of.end(), exponentials.begin());
    }
};

// Added to a level before it is rounded. What the step's own rounding takes a tie off by is lost in it, and so ties are
// found; the four lowest bits, which tables are read by, stay those of the level.
constexpr int base = 32;

// base + the level of score - maximum, not yet whole. NaN stays NaN.
template <int count>
Vector place_of(const Vector& distance, const Levels& levels) {
    return larger(Vector(static_cast<float>(base)), distance * levels.per_step + static_cast<float>(base + count - 1));
}

// The level of score - maximum, a whole number; ties go to the even one. NaN stays NaN.
template <int count>
Vector level_of(const Vector& distance, const Levels& levels) {
    constexpr float whole = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number
    return place_of<count>(distance, levels) + whole - (whole + static_cast<float>(base));
}

template <int count>
Vector pick(const Vector& level, const std::array<float, 16>& values) {
#if defined(__AVX512F__)
    return Vector(_mm512_permutexvar_ps(_mm512_cvtps_epi32(static_cast<__m512>(level)), _mm512_loadu_ps(values.data())));
#else
    Vector found = values[0];
    for (int each = 1; each < count; ++each) stdx::where(level >= static_cast<float>(each), found) = values[each];
    return found;
#endif
}

inline std::array<float, 16> quotients(const std::array<float, 16>& exponentials, float sum) {
    std::array<float, 16> found;
    const float scale = 1.0f / sum;
    for (int level = 0; level < 16; ++level) found[level] = exponentials[level] * scale;
    return found;
}

// A row of which some are masked, infinite or NaN.
template <int count, class To, class Row>
void exaq_careful_row(const Row& scores, To to, int64_t keys, float maximum, const Levels& levels) {
    Chains sums = all_chains(0.0f);
    const auto power = [&](const Vector& distance, const std::array<float, 16>& values) {
        Vector found = pick<count>(level_of<count>(distance, levels), values);
        stdx::where(distance == -infinity, found) = 0.0f;
        stdx::where(distance != distance, found) = distance;
        return found;
    };
    sweep(keys, [&](int64_t key, auto chain, auto size) {
        sums[chain] += power(scores(key, size) - maximum, levels.exponentials);
    });
    const float sum = total(sums);
    const auto values = quotients(levels.exponentials, sum);
    const Vector nan = sum == sum ? 0.0f : sum;
    sweep(keys, [&](int64_t key, auto, auto size) { put(to + key, power(scores(key, size) - maximum, values) + nan, size); });
}

#if defined(__AVX512BW__)

// base + the level of each of up to 16 finite scores.
template <int count, class Row, class Size>
__m512i places_of(const Row& scores, int64_t key, Size size, float maximum, const Levels& levels) {
    return _mm512_cvtps_epi32(static_cast<__m512>(place_of<count>(scores(key, size) - maximum, levels)));
}

// The sum of a row of finite scores. Calls keep(key, places) for every 64 keys, with the bytes in the order in which they
// leave packing: four of each of the four vectors side by side.
template <int count, class Row, class Keep>
float finite_sum(const Row& scores, int64_t keys, float maximum, const Levels& levels, const Keep& keep) {
    const __m512 table = _mm512_loadu_ps(levels.exponentials.data());
    int64_t key = 0, odd = 0, upper = 0, both = 0;
    Vector sums = 0.0f;
    for (; key + 64 <= keys; key += 64) {
        __m512i whole[4];
        for (int part = 0; part < 4; ++part) whole[part] = places_of<count>(scores, key + part * width, Full{}, maximum, levels);
        const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]),
                                                  _mm512_packs_epi32(whole[2], whole[3]));
        keep(key, bytes);
        if constexpr (count == 4) {
            odd += std::popcount(static_cast<uint64_t>(_mm512_test_epi8_mask(bytes, _mm512_set1_epi8(1))));
            upper += std::popcount(static_cast<uint64_t>(_mm512_test_epi8_mask(bytes, _mm512_set1_epi8(2))));
            both += std::popcount(static_cast<uint64_t>(_mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(base + 3))));
        } else {
            for (int part = 0; part < 4; ++part) sums += Vector(_mm512_permutexvar_ps(whole[part], table));
        }
    }
    float sum = 0.0f;
    if constexpr (count == 4) {
        const auto& e = levels.exponentials;
        sum = static_cast<float>(key - odd - upper + both) * e[0] + static_cast<float>(odd - both) * e[1] +
              static_cast<float>(upper - both) * e[2] + static_cast<float>(both) * e[3];
    }
    const bool rest = key < keys;
    for (; key < keys; key += width) {
        const int64_t size = std::min(width, keys - key);
        sums += Vector(_mm512_maskz_permutexvar_ps(first(size), places_of<count>(scores, key, size, maximum, levels), table));
    }
    return count > 4 || rest ? sum + stdx::reduce(sums) : sum;
}

// A row of finite scores.
template <int count, class To, class Row>
void exaq_finite_row(const Row& scores, To to, int64_t keys, float maximum, const Levels& levels) {
    uint8_t* places = scratch<uint8_t>(keys + 64);
    const float sum = finite_sum<count>(scores, keys, maximum, levels, [&](int64_t key, __m512i bytes) {
        _mm512_storeu_si512(places + key, bytes);
    });
    const auto values = quotients(levels.exponentials, sum);
    const __m512 result = _mm512_loadu_ps(values.data());
    int64_t key = 0;
    for (; key + 64 <= keys; key += 64) {
        const __m512i bytes = _mm512_loadu_si512(places + key);
        for (int part = 0; part < 4; ++part) {
            const int none = static_cast<int>(0x80808000u), from = none + 4 * part;
            const __m512i spread = _mm512_set4_epi32(from + 3, from + 2, from + 1, from);
            put(to + key + part * width, Vector(_mm512_permutexvar_ps(_mm512_shuffle_epi8(bytes, spread), result)), Full{});
        }
    }
    for (; key < keys; key += width) {
        const int64_t size = std::min(width, keys - key);
        const __m512i some = places_of<count>(scores, key, size, maximum, levels);
        put(to + key, Vector(_mm512_permutexvar_ps(some, result)), size);
    }
}

#endif

// The largest score of a row, and whether all are finite.
template <class Row>
std::pair<float, bool> maximum_if_finite(const Row& scores, int64_t keys) {
    Chains highest = all_chains(-infinity), finite = all_chains(0.0f);  // 0 times what is not finite is NaN
    sweep(keys, [&](int64_t key, auto chain, auto size) {
        highest[chain] = larger(scores(key, size), highest[chain]);
        finite[chain] += scores(key, size, 0.0f) * 0.0f;
    });
    return {largest(highest), stdx::all_of((finite[0] + finite[1]) + (finite[2] + finite[3]) == 0.0f)};
}

template <int count, class To, class Row>
void exaq_row(const Row& scores, To to, int64_t keys, const Levels& levels) {
    const auto [maximum, finite] = maximum_if_finite(scores, keys);
    if (is_empty(scores, keys, maximum)) return fill_zero(to, keys);
#if defined(__AVX512BW__)
    if (finite) return exaq_finite_row<count>(scores, to, keys, maximum, levels);
#endif
    exaq_careful_row<count>(scores, to, keys, maximum, levels);
}
