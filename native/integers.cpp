// Python bindings shared by the integer kernels of several methods: the reciprocal, and the table of score codes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "integer_arithmetic.hpp"
#include "integer_code_table.hpp"
#include "registry.hpp"

namespace softmaxkit {

namespace {

void code_table(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
                const CodeTable& table) {
    run_integer_rows<CodeTableRow>(from, to, mask, layout, threads, table);
}

const Registration registration([](nanobind::module_& m) {
    nanobind::class_<Reciprocal>(m, "Reciprocal")
        .def(nanobind::init<std::vector<int64_t>, std::vector<int64_t>, int, int, int, bool>());
    nanobind::class_<CodeTable>(m, "CodeTable")
        .def("__init__", [](CodeTable* self, std::vector<double> scales, int32_t lowest, int32_t highest,
                            uintptr_t probabilities) {
            new (self) CodeTable{std::move(scales), lowest, highest, pointer<float>(probabilities)};
        });
    m.def("integer_code_table_float32", &code_table, nanobind::call_guard<nanobind::gil_scoped_release>());
});

}  // namespace

}  // namespace softmaxkit
