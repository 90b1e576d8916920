// Python bindings of softmax over the levels of a table, and of the gradient of levels.
#include "level_table.hpp"

#include <nanobind/stl/vector.h>

#include "registry.hpp"
#include "row_runner.hpp"

namespace softmaxkit {

namespace {

template <class T>
void level_table(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, float clip,
                 const std::vector<float>& entries) {
    const LevelTable table(clip, entries);
    run_rows<T>(from, to, mask, layout, threads, [&](const auto& scores, auto result, int64_t keys, const Place&) {
        level_table_row<T>(scores, result, keys, table);
    });
}

// Probabilities and their gradient have the layout of the result.
template <class T>
void levels_backward(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, float clip,
                     uintptr_t probabilities, uintptr_t gradient) {
    const auto row = [=](const auto& scores, T* result, int64_t keys, const Place& place) {
        levels_backward_row(scores, reinterpret_cast<const T*>(probabilities) + place.to,
                            reinterpret_cast<const T*>(gradient) + place.to, result, keys, clip);
    };
    run_rows<T, false>(from, to, mask, layout, threads, row);
}

template <class T>
void bind(nanobind::module_& m, const char* type) {
    define(m, "level_table", type, &level_table<T>);
    define(m, "levels_backward", type, &levels_backward<T>);
}

const Registration registration([](nanobind::module_& m) {
    for_all_types([&]<class T>(T, const char* type) { bind<T>(m, type); });
});

}  // namespace

}  // namespace softmaxkit
