// Queries, keys and values rounded to bfloat16 and packed in pairs along the axis that is summed, the layout that AMX
// tiles multiply.
#pragma once

#include "integer_matrix.hpp"
#include "quantise.hpp"

namespace softmaxkit {

// Rounds up to 16 values to bfloat16, one in each 32-bit lane; clears `finite` if one is not finite.
template <class T>
__m512i halves(const T* from, int64_t count, bool& finite) {
    const __m512i bits = _mm512_cvtepu16_epi32(narrowed<bfloat16>(load_upto(from, count)));
    const __m512i exponent = _mm512_set1_epi32(0x7f80);
    finite = finite && _mm512_cmpeq_epi32_mask(_mm512_and_si512(bits, exponent), exponent) == 0;
    return bits;
}

// Packed keys and values of one head: keys (panels, pairs of channels, 64 keys), values (pairs of keys, columns).
struct PackedHead {
    int64_t pairs, columns;
    Buffer<uint32_t> keys, values;
    bool finite = true;

    PackedHead(int64_t count, int64_t channels, int64_t value_channels)
        : pairs(rounded_up((channels + 1) / 2, tiles::rows)), columns(rounded_up(value_channels, lanes)),
          keys(rounded_up(count, panel) * pairs), values(rounded_up(count, panel) / 2 * columns) {}
};

// Packs a row's channels in pairs.
template <class T>
void pack_pairs(const T* from, int64_t channels, uint32_t* pairs, bool& finite) {
    for (int64_t channel = 0; channel < channels; channel += width) {
        const __m512i bits = halves(from + channel, channels - channel, finite);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + channel / 2), _mm512_cvtepi32_epi16(bits));
    }
}

template <class T>
void pack_keys(const Tokens<T>& keys, PackedHead& to) {
    std::vector<uint32_t> row(to.pairs);
    for (int64_t key = 0; key < rounded_up(keys.count, panel); ++key) {
        if (key < keys.count) {
            pack_pairs(keys.at(key), keys.channels, row.data(), to.finite);
        } else {
            std::fill(row.begin(), row.end(), 0u);
        }
        uint32_t* pairs = to.keys.data() + key / panel * panel * to.pairs + key % panel;
        for (int64_t pair = 0; pair < to.pairs; ++pair) pairs[pair * panel] = row[pair];
    }
}

template <class T>
void pack_values(const Tokens<T>& values, PackedHead& to) {
    for (int64_t key = 0; key < rounded_up(values.count, panel); key += 2) {
        for (int64_t channel = 0; channel < to.columns; channel += lanes) {
            const auto value = [&](int64_t token) {
                if (token >= values.count) return _mm512_setzero_si512();
                return halves(values.at(token) + channel, values.channels - channel, to.finite);
            };
            const __m512i pairs = _mm512_or_si512(value(key), _mm512_slli_epi32(value(key + 1), 16));
            _mm512_store_si512(to.values.data() + key / 2 * to.columns + channel, pairs);
        }
    }
}

}  // namespace softmaxkit
