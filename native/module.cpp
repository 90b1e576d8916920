// The Python extension module of the kernels, built once for each instruction set.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "pool.hpp"
#include "registry.hpp"

namespace {

#if defined(__x86_64__)
// Whether the processor converts float16, by CPUID leaf 1. Every processor with AVX2 does, but a virtual machine may not.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29) != 0;
}

// Whether the processor has AVX-VNNI, by CPUID leaf 7.
bool has_avx_vnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4) != 0;
}
#endif

// Whether the processor has AMX-INT8, AMX-BF16 and AVX512-BF16, by CPUID leaf 7.
bool has_tiles() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr unsigned bfloat16 = 1u << 22, tile = 1u << 24, bytes = 1u << 25, all = bfloat16 | tile | bytes;
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & all) == all &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5) != 0;
#else
    return false;
#endif
}

// Requests permission for this process to use AMX tiles; returns why it was refused, or an empty string.
std::string refusal_of_tiles() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    if (syscall(SYS_arch_prctl, request, tile_data) == 0) return "";
    if (errno == ENOSPC) return "a thread's alternate signal stack is too small for them";
    return std::strerror(errno);
#else
    return "only Linux is supported";
#endif
}

// Builds whose instructions the processor has but the operating system refuses, with the reasons.
std::map<std::string, std::string> refused() {
    const std::string reason = has_tiles() ? refusal_of_tiles() : "";
    if (reason.empty()) return {};
    return {{"amx", "the system denies this process AMX tiles: " + reason}};
}

// The builds that this processor and its operating system support.
std::vector<std::string> supported() {
    std::vector<std::string> names{"plain"};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
        names.push_back("avx2");
        if (has_avx_vnni()) names.push_back("avx_vnni");
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        names.push_back("avx512_bw");
        const bool vnni = __builtin_cpu_supports("avx512vnni"), vbmi = __builtin_cpu_supports("avx512vbmi");
        if (vnni) names.push_back("avx512_vnni");
        if (vnni && vbmi) names.push_back("avx512");
        if (vnni && vbmi && has_tiles() && refused().empty()) names.push_back("amx");
    }
#elif defined(__aarch64__) && defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) names.push_back("neon");
#elif defined(__aarch64__) && defined(__APPLE__)
    names.push_back("neon");  // every Mac with an Arm processor has dot products
#endif
    return names;
}

}  // namespace

NB_MODULE(MODULE_NAME, m) {
    m.def("supported", &supported);
    m.def("refused", &refused);
    m.def("share_threads", &softmaxkit::share_threads);
    for (const softmaxkit::Binding bind : softmaxkit::bindings()) bind(m);
}
