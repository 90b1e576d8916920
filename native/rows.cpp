// The layout of rows as Python gives it, and memory for results.
#include "rows.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <sys/mman.h>
#include <unistd.h>

#include "registry.hpp"

namespace softmaxkit {

namespace {

// Lets new memory come in huge pages: one fault for each instead of 512.
void huge_pages(uintptr_t from, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), begin = (from + page - 1) / page * page;
    if (from + bytes <= begin) return;
    madvise(reinterpret_cast<void*>(begin), (from + bytes - begin) / page * page, MADV_HUGEPAGE);
#endif
}

const Registration registration([](nanobind::module_& m) {
    using Axes = std::array<int64_t, outer>;
    nanobind::class_<Layout>(m, "Layout")
        .def(nanobind::init<Axes, Axes, Axes, Axes, int64_t, int64_t, bool, bool>());
    m.def("huge_pages", &huge_pages);
});

}  // namespace

}  // namespace softmaxkit
