// Python bindings of softmax over a few levels, with probabilities written out or packed.
#include "levels.hpp"

#include <nanobind/stl/vector.h>

#include "levels_packed.hpp"
#include "registry.hpp"
#include "row_runner.hpp"

namespace softmaxkit {

namespace {

template <class T>
void levels(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, float clip,
            const std::vector<float>& exponentials) {
    const Levels all(clip, exponentials);
    with_count(all, [&](auto count) {
        run_rows<T>(from, to, mask, layout, threads, [&](const auto& scores, auto result, int64_t keys, const Place&) {
            levels_row<count>(scores, result, keys, all);
        });
    });
}

// For each row, writes packed `codes`, one probability per level, and `is_finite`: false if a score is infinite or NaN,
// which has no level, so that nothing else was written.
template <class T>
void levels_packed(uintptr_t from, uintptr_t codes, uintptr_t probabilities, uintptr_t is_finite, int64_t rows,
                   int64_t keys, int threads, float clip, const std::vector<float>& exponentials) {
    const Levels all(clip, exponentials);
    with_count(all, [&](auto count) {
        const int64_t bytes = (keys + codes_in_byte<count> - 1) / codes_in_byte<count>;
        parallel_for(rows, least_rows(keys), threads, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                const Scores<T, false> scores{reinterpret_cast<const T*>(from) + row * keys, nullptr};
                reinterpret_cast<bool*>(is_finite)[row] =
                    levels_packed_row<count>(scores, reinterpret_cast<uint8_t*>(codes) + row * bytes,
                                             reinterpret_cast<float*>(probabilities) + row * count, keys, all);
            }
        });
    });
}

template <class T>
void bind(nanobind::module_& m, const char* type) {
    define(m, "levels", type, &levels<T>);
    define(m, "levels_packed", type, &levels_packed<T>);
}

const Registration registration([](nanobind::module_& m) {
    for_all_types([&]<class T>(T, const char* type) { bind<T>(m, type); });
});

}  // namespace

}  // namespace softmaxkit
