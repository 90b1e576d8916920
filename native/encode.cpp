// Quantisation of keys and values to the codes of a cache (codes.hpp), bit-identical to kernels/encode.py.
#include <atomic>

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include "codes.hpp"
#include "registry.hpp"
#include "row_runner.hpp"

namespace softmaxkit {

namespace {

// Writes (token - centre) / factor, zero-padded to whole vectors; centre and factor may be null. Returns false if a
// result is not finite.
template <class T>
bool framed(const T* from, const float* centre, const float* factor, int64_t channels, float* to) {
    bool finite = true;
    for (int64_t channel = 0; channel < channels; channel += width) {
        const int64_t rest = channels - channel;
        Vector value = load_upto(from + channel, rest);
        if (centre != nullptr) value -= load_upto(centre + channel, rest);
        if (factor != nullptr) {
            Vector divisor = load_upto(factor + channel, rest);
            replace(divisor, divisor == 0.0f, 1.0f);  // beyond the last channel
            value /= divisor;
        }
        finite = finite && stdx::all_of(magnitude(value) < infinity);
        store(to + channel, value);
    }
    return finite;
}

float largest_magnitude(const float* values, int64_t count) {
    Vector largest = 0.0f;
    for (int64_t index = 0; index < count; index += width) {
        largest = stdx::max(largest, magnitude(load(values + index)));
    }
    return stdx::hmax(largest);
}

float inverse(float step) { return std::fabs(step) > least_magnitude ? 1.0f / step : 0.0f; }

// Writes 8-bit codes and their step. `values` are zero-padded to whole vectors.
void write_codes(const float* values, int64_t channels, int8_t* codes, float* step, int64_t) {
    *step = largest_magnitude(values, channels) / largest_code;
    const float factor = inverse(*step);
    for (int64_t channel = 0; channel < channels; channel += width) {
        int8_t some[width];
        store_bytes(some, rounded(load(values + channel) * factor));
        std::copy_n(some, std::min(width, channels - channel), codes + channel);
    }
}

// Rounds to bfloat16 away from zero, or toward zero if the result would be infinite.
bfloat16 away_from_zero(float value) {
    const auto bits = std::bit_cast<uint32_t>(value), up = bits + 0xffff;
    const bool finite = std::isfinite(std::bit_cast<float>(up & 0xffff0000u));
    return {static_cast<uint16_t>((finite ? up : bits) >> 16)};
}

// Writes 4-bit codes and the steps of their groups of channels, `stride` elements apart. `values` are zero-padded to
// whole groups.
void write_codes(const float* values, int64_t channels, uint8_t* codes, bfloat16* steps, int64_t stride) {
    for (int64_t first = 0; first < channels; first += channels_of_step, values += channels_of_step, steps += stride) {
        const float largest = largest_magnitude(values, channels_of_step);
        const float* at = std::find_if(values, values + channels_of_step - 1,
                                       [&](float value) { return std::fabs(value) == largest; });
        *steps = away_from_zero(*at / -8.0f);
        const float factor = inverse(to_float(*steps));
        int8_t whole[channels_of_step];
        for (int64_t channel = 0; channel < channels_of_step; channel += width) {
            const Vector code = stdx::clamp(load(values + channel) * factor, Vector(-8.0f), Vector(7.0f));
            store_bytes(whole + channel, rounded(code) + 8);
        }
        const int64_t pairs = (std::min(channels_of_step, channels - first) + 1) / 2;
        for (int64_t pair = 0; pair < pairs; ++pair) {
            codes[first / 2 + pair] = static_cast<uint8_t>(whole[2 * pair] | whole[2 * pair + 1] << 4);
        }
    }
}

// Strides are in elements; centre and factor are (batch or 1, heads, channels), contiguous, and `frame_stride` is that of
// their batch. With `slots`, int64 of each token of a single sequence, the codes are a pool of pages of `block` tokens.
// Returns false if a value is not finite; codes are then invalid. Without steps, that is all it does.
template <class T, int bits>
bool encode(const std::array<int64_t, 4>& sizes, uintptr_t from, const std::array<int64_t, 3>& strides,
            uintptr_t centre, uintptr_t factor, int64_t frame_stride, uintptr_t codes,
            const std::array<int64_t, 3>& code_strides, uintptr_t steps, const std::array<int64_t, 3>& step_strides,
            uintptr_t slots, int64_t block, int threads) {
    const int64_t batch = sizes[0], heads = sizes[1], tokens = sizes[2], channels = sizes[3];
    auto* const to = reinterpret_cast<typename Codes<bits>::Code*>(codes);
    auto* const step = reinterpret_cast<typename Codes<bits>::Step*>(steps);
    const auto* const slot = reinterpret_cast<const int64_t*>(slots);
    std::atomic<bool> finite = true;
    parallel_for(batch * heads * tokens, least_rows(channels), threads, [&](int64_t first, int64_t last) {
        std::vector<float> values(rounded_up(channels, std::max(channels_of_step, width)));
        for (int64_t row = first; row < last; ++row) {
            const int64_t row_head = row / tokens, index = row % tokens;
            const int64_t sequence = row_head / heads, head = row_head % heads;
            const auto of_head = [&](uintptr_t all) {
                return all == 0 ? nullptr
                                : reinterpret_cast<const float*>(all) + sequence * frame_stride + head * channels;
            };
            const T* source = token(reinterpret_cast<const T*>(from), strides, sequence, head, index);
            if (!framed(source, of_head(centre), of_head(factor), channels, values.data())) finite = false;
            if (step == nullptr) continue;
            const int64_t page = slot == nullptr ? sequence : slot[index] / block;
            const int64_t place = slot == nullptr ? index : slot[index] % block;
            write_codes(values.data(), channels, token(to, code_strides, page, head, place),
                        token(step, step_strides, page, head, 0) + place, step_strides[2]);
        }
    });
    return finite;
}

template <class T>
void bind(nanobind::module_& m, const char* type) {
    define(m, "encode8", type, &encode<T, 8>);
    define(m, "encode4", type, &encode<T, 4>);
}

const Registration registration([](nanobind::module_& m) {
    for_all_types([&]<class T>(T, const char* type) { bind<T>(m, type); });
});

}  // namespace

}  // namespace softmaxkit
