// Python bindings of softmax over the levels of a table.
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

const Registration registration([](nanobind::module_& m) {
    define(m, "level_table", "float32", &level_table<float>);
    define(m, "level_table", "bfloat16", &level_table<bfloat16>);
});

}  // namespace

}  // namespace softmaxkit
