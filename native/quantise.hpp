// Quantisation to symmetric 8-bit codes, to nearest with ties to even: element-wise operations, and the statistics of
// tokens from which steps are computed.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "access.hpp"

namespace softmaxkit {

constexpr float largest_code = 127.0f;
constexpr float least_magnitude = 1e-30f;  // smaller values count as 0: the inverse of their step overflows float32

inline Vector load(const int8_t* from) {
#if defined(__AVX512F__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return Vector(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
#elif defined(__aarch64__)
    int32_t bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    const int8x8_t four = vreinterpret_s8_s32(vdup_n_s32(bytes));
    return Vector(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four)))));
#else
    using Bytes = stdx::rebind_simd_t<int8_t, Vector>;
    return stdx::static_simd_cast<Vector>(Bytes(from, stdx::element_aligned));
#endif
}

// Stores the lowest byte of each integer.
inline void store_bytes(void* to, const Integers& values) {
#if defined(__AVX512F__)
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtepi32_epi8(static_cast<__m512i>(values)));
#elif defined(__AVX2__)
    const __m256i lowest = _mm256_set1_epi32(0x0c080400);
    const __m256i bytes = _mm256_shuffle_epi8(static_cast<__m256i>(values), lowest);
    const __m128i upper = _mm256_extracti128_si256(bytes, 1);
    _mm_storel_epi64(static_cast<__m128i*>(to), _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), upper));
#elif defined(__aarch64__)
    const int16x4_t words = vmovn_s32(static_cast<int32x4_t>(values));
    const int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(words, words))), 0);
    std::memcpy(to, &bytes, sizeof bytes);
#else
    stdx::static_simd_cast<stdx::rebind_simd_t<int8_t, Vector>>(values).copy_to(static_cast<int8_t*>(to),
                                                                               stdx::element_aligned);
#endif
}

// Loads a vector, zero-padded if `count` is below its width.
template <class T>
SOFTMAXKIT_INLINE Vector load_upto(const T* from, int64_t count) {
#if defined(__AVX512F__)
    return load_some(from, std::min(count, width), 0.0f);
#else
    if (count >= width) return load(from);
    T some[width] = {};
    std::copy_n(from, count, some);
    return load(some);
#endif
}

// The product of a query with the mean of keys, in float64.
template <class T>
double product(const T* query, const float* mean, int64_t channels) {
    constexpr int64_t chains = 8;
    std::array<double, chains> sums{};
    int64_t channel = 0;
    for (; channel + chains <= channels; channel += chains) {
        for (int64_t chain = 0; chain < chains; ++chain) {
            sums[chain] += double{to_float(query[channel + chain])} * double{mean[channel + chain]};
        }
    }
    for (; channel < channels; ++channel) sums[0] += double{to_float(query[channel])} * double{mean[channel]};
    return std::accumulate(sums.begin(), sums.end(), 0.0);
}

SOFTMAXKIT_INLINE Vector magnitude(const Vector& value) { return stdx::max(value, -value); }

inline Integers rounded(const Vector& value) {
#if defined(__AVX512F__)
    return Integers(_mm512_cvtps_epi32(static_cast<__m512>(value)));
#elif defined(__AVX2__)
    return Integers(_mm256_cvtps_epi32(static_cast<__m256>(value)));
#elif defined(__aarch64__)
    return Integers(vcvtnq_s32_f32(static_cast<float32x4_t>(value)));
#else
    return stdx::static_simd_cast<Integers>(stdx::nearbyint(value));
#endif
}

// The factors that turn values into codes, given the largest magnitudes.
inline Vector inverse_steps(const Vector& largest) {
    Vector inverses = 0.0f;
    replace(inverses, largest > least_magnitude, largest_code / largest);
    return inverses;
}

// Tokens of one head.
template <class T>
struct Tokens {
    const T* from;
    int64_t stride, count, channels;
    const uint8_t* seen;  // a byte per token, 0 if no query attends to it; null if all are attended

    const T* at(int64_t token) const { return from + token * stride; }
    bool is_seen(int64_t token) const { return seen == nullptr || seen[token]; }
    int64_t seen_count() const {
        return seen == nullptr ? count : count - std::count(seen, seen + count, uint8_t(0));
    }
};

// Statistics of a vector of channels over all attended tokens.
struct Column {
    Vector sum = 0.0f, sizes = 0.0f, low = infinity, high = -infinity;

    SOFTMAXKIT_INLINE void add(const Vector& value) {
        sum += value;
        sizes += magnitude(value);
        low = stdx::min(low, value);
        high = stdx::max(high, value);
    }

    void join(const Column& other) {
        sum += other.sum;
        sizes += other.sizes;
        low = stdx::min(low, other.low);
        high = stdx::max(high, other.high);
    }
};

// Statistics of the tokens from `begin` to `end`. Adds token by token, so that sums do not depend on the vector width.
template <class T>
std::vector<Column> statistics_of_run(const Tokens<T>& tokens, int64_t begin, int64_t end) {
    constexpr int64_t together = width > 4 ? 2 : 4;  // a cache line or two, whose statistics fit into the registers
    std::vector<Column> columns((tokens.channels + width - 1) / width);
    int64_t channel = 0;
    for (; channel + together * width <= tokens.channels; channel += together * width) {
        std::array<Column, together> some;
        for (int64_t token = begin; token < end; ++token) {
            if (!tokens.is_seen(token)) continue;
            const T* from = tokens.at(token) + channel;
            for (int64_t part = 0; part < together; ++part) some[part].add(load(from + part * width));
        }
        // One by one: copied as a whole, they would be kept in memory all along.
        for (int64_t part = 0; part < together; ++part) columns[channel / width + part] = some[part];
    }
    for (; channel < tokens.channels; channel += width) {
        Column column;
        for (int64_t token = begin; token < end; ++token) {
            if (tokens.is_seen(token)) column.add(load_upto(tokens.at(token) + channel, tokens.channels - channel));
        }
        columns[channel / width] = column;
    }
    return columns;
}

// Adds runs of tokens: a float32 sum of millions would absorb what is added to it.
template <class T>
std::vector<Column> column_statistics(const Tokens<T>& tokens) {
    constexpr int64_t run = 4096;
    std::vector<Column> columns = statistics_of_run(tokens, 0, std::min(run, tokens.count));
    for (int64_t begin = run; begin < tokens.count; begin += run) {
        const std::vector<Column> more = statistics_of_run(tokens, begin, std::min(begin + run, tokens.count));
        for (size_t index = 0; index < columns.size(); ++index) columns[index].join(more[index]);
    }
    return columns;
}

}  // namespace softmaxkit
