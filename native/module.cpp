// The kernels as a Python module: pointers and layouts in, results where the caller wants them. Python checks what is given.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "exact.hpp"
#include "pool.hpp"
#include "rows.hpp"

namespace nb = nanobind;

namespace {

constexpr int64_t least_work = 1 << 14;  // elements below which another thread takes longer to wake than to help

template <class T>
void exact(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads) {
    const auto work = [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const Place at = place(layout, row);
            const int64_t seen = std::min(at.seen, layout.keys);
            T* result = reinterpret_cast<T*>(to) + at.to;
            const uint8_t* bits = layout.masked ? reinterpret_cast<const uint8_t*>(mask) + at.mask : nullptr;
            int64_t attended = seen;
            if (bits != nullptr && layout.mask_key == 0) {  // one for all keys
                if (*bits == 0) attended = 0;
                bits = nullptr;
            }
            exact_row(reinterpret_cast<const T*>(from) + at.from, result, bits, attended);
            fill_zero(result + attended, layout.keys - attended);
        }
    };
    const int64_t least = std::max<int64_t>(1, least_work / std::max<int64_t>(layout.keys, 1));
    parallel_for(layout.rows(), least, threads, work);
}

// The instruction sets, of those that kernels are built for, that this processor and its system have.
std::vector<std::string> supported() {
    std::vector<std::string> found{"plain"};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back("avx2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
        found.push_back("avx512");
    }
#endif
    return found;
}

}  // namespace

NB_MODULE(MODULE_NAME, m) {
    nb::class_<Layout>(m, "Layout")
        .def(nb::init<std::array<int64_t, outer>, std::array<int64_t, outer>, std::array<int64_t, outer>,
                      std::array<int64_t, outer>, int64_t, int64_t, bool, bool>());
    m.attr("width") = width;
    m.def("supported", &supported);
    m.def("exact_float32", &exact<float>, nb::call_guard<nb::gil_scoped_release>());
    m.def("exact_bfloat16", &exact<bfloat16>, nb::call_guard<nb::gil_scoped_release>());
}
