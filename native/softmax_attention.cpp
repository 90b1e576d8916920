// Python bindings of softmax attention, in builds with AMX tiles only. They receive addresses and a shape, and write
// the result to an address; the caller in Python checks the arguments.
#include "softmax_attention.hpp"

#include <nanobind/nanobind.h>

#include "registry.hpp"

namespace softmaxkit {

namespace {

template <class T>
bool softmax_attention(const Shape& shape, double scale, uintptr_t query, uintptr_t key, uintptr_t value,
                       uintptr_t mask, uintptr_t result, int threads) {
    return SoftmaxAttention<T>(shape, scale, reinterpret_cast<const T*>(query), reinterpret_cast<const T*>(key),
                               reinterpret_cast<const T*>(value), reinterpret_cast<const uint8_t*>(mask),
                               reinterpret_cast<T*>(result), threads)
        .run();
}

const Registration registration([](nanobind::module_& m) {
    const nanobind::call_guard<nanobind::gil_scoped_release> guard;
    m.def("softmax_attention_float32", &softmax_attention<float>, guard);
    m.def("softmax_attention_bfloat16", &softmax_attention<bfloat16>, guard);
});

}  // namespace

}  // namespace softmaxkit
