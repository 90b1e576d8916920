// Python bindings of 8-bit attention. They receive addresses and a shape, and write the result to an address; the
// caller in Python checks the arguments.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include "attention.hpp"
#include "attention_stripe.hpp"
#include "registry.hpp"

namespace softmaxkit {

namespace {

template <class T>
void bind(nanobind::module_& m, const char* name) {
    using Of = Attention<AttentionStripe<T>>;
    bind_attention<AttentionStripe<T>>(
        m, name,
        [](Of* self, const Shape& shape, const Weights& weights, double scale, uintptr_t query, uintptr_t key,
           uintptr_t value, uintptr_t mask, uintptr_t result, int threads) {
            new (self) Of({arguments<T>(shape, scale, query, key, value, mask, result), weights}, threads);
        });
}

const Registration registration([](nanobind::module_& m) {
    using Strides = std::array<int64_t, 3>;
    nanobind::class_<Shape>(m, "AttentionShape")
        .def("__init__", [](Shape* self, std::array<int64_t, 7> sizes, Strides query, Strides key, Strides value,
                            Strides result, std::array<int64_t, 4> mask, bool masked, bool causal) {
            new (self) Shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6],
                           query, key, value, result, mask, masked, causal};
        });
    nanobind::class_<Weights>(m, "AttentionWeights")
        .def("__init__", [](Weights* self, int sets, int resolutions, int planes, uintptr_t tables, uintptr_t steps,
                            uintptr_t anchors, uintptr_t offsets, double limit, double one) {
            new (self) Weights{sets, resolutions, planes, reinterpret_cast<const uint8_t*>(tables),
                             reinterpret_cast<const double*>(steps), reinterpret_cast<const double*>(anchors),
                             reinterpret_cast<const float*>(offsets), limit, one};
        });
    nanobind::class_<Precision>(m, "Precision")
        .def_ro("finite", &Precision::finite)
        .def_ro("scores", &Precision::scores)
        .def_ro("values", &Precision::values);
    for_all_types([&]<class T>(T, const std::string& type) { bind<T>(m, ("Attention_" + type).c_str()); });
});

}  // namespace

}  // namespace softmaxkit
