// A few queries and their results as float32, whatever their type, and the queries in the frame of coded keys.
#pragma once

#include <type_traits>
#include <vector>

#include "attention_shape.hpp"
#include "quantise.hpp"

namespace softmaxkit {

// What was subtracted from keys before they were encoded, and the powers of 2 that then divided them
// (kernels/frame.py): contiguous, (batch or 1, key heads, channels); null for 0 and for 1.
struct Frame {
    const float *centre, *factor;
    int64_t stride;  // of the batch
};

// Calls visit(index, batch, head, query) for all queries.
void for_all_queries(const Shape& shape, const auto& visit) {
    for (int64_t index = 0; index < shape.batch * shape.heads * shape.queries; ++index) {
        const int64_t head = index / shape.queries;
        visit(index, head / shape.heads, head % shape.heads, index % shape.queries);
    }
}

// The strides of contiguous queries, or of their results.
inline std::array<int64_t, 3> contiguous(const Shape& shape, int64_t channels) {
    return {shape.heads * shape.queries * channels, shape.queries * channels, channels};
}

// Calls work(shape, queries, shifts, results) with contiguous queries, multiplied by the factors, and with what the
// centre adds to their scores, (batch, heads, queries), or null.
template <class Element>
bool in_float32(Shape shape, const Element* queries, Element* results, float scale, const Frame& frame,
                const auto& work) {
    std::vector<float> wide(shape.batch * shape.heads * shape.queries * shape.channels), shifts;
    if (frame.centre != nullptr) shifts.resize(shape.batch * shape.heads * shape.queries);
    for_all_queries(shape, [&](int64_t index, int64_t batch, int64_t head, int64_t query) {
        const Element* from = token(queries, shape.query, batch, head, query);
        const int64_t place = batch * frame.stride + head / (shape.heads / shape.key_heads) * shape.channels;
        float* to = wide.data() + index * shape.channels;
        for (int64_t channel = 0; channel < shape.channels; channel += width) {
            const int64_t rest = std::min(width, shape.channels - channel);
            store_some(to + channel, load_upto(from + channel, rest), rest);
        }
        if (frame.centre != nullptr) {
            shifts[index] = static_cast<float>(scale * product(from, frame.centre + place, shape.channels));
        }
        if (frame.factor == nullptr) return;
        for (int64_t channel = 0; channel < shape.channels; ++channel) to[channel] *= frame.factor[place + channel];
    });
    shape.query = contiguous(shape, shape.channels);
    const float* const of_queries = shifts.empty() ? nullptr : shifts.data();
    if constexpr (std::is_same_v<Element, float>) {
        return work(shape, wide.data(), of_queries, results);
    } else {
        const auto given = shape.result;
        shape.result = contiguous(shape, shape.value_channels);
        std::vector<float> sums(shape.batch * shape.heads * shape.queries * shape.value_channels);
        if (!work(shape, wide.data(), of_queries, sums.data())) return false;
        for_all_queries(shape, [&](int64_t index, int64_t batch, int64_t head, int64_t query) {
            Element* to = token(results, given, batch, head, query);
            const float* from = sums.data() + index * shape.value_channels;
            for (int64_t channel = 0; channel < shape.value_channels; channel += width) {
                const int64_t rest = std::min(width, shape.value_channels - channel);
                store_some(to + channel, load_upto(from + channel, rest), rest);
            }
        });
        return true;
    }
}

}  // namespace softmaxkit
