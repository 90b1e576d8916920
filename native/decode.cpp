// Python bindings of attention for a few queries: floating-point keys and values, or codes of a cache with their steps.
#include "decode.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include "in_float32.hpp"
#include "plain_tokens.hpp"
#include "registry.hpp"

#if defined(__AVX512BW__)
#include "integer_keys.hpp"
#include "integer_values.hpp"
#include "nibble_keys.hpp"
#include "nibble_values.hpp"
#elif defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
#include "coded_keys.hpp"
#include "coded_values.hpp"
#else
#include "widened_codes.hpp"
#endif

namespace softmaxkit {

namespace {

template <class Keys, class Values>
bool run(const FewQueries& queries, const Normalisation& how, const Keys& keys, const Values& values,
         const float* shifts, uintptr_t lengths, uintptr_t mask, float* result, int threads) {
    Decode<Keys, Values> decode(queries, how, keys, values, shifts, reinterpret_cast<const int64_t*>(lengths),
                                reinterpret_cast<const uint8_t*>(mask), result);
    return decode.run(threads);
}

template <class Element>
bool decode(const Shape& shape, const Normalisation& how, double scale, uintptr_t query, uintptr_t key, uintptr_t value,
            uintptr_t lengths, uintptr_t mask, uintptr_t result, int threads) {
    const auto work = [&](const Shape& wide, const float* rows, const float* shifts, float* results) {
        const FewQueries queries{wide, rows, static_cast<float>(scale)};
        const PlainKeys<Element> keys(queries, reinterpret_cast<const Element*>(key));
        const PlainValues<Element> values(queries, reinterpret_cast<const Element*>(value));
        return run(queries, how, keys, values, shifts, lengths, mask, results, threads);
    };
    return in_float32(shape, reinterpret_cast<const Element*>(query), reinterpret_cast<Element*>(result),
                      static_cast<float>(scale), Frame{}, work);
}

// Takes the codes from Python: addresses, the strides of the steps and, for paged caches, the page table and `pages`,
// its width and the tokens per page; and the frame of the keys.
template <int bits, class Element>
bool decode_codes(const Shape& shape, const Normalisation& how, double scale, uintptr_t query, uintptr_t key,
                  uintptr_t value, uintptr_t key_steps, uintptr_t value_steps, std::array<int64_t, 3> of_key_steps,
                  std::array<int64_t, 3> of_value_steps, uintptr_t table, std::array<int64_t, 2> pages,
                  uintptr_t centre, uintptr_t factor, int64_t frame_stride, uintptr_t lengths, uintptr_t mask,
                  uintptr_t result, int threads) {
    const auto codes_of = [&](uintptr_t codes, uintptr_t steps, const auto& strides, const auto& of_steps,
                              int64_t channels) {
        return Codes<bits>{reinterpret_cast<const typename Codes<bits>::Code*>(codes),
                           reinterpret_cast<const typename Codes<bits>::Step*>(steps), strides, of_steps, channels,
                           shape.keys, reinterpret_cast<const int64_t*>(table), pages[0], pages[1]};
    };
    const auto keys = codes_of(key, key_steps, shape.key, of_key_steps, shape.channels);
    const auto values = codes_of(value, value_steps, shape.value, of_value_steps, shape.value_channels);
    const auto work = [&](const Shape& wide, const float* rows, const float* shifts, float* results) {
        const FewQueries queries{wide, rows, static_cast<float>(scale)};
        return run(queries, how, CodedKeys<bits>(queries, keys), CodedValues<bits>(queries, values), shifts, lengths,
                   mask, results, threads);
    };
    const Frame frame{reinterpret_cast<const float*>(centre), reinterpret_cast<const float*>(factor), frame_stride};
    return in_float32(shape, reinterpret_cast<const Element*>(query), reinterpret_cast<Element*>(result),
                      static_cast<float>(scale), frame, work);
}

const Registration registration([](nanobind::module_& m) {
    const auto without_gil = nanobind::call_guard<nanobind::gil_scoped_release>();
    nanobind::class_<Normalisation>(m, "Normalisation")
        .def("__init__", [](Normalisation* self, const std::vector<float>& clips,
                            const std::vector<std::vector<float>>& levels, uintptr_t offsets, float limit,
                            bool logistic, float rate) {
            new (self) Normalisation{.offsets = reinterpret_cast<const float*>(offsets), .limit = limit,
                                     .logistic = logistic, .rate = rate};
            for (size_t set = 0; set < levels.size(); ++set) {
                if (Levels::are_few(levels[set].size())) {
                    self->few.emplace_back(clips[set], levels[set]);
                } else {
                    self->tables.emplace_back(clips[set], levels[set]);
                }
            }
        });
    for_all_types([&]<class T>(T, const std::string& type) {
        m.def(("decode_" + type).c_str(), &decode<T>, without_gil);
        m.def(("decode_codes8_" + type).c_str(), &decode_codes<8, T>, without_gil);
        m.def(("decode_codes4_" + type).c_str(), &decode_codes<4, T>, without_gil);
    });
});

}  // namespace

}  // namespace softmaxkit
