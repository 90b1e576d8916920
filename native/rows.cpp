// Python bindings of the layout of rows, and of huge pages for results.
#include "rows.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <sys/mman.h>
#include <unistd.h>

#include "registry.hpp"

namespace softmaxkit {

namespace {

// Advises the kernel to back new memory with huge pages: one page fault each instead of 512.
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
