// The kernels as a Python module, once for each instruction set.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "pool.hpp"
#include "registry.hpp"

namespace {

// The instruction sets, of those that kernels are built for, that this processor and its system have.
std::vector<std::string> supported() {
    std::vector<std::string> names{"plain"};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) names.push_back("avx2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi") &&  // Ice Lake, Zen 4 and later
        __builtin_cpu_supports("avx512vnni")) {
        names.push_back("avx512");
    }
#endif
    return names;
}

}  // namespace

NB_MODULE(MODULE_NAME, m) {
    m.def("supported", &supported);
    m.def("share_threads", &softmaxkit::share_threads);
    for (const softmaxkit::Binding bind : softmaxkit::bindings()) bind(m);
}
